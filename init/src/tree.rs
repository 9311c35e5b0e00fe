//! Everything that descends from a child, daemons that forked twice included.
//!
//! Parents die and sessions change, so no single relation finds all. A process belongs to a child if it is in
//! the child's session or group (while the child itself is not reaped: later the number proves nothing),
//! descends from such a process, or carries the child's mark.
//!
//! The mark is a resource limit the kernel has not looked at since Linux 2.4: `RLIMIT_LOCKS` is inherited by
//! all descendants and can only be lowered. A variable in the environment would be the usual choice, but a
//! program may drop it, and reading another process's environment means reading memory it controls: a
//! page of a file system that hangs would hang PID 1. A limit is read by one system call that cannot block.
//!
//! What lowers its own mark, forks twice and starts a new session between two looks escapes. Only a cgroup
//! is tighter than this.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::signals::Signal;
use crate::sys;

/// Where marks are kept.
// The type of these constants differs between C libraries.
#[allow(clippy::cast_possible_wrap)]
pub(crate) const MARK_RESOURCE: i32 = libc::RLIMIT_LOCKS as i32;

/// Gives out marks, each a range of its own below the last one.
///
/// An init that runs inside another one's child can only go down from the mark it carries itself, so it
/// divides its own range: to the outer init its children still are descendants of that one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    top: u64,
    span: u64,
    last_generation: u64,
}

/// What all descendants of one child carry: any limit in `(highest - span, highest]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) highest: u64,
    span: u64,
}

impl Marks {
    /// `None` where marks were divided twice already: nothing is left to divide.
    pub(crate) fn below_own_limit() -> Option<Self> {
        // 0 for ourselves: by its number init may not be asked, not even by itself.
        let own = sys::limit_of(Pid::from_raw(0), MARK_RESOURCE).ok()?;
        Self::below(own.rlim_max)
    }

    fn below(own: u64) -> Option<Self> {
        const OUTER: Marks = Marks { top: 1 << 63, span: 1 << 32, last_generation: (1 << 31) - 1 };
        if own >= OUTER.top {
            Some(OUTER)
        } else if own.is_multiple_of(OUTER.span) && own > 0 {
            Some(Self { top: own, span: 1 << 12, last_generation: (1 << 20) - 1 })
        } else {
            None
        }
    }

    /// `None` once the marks are used up.
    pub(crate) fn mark(self, generation: u64) -> Option<Mark> {
        let in_range = generation <= self.last_generation;
        in_range.then(|| Mark { highest: self.top - generation * self.span, span: self.span })
    }
}

impl Mark {
    fn covers(self, limit: u64) -> bool {
        limit <= self.highest && self.highest - limit < self.span
    }
}

/// Where a tree starts.
pub(crate) struct Root {
    /// The child, as long as it is not reaped.
    pub(crate) pid: Option<i32>,
    pub(crate) mark: Option<Mark>,
    /// All that descends from init, whoever started it.
    pub(crate) everything: bool,
}

/// One process, as `/proc` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    dead: bool,
    /// Clock ticks on a processor, its own and those of children it has waited for.
    ticks: u64,
    /// In clock ticks since boot; tells a process from a later one of the same number.
    started: u64,
    /// Its `RLIMIT_LOCKS`, unless it belongs to a user we may not ask about.
    limit: Option<u64>,
}

/// Processes looked at to measure what they use. Who runs more of them is at work.
const MOST_MEASURED: usize = 4096;

/// Forking faster than we kill is possible for a while, not for this many rounds: what was killed forks no more.
const ROUNDS: usize = 64;

/// Signals the whole tree; SIGKILL until two looks in a row found nobody new.
pub(crate) fn kill(root: &Root, signal: Signal) -> io::Result<usize> {
    let mut signalled = HashSet::new();
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        let before = signalled.len();
        for process in members(&snapshot()?, root, Pid::this().as_raw()) {
            let identity = (process.pid, process.started);
            if !signalled.contains(&identity) && send(process, signal)? {
                signalled.insert(identity);
            }
        }
        quiet = if signalled.len() == before { quiet + 1 } else { 0 };
        if signal != Signal::KILL || quiet == 2 {
            break;
        }
    }
    Ok(signalled.len())
}

