//! The only place of init that waits for children, and the only one that signals them.
//!
//! Spawning and reaping happen on the same thread, so a child is registered before anything can reap it.
//! A pid belongs to a child until the child is reaped here: the zombie keeps the number. Hence the rules:
//!
//! - Before its exit was reaped, a child and its process group may be signalled by number.
//! - Afterwards neither may. The group may well live on and its number stays taken as long as it does; but it
//!   may also end unseen, and then the number is free for a stranger. Who wants the leftovers of a group
//!   uses [`Children::kill_tree`], which finds them by other marks and signals through pidfds.
//!
//! All of it is plain data: a successor of this process could be handed the table and go on.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::signals::Signal;
use crate::spawn::{self, Limit, SpawnError, SpawnRequest};
use crate::sys;
use crate::tree::{self, Root};

/// One child for ever: pids come back, generations do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildId {
    pid: i32,
    generation: u64,
}

impl ChildId {
    /// The number others know it by, for display only: it may belong to somebody else by now.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Which child this is, counting from 1 and never given out twice.
    pub fn generation(self) -> u64 {
        self.generation
    }

    #[cfg(test)]
    pub(crate) fn for_test(pid: i32, generation: u64) -> Self {
        Self { pid, generation }
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// It was killed.
    Signal {
        /// By which signal.
        signal: Signal,
        /// Whether the kernel wrote a core dump, or handed one to somebody.
        core_dumped: bool,
    },
}

impl Exit {
    /// The code a shell would show: its own, or 128 + N for signal N.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal { signal, .. } => {
                128_u8.saturating_add(u8::try_from(signal.number()).unwrap_or(127))
            }
        }
    }

    fn from_status(status: i32) -> Self {
        match Signal::new(libc::WTERMSIG(status)) {
            Some(signal) if libc::WIFSIGNALED(status) => {
                Self::Signal { signal, core_dumped: libc::WCOREDUMP(status) }
            }
            _ => Self::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX)),
        }
    }
}

/// What a child and its own reaped children used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, in user mode.
    pub user: Duration,
    /// Time on a processor, in the kernel.
    pub system: Duration,
    /// The largest resident size of any one of them.
    pub max_rss_kib: u64,
}

/// A child that ended and was taken off the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Which.
    pub child: ChildId,
    /// How it ended.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
}

/// What one call of [`Children::reap`] found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Children of ours, in the order they were reaped.
    pub exits: Vec<Reaped>,
    /// Processes somebody else left behind.
    pub orphans: Vec<i32>,
    /// More may be waiting: SIGCHLDs merge, so call again without waiting for another one.
    pub more: bool,
}

/// How many exits are taken before the loop gets to serve others: a fork bomb must not hold it.
pub const REAP_BATCH: usize = 256;

/// The table of living children.
#[derive(Debug, Default)]
pub struct Children {
    living: HashMap<i32, Record>,
    last_generation: u64,
    orphans_reaped: u64,
    marks: Option<tree::Marks>,
}

#[derive(Debug)]
struct Record {
    generation: u64,
    /// Failed before it became a program; the caller was told already.
    stillborn: bool,
}

impl Children {
    /// Children get nothing that they were not promised: for an entrypoint.
    pub fn unmarked() -> Self {
        Self::default()
    }

    /// Every child carries an inherited mark by which [`Children::kill_tree`] finds what descends from it.
    ///
    /// Orphans come to us, as they do to PID 1: who does not descend from this process is not looked at.
    pub fn marked() -> Self {
        if let Err(errno) = prctl::set_child_subreaper(true) {
            tracing::warn!(%errno, "asking for orphans");
        }
        Self { marks: tree::Marks::below_own_limit(), ..Self::default() }
    }

    /// Starts a program and registers it. On success the program was executed.
    pub fn spawn(&mut self, mut request: SpawnRequest<'_>) -> Result<ChildId, SpawnError> {
        self.last_generation += 1;
        let generation = self.last_generation;
        if let Some(mark) = self.mark(generation) {
            request.limits.push(Limit::fixed(tree::MARK_RESOURCE, mark.highest));
        }
        match spawn::spawn(&request) {
            Ok(pid) => {
                self.living.insert(pid.as_raw(), Record { generation, stillborn: false });
                Ok(ChildId { pid: pid.as_raw(), generation })
            }
            Err(error) => {
                if let Some(pid) = error.stillborn {
                    self.living.insert(pid.as_raw(), Record { generation, stillborn: true });
                }
                Err(error)
            }
        }
    }

