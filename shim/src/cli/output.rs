//! Printing: JSON for programs, columns for people, and nothing from inside as it came.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use serde::Serialize;

use super::error::CliError;
use crate::terminal::sanitize::{is_harmful, sanitized};

/// Text in which nothing controls a terminal.
pub(crate) fn clean(text: &str) -> String {
    sanitized(text).to_string()
}

/// Takes the control sequences out of a log, however its bytes are cut into pieces: a person reads what was written and not
/// how. What is left still goes through [`crate::terminal::sanitize`].
#[derive(Debug, Default)]
pub(crate) struct LogCleaner {
    state: Sequence,
}

/// Where in a control sequence (ECMA-48) we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// In a sequence with parameters, until its final byte.
    Parameters,
    /// In a string, such as a title, until its terminator.
    String,
    /// Behind an ESC in a string.
    StringEscape,
}

impl LogCleaner {
    /// What is left to be shown: text, line ends and tabs.
    pub(crate) fn clean(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.state = self.next(*byte, &mut shown);
        }
        shown
    }

    #[allow(clippy::match_same_arms)] // A table reads in the order of its states.
    fn next(&self, byte: u8, shown: &mut Vec<u8>) -> Sequence {
        match (self.state, byte) {
            // Line ends of a terminal are CR LF; other uses of CR paint over what stands there.
            (Sequence::Text, b'\n' | b'\t' | 0x20..=0x7e | 0x80..=0xff) => {
                shown.push(byte);
                Sequence::Text
            }
            (Sequence::String, 0x1b) => Sequence::StringEscape,
            (_, 0x1b) | (Sequence::Escape, 0x20..=0x2f) => Sequence::Escape,
            (Sequence::Escape, b'[') | (Sequence::Parameters, 0x20..=0x3f) => Sequence::Parameters,
            (Sequence::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Sequence::String,
            (Sequence::String, 0x07) | (Sequence::StringEscape, b'\\') => Sequence::Text,
            (Sequence::String | Sequence::StringEscape, _) => Sequence::String,
            (Sequence::Text | Sequence::Escape | Sequence::Parameters, _) => Sequence::Text,
        }
    }
}

/// Prints one JSON value, indented.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    print_line(&harmless_json(&serde_json::to_string_pretty(value).map_err(io::Error::from)?))
}

/// The same JSON without anything that controls a terminal: such characters stand in its strings alone, where each has an
/// escape that means it.
pub(crate) fn harmless_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !is_harmful(c) {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a string never fails.
                let _always = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

/// Prints one line.
pub(crate) fn print_line(text: &str) -> Result<(), CliError> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Tells a person something beside the output. Where nobody can be told, the work goes on all the same.
pub(crate) fn tell(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Prints rows in columns as wide as their widest cell; the last column may be of any width.
pub(crate) fn print_table(rows: &[Vec<String>]) -> Result<(), CliError> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = width.saturating_sub(cell.chars().count()) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_controls_no_terminal() {
        let value =
            serde_json::json!({ "a\u{9b}2J": ["\u{202e}x\u{7f}", "\u{e0041}", "\u{1b}[31m\n", "\u{fc}"] });
        for text in [serde_json::to_string_pretty(&value).unwrap(), value.to_string()] {
            let shown = harmless_json(&text);
            assert!(!shown.contains(|c| c != '\n' && is_harmful(c)), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn a_log_loses_its_control_sequences_however_it_is_cut() {
        let log =
            b"a\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07b\x1b]8;;x\x1b\\c\x08\x1b(0\x1bPq..\x1b\\\xc3\xbc\n";
        let expected = "ared\nbc\u{fc}\n".as_bytes();
        assert_eq!(LogCleaner::default().clean(log), expected);
        let mut cleaner = LogCleaner::default();
        let piecewise: Vec<u8> = log.iter().flat_map(|byte| cleaner.clean(&[*byte])).collect();
        assert_eq!(piecewise, expected);
    }
}
