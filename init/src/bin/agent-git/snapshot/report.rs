//! What is said about it: one line of JSON.

use serde::Serialize;

/// Most files that are named among those left out.
pub(crate) const MOST_NAMED: usize = 100;

/// Most bytes of their names together.
pub(crate) const MAX_NAMED_BYTES: usize = 16 * 1024;

/// All of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Snapshots(Vec<Report>),
    List(Vec<Listed>),
    Error(Failure),
}

/// One worktree.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub worktree: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub left_out: Vec<LeftOut>,
    pub left_out_more: u64,
}

/// A snapshot that is there.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub worktree: String,
    pub at_ms: u64,
    pub commit: String,
    /// Files that differ from the commit it was made on.
    pub changed: u64,
}

/// What became of it.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    /// There is a new snapshot.
    Taken(Taken),
    /// All is as in the last snapshot.
    Unchanged { at_ms: u64 },
    /// All is as in the checked-out commit.
    Clean,
    /// It could not be looked at, or not written.
    Failed(Failure),
}

/// A new snapshot.
#[derive(Debug, Serialize)]
pub(super) struct Taken {
    pub at_ms: u64,
    pub commit: String,
    /// Files that differ from the commit it was made on.
    pub changed: u64,
    pub new_bytes: u64,
    /// Older snapshots that went.
    pub expired: u64,
}

/// What is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LeftOut {
    /// As git quotes it.
    pub path: String,
    pub why: Missing,
}

/// Why something is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Missing {
    /// Larger than a file may be.
    TooLarge,
    /// More that is new than a snapshot may bring.
    NoRoom,
    Unreadable,
    /// A pipe, a socket, a device.
    Special,
    /// A name, or a content, that git refuses.
    Refused,
    /// Deeper, or longer, than a path may be.
    TooDeep,
    /// Mounted there.
    Mounted,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    pub why: Why,
    pub message: String,
}

/// The same as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    NoRepository,
    NoWorktree,
    Bare,
    /// A kind of repository that this program does not know.
    Unsupported,
    Busy,
    DiskFull,
    TooMany,
    Failed,
}

impl Missing {
    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::TooLarge => "too large",
            Self::NoRoom => "no room for more",
            Self::Unreadable => "not readable",
            Self::Special => "not a file",
            Self::Refused => "git would refuse it",
            Self::TooDeep => "too deep",
            Self::Mounted => "another file system",
        }
    }
}

impl Failure {
    pub(super) fn new(why: Why, message: impl Into<String>) -> Self {
        Self { why, message: message.into() }
    }
}

impl From<git2::Error> for Failure {
    fn from(error: git2::Error) -> Self {
        Self::new(Why::Failed, error.message())
    }
}

/// A path as text: as it is where it can be shown, otherwise in quotes with escapes, as git has it.
pub(super) fn quoted(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.starts_with('"') && !text.chars().any(|c| c.is_control() || c == '\\') => {
            text.to_owned()
        }
        _ => {
            let escaped = |byte: &u8| match byte {
                b'"' | b'\\' => format!("\\{}", char::from(*byte)),
                0x20..=0x7e => char::from(*byte).to_string(),
                _ => format!("\\{byte:03o}"),
            };
            format!("\"{}\"", path.iter().map(escaped).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_can_be_said() {
        assert_eq!(quoted("a b/é".as_bytes()), "a b/é");
        assert_eq!(quoted(b"a\n\xff\"\\"), "\"a\\012\\377\\\"\\\\\"");
        assert_eq!(quoted(b"\"a"), "\"\\\"a\"");
    }
}
