//! What Nix says while it works: lines of `--log-format internal-json`, read as hostile input.
//!
//! Builders write into these lines, and builders are programs of others. A line is bounded before it is parsed, and what
//! does not parse is text.

use serde::Deserialize;
use serde_json::Value;

/// Longest line that is looked at. A longer one is cut off, and is text then.
pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024;

/// Something that happens in Nix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Work begins.
    Started {
        /// Until it ends, this is its name.
        id: u64,
        /// What it is.
        work: Work,
    },
    /// Work has ended.
    Stopped(u64),
    /// How far a [`Work::Builds`] or [`Work::Copies`] has come.
    Progress {
        /// Whose progress.
        id: u64,
        /// So many are done.
        done: u64,
        /// Of so many.
        expected: u64,
    },
    /// A builder has written a line.
    BuildLine {
        /// Of which [`Work::Build`].
        id: u64,
        /// The line, with nothing in it that controls a terminal.
        line: String,
    },
    /// Nix tells something; level 0 is an error, 1 a warning, 3 what people are told.
    Message {
        /// How important it is.
        level: u64,
        /// Several lines at times, with nothing in them that controls a terminal.
        text: String,
    },
    /// Nothing of interest.
    Other,
}

/// What Nix works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A derivation is built.
    Build(String),
    /// A path is copied from a cache.
    Copy(String),
    /// A file comes over the network.
    Fetch(String),
    /// All builds together.
    Builds,
    /// All copies together.
    Copies,
    /// Something else.
    Other,
}

#[derive(Deserialize)]
struct Line {
    action: String,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    level: u64,
    #[serde(default, rename = "type")]
    kind: u64,
    #[serde(default)]
    fields: Vec<Value>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    msg: String,
}

/// Reads one line without its end.
pub(super) fn parse(line: &[u8]) -> Event {
    let as_text = || Event::Message { level: 3, text: plain(&String::from_utf8_lossy(line)) };
    let Some(json) = line.strip_prefix(b"@nix ") else { return as_text() };
    let Ok(line) = serde_json::from_slice::<Line>(json) else { return as_text() };
    let field = |index: usize| line.fields.get(index).and_then(Value::as_str).map(plain).unwrap_or_default();
    let number = |index: usize| line.fields.get(index).and_then(Value::as_u64).unwrap_or(0);
    match (line.action.as_str(), line.kind) {
        ("start", kind) => Event::Started {
            id: line.id,
            work: match kind {
                100 | 108 => Work::Copy(field(0)),
                101 => Work::Fetch(if field(0).is_empty() { plain(&line.text) } else { field(0) }),
                103 => Work::Copies,
                104 => Work::Builds,
                105 => Work::Build(field(0)),
                _ => Work::Other,
            },
        },
        ("stop", _) => Event::Stopped(line.id),
        ("result", 101 | 107) => Event::BuildLine { id: line.id, line: field(0) },
        ("result", 105) => Event::Progress { id: line.id, done: number(0), expected: number(1) },
        ("msg", _) => Event::Message { level: line.level, text: plain(&line.msg) },
        _ => Event::Other,
    }
}

/// Text without control sequences and other control characters; line ends and tabs stay.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48: CSI, parameters, one final byte.
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
                chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
            }
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    shown
}

/// Cuts a stream into lines of bounded length.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes, and calls `each` for every line that is whole now.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ends) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if ends {
                each(&self.line);
                self.line.clear();
            }
        }
    }

    /// What is left at the end of the stream.
    pub(super) fn finish(&mut self, each: impl FnOnce(&[u8])) {
        if !self.line.is_empty() {
            each(&std::mem::take(&mut self.line));
        }
    }
}

/// What people call a store path: `/nix/store/HASH-jq-1.7.drv` is `jq-1.7`.
pub(super) fn short_name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    name.strip_suffix(".drv").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_nix_are_understood() {
        let build = br#"@nix {"action":"start","fields":["/nix/store/abc-jq-1.7.drv","",1,1],"id":5,"level":3,"text":"building","type":105}"#;
        assert_eq!(
            parse(build),
            Event::Started { id: 5, work: Work::Build("/nix/store/abc-jq-1.7.drv".to_owned()) }
        );
        let progress = br#"@nix {"action":"result","fields":[1,12,1,0],"id":6,"type":105}"#;
        assert_eq!(parse(progress), Event::Progress { id: 6, done: 1, expected: 12 });
        let line = br#"@nix {"action":"result","fields":["\u001b[92mok\u001b[0m"],"id":5,"type":101}"#;
        assert_eq!(parse(line), Event::BuildLine { id: 5, line: "ok".to_owned() });
        let message = br#"@nix {"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m no"}"#;
        assert_eq!(parse(message), Event::Message { level: 0, text: "error: no".to_owned() });
        assert_eq!(parse(br#"@nix {"action":"stop","id":5}"#), Event::Stopped(5));
    }

    #[test]
    fn what_is_not_of_nix_is_text() {
        for line in
            ["hello", "@nix {", "@nix []", "@nix {\"action\":1}", "@nix {\"action\":\"msg\",\"level\":-1}"]
        {
            assert_eq!(parse(line.as_bytes()), Event::Message { level: 3, text: line.to_owned() });
        }
        assert_eq!(parse(br#"@nix {"action":"dance","id":1}"#), Event::Other);
    }

    #[test]
    fn long_lines_are_cut_and_do_not_disturb_the_next() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for piece in [&vec![b'x'; MAX_LINE_BYTES][..], &[b'y'; 100], b"\nne", b"xt\nlast"] {
            lines.feed(piece, |line| seen.push(line.to_vec()));
        }
        lines.finish(|line| seen.push(line.to_vec()));
        assert_eq!(seen[0].len(), MAX_LINE_BYTES);
        assert_eq!(&seen[1..], [b"next".to_vec(), b"last".to_vec()]);
    }

    #[test]
    fn short_names() {
        assert_eq!(short_name("/nix/store/1abc-nodejs-24.1.0.drv"), "nodejs-24.1.0");
        assert_eq!(short_name("x"), "x");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic_or_reach_the_terminal(line in prop::collection::vec(any::<u8>(), 0..200)) {
            for line in [line.clone(), [b"@nix ".to_vec(), line].concat()] {
                if let Event::Message { text, .. } = parse(&line) {
                    prop_assert!(text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
                }
            }
        }
    }
}
