//! What the host asks for.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use agent_protocol::retention::Keep;

use super::walk::Rules;

/// Largest file, bytes. It is held in memory while it is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Most that one snapshot brings, bytes.
const MAX_NEW_BYTES: u64 = 1 << 30;

/// Snapshots of a worktree.
const KEEP_COUNT: usize = 50;

/// How long they are kept.
const KEEP_FOR: Duration = Duration::from_hours(7 * 24);

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Args {
    pub command: Command,
    /// The main worktree.
    pub folder: PathBuf,
    /// A worktree's name, its branch, or its path; all of them where there is none.
    pub worktree: Option<String>,
    pub rules: Rules,
    pub new_bytes: u64,
    pub keep: Keep,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Take,
    List,
}

impl Args {
    /// `take|list [--worktree NAME] [--ignored] [--keep N] [--days N] [--max-file BYTES] [--max-new BYTES] FOLDER`.
    pub(super) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let command = match words.next().unwrap_or_default().to_str() {
            Some("take") => Command::Take,
            Some("list") => Command::List,
            _ => return Err("take or list?".to_owned()),
        };
        let age_ms = u64::try_from(KEEP_FOR.as_millis()).unwrap_or(u64::MAX);
        let mut args = Self {
            command,
            folder: PathBuf::new(),
            worktree: None,
            rules: Rules { ignored: false, file_bytes: MAX_FILE_BYTES },
            new_bytes: MAX_NEW_BYTES,
            keep: Keep { count: KEEP_COUNT, age_ms },
        };
        while let Some(word) = words.next() {
            let mut value = || {
                let text = words.next().and_then(|value| value.into_string().ok());
                text.ok_or_else(|| format!("{} needs a value", word.display()))
            };
            match word.to_str() {
                Some("--ignored") => args.rules.ignored = true,
                Some("--worktree") => args.worktree = Some(value()?),
                Some("--keep") => args.keep.count = usize::try_from(number(&value()?)?).unwrap_or(usize::MAX),
                Some("--days") => args.keep.age_ms = number(&value()?)?.saturating_mul(24 * 60 * 60 * 1000),
                Some("--max-file") => args.rules.file_bytes = number(&value()?)?,
                Some("--max-new") => args.new_bytes = number(&value()?)?,
                Some(flag) if flag.starts_with("--") => return Err(format!("there is no {flag}")),
                _ if args.folder.as_os_str().is_empty() => args.folder = PathBuf::from(word),
                _ => return Err("one folder only".to_owned()),
            }
        }
        if args.folder.as_os_str().is_empty() {
            return Err("which folder?".to_owned());
        }
        Ok(args)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}
