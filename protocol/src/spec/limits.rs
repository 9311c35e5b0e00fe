//! What everything inside may use together.

use serde::{Deserialize, Serialize};

/// Bounds for everything inside together. Absent: not bounded by init.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How many processes and threads.
    pub pids: Option<u64>,
    /// How much memory.
    pub memory_bytes: Option<u64>,
    /// How much processor time, in thousandths of one processor.
    pub cpus_milli: Option<u64>,
    /// Files of the cgroup that init is in, where whoever started it has made one that bounds memory.
    // Not written where there are none: an init that does not know them yet would refuse the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_files: Option<MemoryFiles>,
}

/// Descriptors of a cgroup's files, open when init starts: where it runs, the files themselves cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryFiles {
    /// `memory.events`, to read.
    pub events: i32,
    /// `memory.high`, to write.
    pub high: i32,
    /// `memory.current`, to read.
    pub current: i32,
    /// `memory.stat`, to read.
    pub stat: i32,
}

/// What a machine's kernel and init need at least beside the agent.
const RESERVE_BYTES: u64 = 32 << 20;

impl Limits {
    /// How much of a machine's memory what runs in it may use: all but 32 MiB and a thirty-second part, which are
    /// for the kernel and for init. At least half.
    ///
    /// `total_bytes` is what the kernel has to give (`MemTotal`), which is less than what the machine has.
    #[must_use]
    pub fn memory_of_machine(total_bytes: u64) -> u64 {
        let reserve = RESERVE_BYTES + total_bytes / 32;
        total_bytes.saturating_sub(reserve).max(total_bytes / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_some_memory_for_itself() {
        let mib = |mib: u64| mib << 20;
        for (total, expected) in [(0, 0), (64, 32), (256, 216), (512, 464), (2048, 1952), (8192, 7904)] {
            assert_eq!(Limits::memory_of_machine(mib(total)), mib(expected), "of {total} MiB");
        }
        assert!(Limits::memory_of_machine(u64::MAX) < u64::MAX);
    }
}
