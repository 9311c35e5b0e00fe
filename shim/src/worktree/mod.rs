//! Worktrees of the agent's repository, each with a session of its own.
//!
//! A worktree is made inside, by the environment's git, as the agent's user: its repository is never opened here. What
//! is known of it on the host is one entry of the sandbox's record, so that a sandbox that is started again has all its
//! sessions. The sessions are agents beside the main one, which init starts, restarts and ends like that one.

mod branch;
mod error;
mod inside;
mod manage;

pub use branch::{Branch, BranchError};
pub use error::WorktreeError;
pub use inside::Place;
pub use manage::{Listed, Worktrees};

/// Where worktrees are, below the workspace.
pub const FOLDER: &str = ".worktrees";
