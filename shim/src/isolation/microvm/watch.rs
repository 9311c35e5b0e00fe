//! A machine while it runs: its output is kept, its parts are watched, and the end of one is the end of all.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use super::calls::Calls;
use super::job::OWN;
use super::launcher::WORDS;
use super::output::{LastWord, Log};
use super::parts::{Ended, Parts, words};
use super::plan::NOT_YET;
use crate::isolation::launcher::{Failed, failed};

/// How much of the machine's output is passed on beside the log, to explain a start that fails.
const SHOWN_MAX_BYTES: usize = 8 * 1024;

/// Before each line of the machine's output.
pub(super) const CONSOLE: &str = "console: ";

/// Returns when the machine and all its parts are gone. The result is init's exit code, as far as it is known.
pub(super) fn until_the_end(
    parts: &mut Parts,
    mut calls: Option<Calls>,
    console: UnixStream,
    report: UnixStream,
    log: Log,
) -> Result<Option<u8>, Failed> {
    let doing = || failed("watching the machine");
    let mut output = Output { log, shown: 0, line_begins: true };
    let mut last_word = LastWord::default();
    let mut lines = [Some(console), Some(report)];
    for line in lines.iter().flatten() {
        line.set_nonblocking(true).map_err(doing())?;
    }
    let mut open = false;
    let first = loop {
        {
            let mut fds = parts.to_watch();
            fds.extend(calls.iter().flat_map(Calls::to_watch));
            fds.extend(lines.iter().flatten().map(|line| PollFd::new(line, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(doing()(error.into())),
            }
        }
        read(&mut lines[0], |bytes| output.add(bytes));
        read(&mut lines[1], |bytes| last_word.hear(bytes));
        if last_word.ready && !open {
            open = true;
            // Where the host's kernel takes the calls there is no such mark.
            drop(fs::remove_file(Path::new(OWN).join(NOT_YET)));
        }
        calls.iter_mut().for_each(Calls::turn);
        parts.listen();
        if let Some(ended) = parts.ended().map_err(doing())? {
            break ended;
        }
    };
    parts.end();
    let Ended { name, how, is_machine } = parts.cause(first).map_err(doing())?;
    // What was written last.
    read(&mut lines[0], |bytes| output.add(bytes));
    read(&mut lines[1], |bytes| last_word.hear(bytes));
    // In order, the machine is the first to end, after init has said how that did.
    if !is_machine || last_word.code.is_none() {
        parts.note(&json!({ "died": name, "how": words(how) }))?;
    }
    if !is_machine || how.exit_status() != Some(0) {
        eprintln!("{WORDS}{name} ended ({})", words(how));
    }
    let killed = how.terminating_signal().filter(|_| is_machine);
    Ok(last_word.code.or(killed.and_then(|signal| u8::try_from(128 + signal).ok())))
}

/// Takes what is there, and lets go of a line that has ended.
fn read(line: &mut Option<UnixStream>, mut take: impl FnMut(&[u8])) {
    let mut chunk = [0; 16 * 1024];
    // A machine that never stops writing is not waited for.
    for _ in 0..64 {
        let Some(open) = line else { return };
        match open.read(&mut chunk) {
            Ok(0) => *line = None,
            Ok(bytes) => take(&chunk[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => *line = None,
        }
    }
}

/// The machine's output.
struct Output {
    log: Log,
    shown: usize,
    line_begins: bool,
}

impl Output {
    fn add(&mut self, bytes: &[u8]) {
        self.log.add(bytes);
        let shown = &bytes[..bytes.len().min(SHOWN_MAX_BYTES - self.shown)];
        self.shown += shown.len();
        let mut marked = Vec::with_capacity(shown.len() + 64);
        for &byte in shown {
            if self.line_begins {
                marked.extend(CONSOLE.as_bytes());
            }
            marked.push(byte);
            self.line_begins = byte == b'\n';
        }
        drop(io::stderr().write_all(&marked));
    }
}
