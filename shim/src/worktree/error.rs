use agent_protocol::spec::MAX_AGENTS;

use super::Branch;
use crate::{
    client::ConnectionError,
    sandbox::{StateError, endpoint::EndpointError},
    terminal::sanitize::sanitized,
};

/// Why a worktree was not made, removed or looked at. What git said comes from inside: it is made harmless here.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// The record, or the lock.
    #[error(transparent)]
    State(#[from] StateError),
    /// Init could not be asked, or refused.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The sandbox does not run, and there is no way into it.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// There is no git inside.
    #[error("there is no git inside")]
    NoGit,
    /// The workspace is no repository.
    #[error("the workspace is no git repository: {0}")]
    NoRepository(String),
    /// No such branch.
    #[error("there is no branch `{0}` inside")]
    NoBranch(Branch),
    /// It was to be made, and is there.
    #[error("there is a branch `{0}` inside already")]
    BranchThere(Branch),
    /// The sandbox has no worktree of this branch.
    #[error("there is no worktree of `{0}`")]
    Unknown(Branch),
    /// It has one already.
    #[error("there is a worktree of `{0}` already")]
    There(Branch),
    /// One would be within the other.
    #[error("the worktree of `{0}` would be within that of `{1}`, or the other way round")]
    Overlaps(Branch, Branch),
    /// More than init takes.
    #[error("there are {MAX_AGENTS} worktrees already")]
    TooMany,
    /// Git says that the folder or the branch is in use.
    #[error("it is in use already: {0}")]
    InUse(String),
    /// Git failed.
    #[error("{doing} failed: {said}")]
    Git {
        /// What was being done.
        doing: &'static str,
        /// Why, in git's words.
        said: String,
    },
    /// Work would be lost that was never committed.
    #[error("it has changes that are not committed, {0}")]
    Dirty(String),
    /// Commits would be lost.
    #[error("its commits are on no branch")]
    Unreachable,
    /// Something else is in its place.
    #[error("{0} is not that worktree any more")]
    Replaced(String),
}

impl WorktreeError {
    /// What git said, as far as a person can use it: its last lines, on one.
    pub(super) fn said(errors: &[u8]) -> String {
        let text = String::from_utf8_lossy(errors);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        let said: String = sanitized(&last).to_string().chars().take(500).collect();
        if said.is_empty() { "it did not say why".to_owned() } else { said }
    }
}
