//! When the agent's work in progress is kept by itself, and for how long.

use std::time::Duration;

use agent_protocol::retention::Keep;
use serde::{Deserialize, Serialize};

/// What a sandbox was told about snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotPolicy {
    /// How long after the last one, in seconds, while something changes; 0: none but those that are asked for, and none
    /// before a stop.
    pub every_s: u32,
    /// Whether what git ignores is taken too.
    pub ignored: bool,
    /// How many are kept of each worktree.
    pub keep: u32,
    /// For how many days.
    pub days: u32,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self { every_s: 60, ignored: false, keep: 50, days: 7 }
    }
}

impl SnapshotPolicy {
    /// Whether snapshots are taken without being asked for.
    pub fn is_on(&self) -> bool {
        self.every_s > 0
    }

    /// What is kept, here as inside.
    pub fn retention(&self) -> Keep {
        let count = usize::try_from(self.keep).unwrap_or(usize::MAX);
        Keep { count, age_ms: u64::from(self.days) * 24 * 60 * 60 * 1000 }
    }

    /// How long after the last one; `None` where none is taken by itself.
    pub fn every(&self) -> Option<Duration> {
        self.is_on().then(|| Duration::from_secs(self.every_s.into()))
    }
}
