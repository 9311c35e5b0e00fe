//! A text that settings are read from, and what can be said about a place in it.

use std::{ops::Range, path::Path, sync::Arc};

use super::{
    error::ConfigError,
    origin::{Origin, Place},
};
use crate::terminal::sanitize::sanitized;

/// Most characters of a line that are shown.
const MAX_EXCERPT_CHARS: usize = 100;

/// A text that settings are read from.
#[derive(Clone, Debug)]
pub(super) struct Document<'a> {
    pub(super) source: Source,
    pub(super) text: &'a str,
    /// What paths in it are relative to.
    pub(super) base: &'a Path,
    /// What `~` stands for.
    pub(super) home: Option<&'a Path>,
}

/// Where a text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    User(Arc<Path>),
    Project(Arc<Path>),
    Variable(String),
}

impl Document<'_> {
    /// Who says what stands there.
    pub(super) fn origin(&self, span: &Range<usize>) -> Origin {
        let place = |path: &Arc<Path>| Place { path: path.clone(), line: self.position(span.start).0 };
        match &self.source {
            Source::User(path) => Origin::UserFile(place(path)),
            Source::Project(path) => Origin::ProjectFile(place(path)),
            Source::Variable(name) => Origin::Variable(name.clone()),
        }
    }

    /// What is wrong with what stands there.
    pub(super) fn wrong(&self, span: &Range<usize>, message: impl AsRef<str>) -> ConfigError {
        let (line, column) = self.position(span.start);
        let place = match &self.source {
            Source::User(path) | Source::Project(path) => format!("{}:{line}:{column}", path.display()),
            Source::Variable(name) => format!("${name}"),
        };
        let mut error = ConfigError::written(format!("{place}: {}", message.as_ref()));
        error.excerpt = self.excerpt(span);
        error
    }

    /// Line and column, counted from 1; columns in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.before(at);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn before(&self, at: usize) -> &str {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        &self.text[..at]
    }

    /// The line, and a line with marks below the place. A project's file is no friend of the terminal's.
    fn excerpt(&self, span: &Range<usize>) -> Vec<String> {
        let before = self.before(span.start);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let shown = |text: &str| sanitized(&text.replace('\t', " ")).to_string();
        let column = before[line_start..].chars().count();
        // A place far to the right is shown with what stands around it.
        let skipped = column.saturating_sub(MAX_EXCERPT_CHARS / 2);
        let visible: String = line.chars().skip(skipped).take(MAX_EXCERPT_CHARS).collect();
        let lead: String = visible.chars().take(column - skipped).collect();
        let marked = self.before(span.end).get(before.len()..).unwrap_or("").lines().next().unwrap_or("");
        let room = MAX_EXCERPT_CHARS - (column - skipped).min(MAX_EXCERPT_CHARS - 1);
        let marked: String = marked.chars().take(room).collect();
        let marks = shown(&marked).chars().count().max(1);
        vec![shown(&visible), format!("{}{}", " ".repeat(shown(&lead).chars().count()), "^".repeat(marks))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document<'_> {
        let source = Source::Project(Path::new("/p/agent-shim.toml").into());
        Document { source, text, base: Path::new("/p"), home: None }
    }

    #[test]
    fn a_place_is_shown_with_its_line() {
        let text = "a = 1\nnetwrk = \"ü\" # x\n";
        let error = document(text).wrong(&(6..12), "unknown key");
        assert_eq!(error.message, "/p/agent-shim.toml:2:1: unknown key");
        assert_eq!(error.excerpt, ["netwrk = \"ü\" # x", "^^^^^^"]);
        let error = document(text).wrong(&(15..19), "wrong");
        assert!(error.message.contains(":2:10:"), "{}", error.message);
        assert_eq!(error.excerpt[1], "         ^^^");
    }

    #[test]
    fn the_mark_stands_below_the_place_whatever_comes_before_it() {
        let error = document("\t\x1b[31m = 1").wrong(&(7..8), "x");
        assert_eq!(error.excerpt[0].find('='), Some(error.excerpt[1].find('^').unwrap()));
        assert!(!error.excerpt[0].contains('\x1b'));
        let long = format!("{} = 1", "x".repeat(5000));
        let error = document(&long).wrong(&(5003..5004), "x");
        assert!(error.excerpt[0].len() <= 200 && error.excerpt[0].contains("= 1"), "{:?}", error.excerpt);
    }

    #[test]
    fn any_place_in_any_text_can_be_shown() {
        for text in ["", "\n", "ü", "a\r\nb", "\u{202e}x"] {
            for start in 0..=text.len() + 1 {
                for end in start..=text.len() + 2 {
                    assert_eq!(document(text).wrong(&(start..end), "x").excerpt.len(), 2);
                }
            }
        }
    }
}
