//! What could not be tested here, said and counted.

use std::{fs::OpenOptions, io::Write, thread};

/// The file, beside the tests' own binaries, that lists what was skipped: one line each, over all test programs.
pub const SKIPPED: &str = "skipped-tests.txt";

/// Says that the test of this thread, or a part of it, cannot be done here, and why.
pub fn skip(why: &str) {
    let thread = thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    let list = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.join(SKIPPED)));
    let file = list.and_then(|list| OpenOptions::new().create(true).append(true).open(list).ok());
    if let Some(mut file) = file {
        // A skip that cannot be counted was still said.
        let _ = file.write_all(line.as_bytes());
    }
}
