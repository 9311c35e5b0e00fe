//! What a layer's own process writes down about a start, one JSON object a line.

use std::fs;
use std::io;
use std::path::Path;

use super::Report;

/// What the file says so far; nothing where there is none.
pub(super) fn read(path: &Path) -> io::Result<Report> {
    match fs::read_to_string(path) {
        Ok(record) => Ok(parse(&record)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Report::default()),
        Err(error) => Err(error),
    }
}

/// `{ "child-pid": 7, ... }` at the start and `{ "exit-code": 0 }` at the end.
fn parse(record: &str) -> Report {
    let mut report = Report::default();
    for line in record.lines() {
        // The last line may be cut short: it is being written.
        let Ok(object) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let number = |key: &str| object[key].as_i64().and_then(|number| i32::try_from(number).ok());
        report.init_pid = report.init_pid.or(number("child-pid"));
        report.exit_code = report.exit_code.or(number("exit-code"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_far_as_it_was_written() {
        assert_eq!(parse(""), Report::default());
        let started = "{ \"child-pid\": 77, \"ipc-namespace\": 4026532263 }\n";
        assert_eq!(parse(started), Report { init_pid: Some(77), exit_code: None });
        assert_eq!(parse(&format!("{started}{{ \"exit-c")), Report { init_pid: Some(77), exit_code: None });
        let ended = format!("{started}{{ \"exit-code\": 143 }}\n");
        assert_eq!(parse(&ended), Report { init_pid: Some(77), exit_code: Some(143) });
    }
}
