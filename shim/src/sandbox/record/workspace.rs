//! How the project gets into a sandbox, and how what is done there comes home.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Record;
use crate::worktree::Branch;

/// How the project gets into a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workspace {
    /// The folder itself: changes are on the host at once
    #[default]
    Bind,
    /// A clone of its own, for a git repository
    Clone,
}

/// How a repository is cloned into a sandbox: what was asked for, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRecord {
    /// The branch that was asked for; what is checked out, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Whether every branch and tag was asked for.
    #[serde(default)]
    pub all_branches: bool,
    /// How many commits deep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Whether changes that are not committed were asked for.
    #[serde(default)]
    pub include_dirty: bool,
    /// How it gets its objects; the best way for the rest, where nobody said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<CloneObjects>,
    /// The project in the repository, where it is not the whole of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Folders of objects that are mounted into the sandbox, read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<PathBuf>,
    /// What came of it. Nothing is there before: a clone is made once, and whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Cloned>,
}

/// A clone that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloned {
    /// The branch that was checked out in it; none where no branch was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit of the host's that it began with; none where there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The commit on top that holds what was not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<String>,
    /// How it got its objects.
    pub objects: CloneObjects,
}

/// How a clone gets its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CloneObjects {
    /// Copies of those that it reaches, and no others
    #[default]
    Copy,
    /// All of them, without a copy, where the file system can do that
    Reflink,
    /// All of them, mounted read-only
    Share,
}

/// A worktree, whose folder is called as its branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorktreeRecord {
    /// The branch that it was made for. The agent may have checked out another since.
    pub branch: Branch,
    /// What runs there; the sandbox's agent where nothing else was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

/// When the agent's work is brought home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// When somebody says `agent-shim pull`
    #[default]
    Manual,
    /// Whenever refs inside change, at once
    AutoCommit,
    /// When the agent has done nothing for a while
    AutoIdle,
}

/// What counts as a while, in seconds.
pub const DEFAULT_SYNC_IDLE_S: u64 = 30;

impl Record {
    /// When its work is brought home. Where it works in the project itself there is nothing to bring.
    pub fn effective_sync(&self) -> SyncMode {
        match self.workspace {
            Workspace::Bind => SyncMode::Manual,
            Workspace::Clone => self.sync,
        }
    }
}

pub(super) fn default_sync_idle() -> u64 {
    DEFAULT_SYNC_IDLE_S
}
