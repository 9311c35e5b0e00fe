//! Who goes first when memory runs out: what the agent has started, then commands and services, then the agent.
//!
//! The kernel adds this much of all memory, in thousandths, to the size of a process, and ends the largest. With the steps
//! below, a child goes before its agent unless the agent itself is larger by most of what there is: then the end of
//! its children would free nothing that helps.

use std::fs;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// An agent.
    Agent,
    /// A step, a service, a command.
    Other,
    /// What one of them has started.
    Child,
}

impl Turn {
    fn thousandths(self) -> i32 {
        match self {
            Self::Agent => 100,
            Self::Other => 300,
            Self::Child => 800,
        }
    }
}

/// The most that the kernel takes.
const MOST: i32 = 1000;

/// Most processes marked at once: a bomb of them must not hold init up.
const MOST_MARKED: usize = 4096;

/// Gives out the turns.
pub(crate) struct Turns {
    /// What init has itself: never less than that without a privilege, and it is to go last.
    base: i32,
}

impl Turns {
    pub(crate) fn of_this_process() -> Self {
        let base = fs::read_to_string("/proc/self/oom_score_adj").ok();
        Self { base: base.and_then(|text| text.trim().parse().ok()).unwrap_or(0) }
    }

    /// Gives one process its turn. It may be gone by now, and one that cannot be inspected keeps what it has.
    pub(crate) fn set(&self, pid: i32, turn: Turn) {
        let value = (self.base + turn.thousandths()).min(MOST);
        if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
            tracing::debug!(%error, pid, "marking a process");
        }
    }

    /// Everything but `mains` goes first.
    pub(crate) fn children_first(&self, members: &[i32], mains: &[i32]) {
        for pid in members.iter().filter(|pid| !mains.contains(pid)).take(MOST_MARKED) {
            self.set(*pid, Turn::Child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_go_first_and_the_agent_last() {
        let turns = [Turn::Child, Turn::Other, Turn::Agent].map(Turn::thousandths);
        assert!(turns.is_sorted_by(|before, after| before > after) && turns[2] > 0, "{turns:?}");
    }

    #[test]
    fn a_process_gets_its_turn() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let turns = Turns::of_this_process();
        let found = || {
            let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
            text.trim().parse::<i32>().unwrap()
        };
        turns.set(pid, Turn::Agent);
        assert_eq!(found(), (turns.base + 100).min(MOST));
        turns.children_first(&[pid], &[pid]);
        assert_eq!(found(), (turns.base + 100).min(MOST), "a main one keeps its turn");
        turns.children_first(&[pid, 1 << 30], &[]);
        assert_eq!(found(), (turns.base + 800).min(MOST));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
