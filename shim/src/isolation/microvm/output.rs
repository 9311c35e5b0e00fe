//! What comes out of a machine: kept within bounds, whatever is written inside, and never waited for.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What a log may grow to before its older half goes.
const LOG_MAX_BYTES: u64 = 1024 * 1024;
/// What stays of it then.
const LOG_KEPT_BYTES: u64 = LOG_MAX_BYTES / 2;
/// What is passed on of the words of all parts; who writes more is not heard any more.
const WORDS_MAX_BYTES: usize = 64 * 1024;
/// Longest line that init can report by.
const LINE_MAX_BYTES: usize = 256;

/// A log that holds the newest of what was written.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    bytes: u64,
}

impl Log {
    /// A log in this file, which is read and written to.
    pub(super) fn new(file: File) -> io::Result<Log> {
        file.set_len(0)?;
        Ok(Log { file, bytes: 0 })
    }

    /// Adds to it. What cannot be written, on a full disk, is lost.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if self.bytes + bytes.len() as u64 > LOG_MAX_BYTES && self.shorten().is_err() {
            return;
        }
        if self.file.write_all_at(bytes, self.bytes).is_ok() {
            self.bytes += bytes.len() as u64;
        }
    }

    fn shorten(&mut self) -> io::Result<()> {
        let kept = self.last(usize::try_from(LOG_KEPT_BYTES).unwrap_or(0))?;
        self.file.set_len(0)?;
        self.bytes = 0;
        self.file.write_all_at(&kept, 0)?;
        self.bytes = kept.len() as u64;
        Ok(())
    }

    /// The last so many bytes.
    pub(super) fn last(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut kept = Vec::new();
        self.file.seek(SeekFrom::Start(self.bytes.saturating_sub(most as u64)))?;
        (&self.file).take(most as u64).read_to_end(&mut kept)?;
        Ok(kept)
    }
}

/// What the parts say, on its way to where our own words go.
#[derive(Debug, Default)]
pub(super) struct Words {
    passed: usize,
}

impl Words {
    /// What of it is passed on.
    pub(super) fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let passed = &bytes[..bytes.len().min(WORDS_MAX_BYTES - self.passed)];
        self.passed += passed.len();
        passed
    }
}

/// What init says of itself, that it listens and how it ended: lines of JSON, of which anything inside a machine that was taken over could write any.
#[derive(Debug, Default)]
pub(super) struct LastWord {
    line: Vec<u8>,
    too_long: bool,
    /// The exit code, once it was told. A later one changes nothing.
    pub(super) code: Option<u8>,
    /// Whether it listens.
    pub(super) ready: bool,
}

impl LastWord {
    fn understand(&mut self) {
        let Ok(said) = serde_json::from_slice::<serde_json::Value>(self.line.trim_ascii()) else { return };
        self.ready |= said["ready"] == true;
        self.code = self.code.or(said["exit-code"].as_u64().and_then(|code| u8::try_from(code).ok()));
    }

    /// Takes what was written.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                if !self.too_long {
                    self.understand();
                }
                self.line.clear();
                self.too_long = false;
            } else if self.line.len() < LINE_MAX_BYTES {
                self.line.push(byte);
            } else {
                self.too_long = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_the_newest_and_stays_small() {
        let mut log = Log::new(tempfile::tempfile().unwrap()).unwrap();
        let line = [b'x'; 4096];
        for _ in 0..LOG_MAX_BYTES / 4096 * 3 {
            log.add(&line);
        }
        log.add(b"the end");
        assert!(log.file.metadata().unwrap().len() <= LOG_MAX_BYTES);
        assert_eq!(log.last(7).unwrap(), b"the end");
        assert!(log.last(usize::MAX).unwrap().len() as u64 >= LOG_KEPT_BYTES);
    }

    #[test]
    fn words_are_passed_on_until_there_are_too_many() {
        let mut words = Words::default();
        assert_eq!(words.pass(b"hello"), b"hello");
        assert_eq!(words.pass(&vec![0; WORDS_MAX_BYTES]).len(), WORDS_MAX_BYTES - 5);
        assert!(words.pass(b"more").is_empty());
    }

    #[test]
    fn the_first_report_counts_and_nothing_else_does() {
        let heard = |said: &[&[u8]]| {
            let mut word = LastWord::default();
            for bytes in said {
                word.hear(bytes);
            }
            (word.code, word.line.len())
        };
        assert_eq!(heard(&[b"{\"exit-", b"code\": 3}\r\n"]), (Some(3), 0));
        assert_eq!(heard(&[b"{\"exit-code\":3}\n{\"exit-code\":4}\n"]).0, Some(3));
        for other in
            ["{\"exit-code\":256}\n", "{\"exit-code\":-1}\n", "7\n", "{}\n", "\n", "{\"exit-code\":1}"]
        {
            assert_eq!(heard(&[other.as_bytes()]).0, None, "{other}");
        }
        let flood = vec![b'['; 1 << 20];
        assert_eq!(heard(&[&flood]), (None, LINE_MAX_BYTES));
        assert_eq!(heard(&[&flood, b"\n{\"exit-code\":0}\n"]).0, Some(0));
        let mut word = LastWord::default();
        word.hear(b"{\"ready\": false}\n{\"ready\": true");
        assert!(!word.ready);
        word.hear(b"}\n{\"exit-code\":1}\n");
        assert!(word.ready && word.code == Some(1));
    }
}