/// Everything that descends from init, as it is now.
pub(crate) fn everything() -> Vec<i32> {
    let root = Root { pid: None, mark: None, everything: true };
    let snapshot = snapshot().unwrap_or_default();
    members(&snapshot, &root, Pid::this().as_raw()).iter().map(|process| process.pid).collect()
}

/// Adds up the processor time of several trees; `None` where nothing lives in them.
pub(crate) fn cpu(roots: &[Root]) -> Option<Duration> {
    let snapshot = pids().ok()?.take(MOST_MEASURED).filter_map(read_process).collect::<Vec<_>>();
    let own = Pid::this().as_raw();
    let mut used: Vec<(i32, u64)> = Vec::new();
    for process in roots.iter().flat_map(|root| members(&snapshot, root, own)) {
        // One process may belong to several.
        if !used.iter().any(|(pid, _)| *pid == process.pid) {
            used.push((process.pid, process.ticks));
        }
    }
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    (!used.is_empty()).then(|| {
        let ticks = used.iter().map(|(_, ticks)| ticks).sum::<u64>();
        Duration::from_millis(ticks.saturating_mul(1000) / per_second)
    })
}

/// The living members of a tree. `own` is init: its children are not its tree's, and who does not descend from it
/// is nobody's here. In a PID namespace shared with another init, that one gives out the same marks.
fn members<'a>(snapshot: &'a [Process], root: &Root, own: i32) -> Vec<&'a Process> {
    let seed = |process: &Process| {
        root.everything
            || root.pid.is_some_and(|pid| [process.pid, process.group, process.session].contains(&pid))
            || root.mark.zip(process.limit).is_some_and(|(mark, limit)| mark.covers(limit))
    };
    let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
    for process in snapshot.iter().filter(|process| process.pid != own) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    // Once down from init: each process, and whether it is below a member.
    let mut below = vec![(own, false)];
    while let Some((parent, is_members)) = below.pop() {
        for process in children.remove(&parent).unwrap_or_default() {
            let is_member = is_members || seed(process);
            if is_member && !process.dead {
                found.push(process);
            }
            below.push((process.pid, is_member));
        }
    }
    found
}