    /// Takes ended children, until none is left or [`REAP_BATCH`] is reached. Never blocks.
    pub fn reap(&mut self) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..REAP_BATCH {
            let Some(waited) = sys::wait_any() else { return batch };
            if libc::WIFSTOPPED(waited.status) {
                sys::stop_debugging(&waited);
                continue;
            }
            self.file(&waited, &mut batch);
        }
        batch.more = true;
        batch
    }

    /// Sends a signal to one child.
    pub fn signal(&self, child: ChildId, signal: Signal) -> Result<(), SignalError> {
        self.require_living(child)?;
        Ok(sys::kill(child.pid, signal.number())?)
    }

    /// Sends a signal to a child's process group: the child must have been placed in one of its own.
    pub fn signal_group(&self, child: ChildId, signal: Signal) -> Result<(), SignalError> {
        self.require_living(child)?;
        Ok(sys::kill(-child.pid, signal.number())?)
    }

    /// Sends a signal to everything that descends from a child, also after the child itself was reaped.
    ///
    /// SIGKILL is repeated until nobody new turns up. Returns how many processes were signalled.
    pub fn kill_tree(&self, child: ChildId, signal: Signal) -> io::Result<usize> {
        let pid = self.is_living(child).then_some(child.pid);
        let root = Root { pid, mark: self.mark(child.generation), everything: false };
        tree::kill(&root, signal)
    }

    /// The processor time that everything has used that descends from these children; `None` where nothing does.
    pub fn cpu(&self, children: &[ChildId]) -> Option<Duration> {
        let root = |child: &ChildId| Root {
            pid: self.is_living(*child).then_some(child.pid),
            mark: self.mark(child.generation),
            everything: false,
        };
        tree::cpu(&children.iter().map(root).collect::<Vec<_>>())
    }

    /// Sends a signal to every process but init.
    ///
    /// As PID 1 that is every process of the namespace (kill(2), pid -1). Elsewhere -1 would mean the whole
    /// machine, so it is what descends from us, orphans that came to us included.
    pub fn signal_everything(&self, signal: Signal) -> io::Result<()> {
        if Pid::this().as_raw() == 1 {
            return match sys::kill(-1, signal.number()) {
                Ok(()) | Err(Errno::ESRCH) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
        }
        tree::kill(&Root { pid: None, mark: None, everything: true }, signal).map(drop)
    }

    /// Whether the kernel knows of no child of ours any more, adopted orphans included.
    pub fn nothing_left(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::All, flags), Err(Errno::ECHILD))
    }

    /// Whether a child was not reaped yet.
    pub fn is_living(&self, child: ChildId) -> bool {
        self.living.get(&child.pid).is_some_and(|record| record.generation == child.generation)
    }

    /// As if it had been reaped, for tests that share their process with others' children.
    #[cfg(test)]
    pub(crate) fn forget_for_test(&mut self, child: ChildId) {
        self.living.remove(&child.pid);
    }

    /// How many children there are.
    pub fn len(&self) -> usize {
        self.living.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.living.is_empty()
    }

    /// How many processes of others were reaped so far.
    pub fn orphans_reaped(&self) -> u64 {
        self.orphans_reaped
    }

    fn file(&mut self, waited: &sys::Waited, batch: &mut Batch) {
        let pid = waited.pid.as_raw();
        match self.living.remove(&pid) {
            Some(Record { stillborn: true, .. }) => {}
            Some(Record { generation, stillborn: false }) => batch.exits.push(Reaped {
                child: ChildId { pid, generation },
                exit: Exit::from_status(waited.status),
                usage: usage(&waited.usage),
            }),
            None => {
                self.orphans_reaped += 1;
                batch.orphans.push(pid);
            }
        }
    }

    fn mark(&self, generation: u64) -> Option<tree::Mark> {
        self.marks.and_then(|marks| marks.mark(generation))
    }

    fn require_living(&self, child: ChildId) -> Result<(), SignalError> {
        if self.is_living(child) { Ok(()) } else { Err(SignalError::Gone) }
    }
}

/// Why a signal was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalError {
    /// The child was reaped: its number is not its own any more.
    Gone,
    /// The kernel refused.
    Refused(Errno),
}

impl From<Errno> for SignalError {
    fn from(errno: Errno) -> Self {
        if errno == Errno::ESRCH { Self::Gone } else { Self::Refused(errno) }
    }
}

impl std::fmt::Display for SignalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("the process has ended"),
            Self::Refused(errno) => write!(f, "cannot signal the process: {}", errno.desc()),
        }
    }
}

impl std::error::Error for SignalError {}

fn usage(raw: &libc::rusage) -> Usage {
    let time = |time: libc::timeval| {
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(micros)
    };
    Usage {
        user: time(raw.ru_utime),
        system: time(raw.ru_stime),
        max_rss_kib: u64::try_from(raw.ru_maxrss).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    fn waited(pid: i32, status: i32) -> sys::Waited {
        sys::Waited { status, ..sys::Waited::for_test(Pid::from_raw(pid)) }
    }

    fn with_child(pid: i32, generation: u64, stillborn: bool) -> Children {
        let mut children = Children::unmarked();
        children.living.insert(pid, Record { generation, stillborn });
        children
    }

    #[test]
    fn a_reaped_child_is_never_signalled_even_if_its_pid_came_back() {
        let mut children = with_child(77, 1, false);
        let old = ChildId { pid: 77, generation: 1 };
        children.file(&waited(77, 0), &mut Batch::default());
        children.living.insert(77, Record { generation: 2, stillborn: false });
        assert_eq!(children.signal(old, Signal::TERM), Err(SignalError::Gone));
        assert_eq!(children.signal_group(old, Signal::TERM), Err(SignalError::Gone));
    }

    #[test]
    fn exits_orphans_and_stillborn_children_are_told_apart() {
        let mut batch = Batch::default();
        let mut children = with_child(77, 1, false);
        children.living.insert(78, Record { generation: 2, stillborn: true });
        for pid in [77, 78, 79] {
            children.file(&waited(pid, 3 << 8), &mut batch);
        }
        assert_eq!(
            batch.exits.iter().map(|r| (r.child.pid, r.exit)).collect::<Vec<_>>(),
            [(77, Exit::Code(3))]
        );
        assert_eq!((batch.orphans, children.orphans_reaped()), (vec![79], 1));
        assert!(children.is_empty());
    }

    #[test]
    fn statuses_are_read_as_a_shell_would() {
        assert_eq!(Exit::from_status(7 << 8), Exit::Code(7));
        let killed = Exit::from_status(9);
        assert_eq!(killed, Exit::Signal { signal: Signal::KILL, core_dumped: false });
        assert_eq!(killed.shell_code(), 137);
        assert!(matches!(Exit::from_status(0x0b | 0x80), Exit::Signal { core_dumped: true, .. }));
    }
}
