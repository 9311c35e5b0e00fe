//! A snapshot as a commit: what it says of itself.

use std::fmt::Write;

use git2::{Oid, Repository};

use super::report::LeftOut;

/// Who made it: nobody.
const WHO: &str = "agent-shim <agent-shim@localhost>";

/// What stands before the number of changed files.
pub(super) const CHANGED: &str = "Files-Changed: ";

/// What a commit is made of.
pub(super) struct Content<'a> {
    pub tree: Oid,
    pub parent: Option<Oid>,
    pub at_ms: u64,
    pub worktree: &'a str,
    pub head: Option<String>,
    pub changed: u64,
    pub left_out: &'a [LeftOut],
    pub left_out_more: u64,
}

impl Content<'_> {
    /// As git stores it.
    pub(super) fn commit(&self) -> String {
        let seconds = self.at_ms / 1000;
        let mut text = format!("tree {}\n", self.tree);
        if let Some(parent) = self.parent {
            let _ = writeln!(text, "parent {parent}");
        }
        let _ =
            write!(text, "author {WHO} {seconds} +0000\ncommitter {WHO} {seconds} +0000\nencoding UTF-8\n\n");
        let _ = write!(text, "snapshot of {}\n\n", self.worktree);
        if let Some(head) = &self.head {
            let _ = writeln!(text, "On: {head}");
        }
        let _ = writeln!(text, "{CHANGED}{}", self.changed);
        for LeftOut { path, why } in self.left_out {
            let _ = writeln!(text, "Left-Out: {path} ({})", why.text());
        }
        if self.left_out_more > 0 {
            let _ = writeln!(text, "Left-Out-More: {}", self.left_out_more);
        }
        text
    }
}

/// What is checked out, in words.
pub(super) fn head(repository: &Repository) -> Option<String> {
    let head = repository.find_reference("HEAD").ok()?;
    match head.symbolic_target() {
        Some(target) => Some(target.to_owned()),
        None => Some(format!("{}", head.target()?)),
    }
}

/// The number of changed files that a message tells.
pub(super) fn changed(message: &str) -> Option<u64> {
    message.lines().find_map(|line| line.strip_prefix(CHANGED)?.parse().ok())
}
