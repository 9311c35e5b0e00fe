//! What could not be tested here, said and counted.

use std::{fs::OpenOptions, io::Write, path::PathBuf, thread};

use crate::layer::layer;

/// The file, beside the tests' own binaries, that lists what was skipped: one line each, over all test programs.
pub const SKIPPED: &str = "skipped-tests.txt";

/// Names a further file for the reasons alone, for whoever runs one test and wants to know.
pub(crate) const SKIPS: &str = "AGENT_TESTS_SKIPS";

/// Says that the test of this thread, or a part of it, cannot be done here, and why.
pub fn skip(why: &str) {
    let thread = thread::current();
    let line = format!("skipped on {}: {}: {why}\n", layer().name, thread.name().unwrap_or("a test"));
    eprint!("{line}");
    let list = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.join(SKIPPED)));
    let asked_for = std::env::var_os(SKIPS).map(PathBuf::from);
    for (path, line) in [(list, line), (asked_for, format!("{why}\n"))] {
        let file = path.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
        if let Some(mut file) = file {
            // A skip that cannot be counted was still said.
            let _ = file.write_all(line.as_bytes());
        }
    }
}
