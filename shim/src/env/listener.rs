//! Hearing Nix out while it builds.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufWriter, Write},
    time::Instant,
};

use super::{
    build::MAX_ERROR_BYTES,
    nix_log::{Event, parse, short_name},
    problem::{Problem, classify},
    progress::Progress,
};

/// Lines of a failed builder that are shown.
const TAIL_LINES: usize = 15;

/// Lines of all builders that are remembered, to find those of the one that failed.
const MAX_RECENT_LINES: usize = 500;

/// Where a log ends, whatever a builder still writes.
const MAX_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// Hears what Nix says: writes the log, follows the progress, remembers errors.
pub(super) struct Listener {
    pub(super) progress: Progress,
    log: BufWriter<File>,
    log_bytes: u64,
    errors: String,
    /// The last lines of builders, each with its builder's name.
    recent: VecDeque<(String, String)>,
}

impl Listener {
    pub(super) fn new(log: File, now: Instant) -> Self {
        Self {
            progress: Progress::new(now),
            log: BufWriter::new(log),
            log_bytes: 0,
            errors: String::new(),
            recent: VecDeque::new(),
        }
    }

    pub(super) fn hear(&mut self, line: &[u8]) {
        let event = parse(line);
        match &event {
            Event::BuildLine { id, line } => {
                let builder = self.progress.builder(*id).unwrap_or_default().to_owned();
                self.note(&format!("{builder}> {line}"));
                if self.recent.len() == MAX_RECENT_LINES {
                    self.recent.pop_front();
                }
                self.recent.push_back((builder, line.clone()));
            }
            Event::Message { level, text } => {
                self.note(text);
                // Where Nix dies before it can speak as it was asked to, errors are plain text.
                let is_error = *level == 0 || text.starts_with("error:");
                if is_error && self.errors.len() + text.len() < MAX_ERROR_BYTES {
                    self.errors.extend([text, "\n"]);
                }
            }
            _ => {}
        }
        self.progress.take(&event);
    }

    /// A log that cannot be written is missed later, and is no reason to stop.
    fn note(&mut self, line: &str) {
        let before = self.log_bytes;
        self.log_bytes = before.saturating_add(line.len() as u64 + 1);
        if self.log_bytes <= MAX_LOG_BYTES {
            drop(writeln!(self.log, "{line}"));
        } else if before <= MAX_LOG_BYTES {
            drop(writeln!(self.log, "(the rest was not kept)"));
        }
        drop(self.log.flush());
    }

    /// What went wrong, from all that was heard.
    pub(super) fn problem(&self) -> Problem {
        let recent: Vec<String> = self.recent.iter().map(|(_, line)| line.clone()).collect();
        classify(&self.errors, &recent)
    }

    /// The last lines of one builder.
    pub(super) fn tail_of(&self, derivation: &str) -> Vec<String> {
        let name = short_name(derivation);
        let mut tail: Vec<String> = self
            .recent
            .iter()
            .rev()
            .filter(|(builder, _)| builder == name)
            .take(TAIL_LINES)
            .map(|(_, line)| line.clone())
            .collect();
        tail.reverse();
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(said: &[&str]) -> (Listener, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut listener = Listener::new(file.reopen().unwrap(), Instant::now());
        for line in said {
            listener.hear(line.as_bytes());
        }
        (listener, file)
    }

    #[test]
    fn lines_of_the_one_that_failed_are_told_from_those_of_others() {
        let (listener, file) = listener(&[
            r#"@nix {"action":"start","fields":["/s/abc-good-1.drv"],"id":1,"type":105}"#,
            r#"@nix {"action":"start","fields":["/s/abc-bad-1.drv"],"id":2,"type":105}"#,
            r#"@nix {"action":"result","fields":["fine"],"id":1,"type":101}"#,
            r#"@nix {"action":"result","fields":["not fine"],"id":2,"type":101}"#,
            r#"@nix {"action":"msg","level":0,"msg":"error: builder for '/s/abc-bad-1.drv' failed with exit code 1"}"#,
        ]);
        assert_eq!(listener.problem(), Problem::Builder("/s/abc-bad-1.drv".to_owned()));
        assert_eq!(listener.tail_of("/s/abc-bad-1.drv"), ["not fine"]);
        let log = std::fs::read_to_string(file.path()).unwrap();
        assert!(log.starts_with("good-1> fine\nbad-1> not fine\nerror: builder for "), "{log}");
    }

    #[test]
    fn what_a_builder_says_is_bounded() {
        let line =
            format!(r#"@nix {{"action":"result","fields":["{}"],"id":2,"type":101}}"#, "x".repeat(60_000));
        let said = vec![line.as_str(); MAX_RECENT_LINES * 3];
        let (listener, file) = listener(&said);
        assert_eq!(listener.recent.len(), MAX_RECENT_LINES);
        let log = std::fs::metadata(file.path()).unwrap().len();
        assert!(log < MAX_LOG_BYTES + 1000, "{log}");
    }

    #[test]
    fn errors_that_nix_says_before_it_speaks_json_count() {
        let (listener, _file) = listener(&["error: cannot connect to socket at '/s': Connection refused"]);
        assert_eq!(listener.problem(), Problem::Daemon("/s".to_owned()));
    }
}