/// Through a pidfd, and only if the number still means the process that was looked at.
fn send(process: &Process, signal: Signal) -> io::Result<bool> {
    let (Some(pid), Some(named)) = (
        rustix::process::Pid::from_raw(process.pid),
        rustix::process::Signal::from_named_raw(signal.number()),
    ) else {
        return Err(Errno::EINVAL.into());
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    if read_process(process.pid).is_none_or(|now| now.started != process.started) {
        return Ok(false);
    }
    // It may end at any moment, which is what was wanted; one that took on another user cannot be helped.
    Ok(pidfd_send_signal(pidfd, named).is_ok())
}

fn snapshot() -> io::Result<Vec<Process>> {
    Ok(pids()?.filter_map(read_process).collect())
}

fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

fn read_process(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let limit = sys::limit_of(Pid::from_raw(pid), MARK_RESOURCE).ok().map(|limit| limit.rlim_max);
    parse_stat(pid, &String::from_utf8_lossy(&stat), limit)
}

/// The name in parentheses may hold anything, parentheses and spaces included; what counts follows the last one.
fn parse_stat(pid: i32, stat: &str, limit: Option<u64>) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    Some(Process {
        pid,
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        ticks: fields.get(11..15)?.iter().map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum(),
        started: fields.get(19)?.parse().ok()?,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 100;
    const MARK: Option<Mark> = Some(Mark { highest: 1_000, span: SPAN });
    const MARKED: u64 = 1_000;
    const OTHER: u64 = 900;

    fn process(pid: i32, parent: i32, group: i32, limit: u64) -> Process {
        Process { pid, parent, group, session: group, dead: false, ticks: 0, started: 0, limit: Some(limit) }
    }

    fn pids(snapshot: &[Process], pid: Option<i32>, mark: Option<Mark>) -> Vec<i32> {
        let mut pids: Vec<_> =
            members(snapshot, &Root { pid, mark, everything: false }, 1).iter().map(|p| p.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// 1 init; 10 a child with 11 and, in a session of its own, 12; 20 another child; 30 a daemon of 10's.
    fn world() -> Vec<Process> {
        vec![
            process(1, 0, 1, u64::MAX),
            process(10, 1, 10, MARKED),
            process(11, 10, 10, MARKED),
            process(12, 11, 12, MARKED),
            process(20, 1, 20, OTHER),
            process(30, 1, 30, MARKED),
        ]
    }

    #[test]
    fn a_tree_is_session_descendants_and_marked_daemons() {
        assert_eq!(pids(&world(), Some(10), MARK), [10, 11, 12, 30]);
        assert_eq!(pids(&world(), Some(10), None), [10, 11, 12], "without marks a daemon is lost");
        assert_eq!(pids(&world(), Some(20), Some(Mark { highest: OTHER, span: SPAN })), [20]);
    }

    #[test]
    fn once_the_child_is_reaped_its_number_proves_nothing() {
        // Somebody else's process got number 10, and leads a group of that number.
        let mut world = world();
        world[1] = process(10, 1, 10, 800);
        world[2].parent = 1;
        world[2].group = 11;
        assert_eq!(pids(&world, None, MARK), [11, 12, 30]);
    }

    #[test]
    fn a_lowered_mark_does_not_hide_a_descendant_and_the_dead_are_left_alone() {
        let mut world = world();
        world[3].limit = Some(5);
        world[2].dead = true;
        assert_eq!(pids(&world, Some(10), MARK), [10, 12, 30]);
    }

    #[test]
    fn the_children_of_another_init_beside_this_one_are_not_ours() {
        let mut world = world();
        world.extend([
            process(40, 0, 40, u64::MAX),
            process(41, 40, 41, MARKED),
            process(42, 41, 41, MARKED),
        ]);
        assert_eq!(pids(&world, Some(10), MARK), [10, 11, 12, 30]);
    }

    #[test]
    fn everything_is_what_descends_from_init_and_not_the_machine() {
        let mut world = world();
        world.push(process(40, 0, 40, u64::MAX));
        let everything = Root { pid: None, mark: None, everything: true };
        let mut pids: Vec<_> = members(&world, &everything, 1).iter().map(|p| p.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [10, 11, 12, 20, 30]);
    }

    #[test]
    fn init_is_no_member_of_any_tree() {
        let world = [process(1, 0, 10, MARKED), process(10, 1, 10, MARKED)];
        assert_eq!(pids(&world, Some(10), MARK), [10]);
    }

    #[test]
    fn a_hostile_name_does_not_confuse_the_parser() {
        let tail = "S 7 8 9 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 12345 0 0";
        let parsed = parse_stat(5, &format!("5 (a) Z 1 1 1 (b)) {tail}"), None);
        let expected = Process {
            pid: 5,
            parent: 7,
            group: 8,
            session: 9,
            dead: false,
            ticks: 10,
            started: 12_345,
            limit: None,
        };
        assert_eq!(parsed, Some(expected));
        assert_eq!(parse_stat(5, "5 (short) S 1", None), None);
    }

    #[test]
    fn marks_of_an_init_inside_another_ones_child_stay_within_that_childs() {
        let outer = Marks::below(u64::MAX).expect("the outermost");
        let (first, second) = (outer.mark(1).expect("first"), outer.mark(2).expect("second"));
        let inner = Marks::below(first.highest).expect("inside the first");
        for generation in [1, 2, inner.last_generation] {
            let mark = inner.mark(generation).expect("in range");
            assert!(first.covers(mark.highest) && !second.covers(mark.highest), "{generation}");
        }
        assert_eq!(inner.mark(inner.last_generation + 1), None);
        assert_eq!(Marks::below(inner.mark(1).expect("in range").highest), None);
        assert!(!first.covers(u64::MAX) && !first.covers(0) && !first.covers(second.highest));
    }
}
