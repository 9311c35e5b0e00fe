//! What came of each attempt: a line with its name, `done` or `refused`, and how.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where the lines go.
pub(crate) struct Report(Box<dyn Write>);

impl Report {
    pub(crate) fn to_stdout() -> Self {
        Self(Box::new(io::stdout()))
    }

    /// A file that gets its name when it is complete.
    pub(crate) fn to_file(path: &Path, fill: impl FnOnce(&mut Self)) {
        let part = path.with_extension("part");
        let Ok(file) = File::create(&part) else { return };
        let mut report = Self(Box::new(file));
        fill(&mut report);
        drop(report);
        let _ = std::fs::rename(part, path);
    }

    /// One attempt.
    pub(crate) fn tell(&mut self, name: &str, outcome: io::Result<String>) {
        let (word, how) = match outcome {
            Ok(how) => ("done", how),
            Err(error) => ("refused", error.to_string()),
        };
        let _ = writeln!(self.0, "{name}\t{word}\t{}", how.replace(['\n', '\t'], " "));
        let _ = self.0.flush();
    }
}

/// The result of a system call.
pub(crate) fn called(result: impl Into<i64>) -> io::Result<String> {
    match result.into() {
        0.. => Ok(String::new()),
        _ => Err(io::Error::last_os_error()),
    }
}
