//! What a layer's own process writes down about a start, one JSON object a line.
//!
//! ```text
//! {"layer-pid": 6}                                     the layer's program, where what it begins can outlive it unknown
//! {"child-pid": 7}                                     init, or the machine that it is in, as the host numbers it
//! {"part": "virtiofsd", "pid": 8}                      a process that it cannot do without
//! {"died": "virtiofsd", "how": "killed by signal 9"}   what ended first, where it was not init in order
//! {"exit-code": 0}                                     how init ended, 128 + N for signal N
//! ```
//!
//! The first word counts: a line that comes later, from a machine that writes its own end into the record, changes nothing.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::{Died, Part, Report};

/// More parts than any layer has; further ones are left out.
const MAX_PARTS: usize = 8;

/// Longest word that is taken over.
const MAX_WORD_CHARS: usize = 64;

/// What the file says so far; nothing where there is none.
pub(super) fn read(path: &Path) -> io::Result<Report> {
    match fs::read(path) {
        Ok(record) => Ok(parse(&String::from_utf8_lossy(&record))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Report::default()),
        Err(error) => Err(error),
    }
}

fn parse(record: &str) -> Report {
    let mut report = Report::default();
    for line in record.lines() {
        // The last line may be cut short: it is being written.
        let Ok(object) = serde_json::from_str::<Value>(line) else { continue };
        let number = |key: &str| object[key].as_i64().and_then(|number| i32::try_from(number).ok());
        report.init_pid = report.init_pid.or(number("child-pid"));
        report.layer_pid = report.layer_pid.or(number("layer-pid"));
        report.exit_code = report.exit_code.or(number("exit-code"));
        if let (Some(name), Some(pid)) = (word(&object["part"]), number("pid"))
            && report.parts.len() < MAX_PARTS
            && report.parts.iter().all(|part| part.name != name)
        {
            report.parts.push(Part { name, pid });
        }
        if let (None, Some(part)) = (&report.died, word(&object["died"])) {
            let how = word(&object["how"]).unwrap_or_else(|| "nobody knows how".to_owned());
            report.died = Some(Died { part, how });
        }
    }
    report
}

fn word(value: &Value) -> Option<String> {
    let plain = |char: &char| !char.is_control();
    value.as_str().map(|text| text.chars().filter(plain).take(MAX_WORD_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_far_as_it_was_written() {
        assert_eq!(parse(""), Report::default());
        let launched = Report { layer_pid: Some(76), ..Report::default() };
        assert_eq!(parse("{\"layer-pid\": 76}\n{ \"child-pid\": 77"), launched);
        let begun = Report { init_pid: Some(77), ..Report::default() };
        let started = "{ \"child-pid\": 77, \"ipc-namespace\": 4026532263 }\n";
        assert_eq!(parse(started), begun);
        assert_eq!(parse(&format!("{started}{{ \"exit-c")), begun);
        let ended = format!("{started}{{ \"exit-code\": 143 }}\n");
        assert_eq!(parse(&ended), Report { exit_code: Some(143), ..begun });
    }

    #[test]
    fn parts_and_the_one_that_died_are_told_once() {
        let record = r#"{"part": "virtiofsd", "pid": 8}
{"part": "qemu", "pid": 9}
{"child-pid": 9}
{"died": "virtiofsd", "how": "killed by signal 9"}
{"child-pid": 1}
{"part": "virtiofsd", "pid": 1}
{"died": "qemu", "how": "exited"}
"#;
        let part = |name: &str, pid| Part { name: name.to_owned(), pid };
        let died = Died { part: "virtiofsd".to_owned(), how: "killed by signal 9".to_owned() };
        let parts = vec![part("virtiofsd", 8), part("qemu", 9)];
        assert_eq!(parse(record), Report { init_pid: Some(9), parts, died: Some(died), ..Report::default() });
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        let many: String = (0..100).map(|n| format!("{{\"part\": \"p{n}\", \"pid\": 5}}\n")).collect();
        assert_eq!(parse(&many).parts.len(), MAX_PARTS);
        let long = parse(&format!("{{\"died\": \"{}\\u001b[2J\"}}", "x".repeat(1000)));
        assert_eq!(long.died.unwrap().part.len(), MAX_WORD_CHARS);
    }
}
