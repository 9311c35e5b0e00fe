//! A process on the host that may be somebody else's child, and may be gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process that stays recognisable: a pid is reused, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number on the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// A held process: whatever happens to the number, this is still the same one.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: OwnedFd,
}

impl Process {
    /// The process that has this number now; `None` when there is none.
    pub fn now(pid: i32) -> io::Result<Option<Process>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Process::holding(pid, pidfd).map(Some),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The process that was recorded; `None` when it is gone, even if its number is in use again.
    pub fn find(id: ProcessId) -> io::Result<Option<Process>> {
        Ok(Process::now(id.pid)?.filter(|process| process.id == id))
    }

    /// Takes a pidfd that is known to belong to `pid`.
    pub(crate) fn holding(pid: i32, pidfd: OwnedFd) -> io::Result<Process> {
        // The pidfd pins the number, so what /proc says under it is about this very process.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks = start_ticks(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("no start time in /proc/{pid}/stat"))
        })?;
        Ok(Process { id: ProcessId { pid, start_ticks }, pidfd })
    }

    /// What to record, to find it again later.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it has not exited yet; a zombie has.
    pub fn alive(&self) -> io::Result<bool> {
        self.exited_within(Duration::ZERO).map(|exited| !exited)
    }

    /// Waits for its exit, at most this long. It need not be a child of ours.
    pub fn exited_within(&self, patience: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let timeout = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }

    /// Sends a signal; fine if the process is gone already.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Process {
    /// Readable once the process has exited.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Field 22 of /proc/PID/stat. The name in field 2 may hold spaces and brackets, so counting starts behind it.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(") ")?.1;
    after_name.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 10";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(start_ticks("7 (cut"), None);
    }

    #[test]
    fn a_recycled_number_is_not_the_recorded_process() {
        let me = Process::now(std::process::id().cast_signed()).unwrap().unwrap();
        assert!(me.alive().unwrap());
        assert!(Process::find(me.id()).unwrap().is_some());
        let earlier = ProcessId { start_ticks: me.id().start_ticks - 1, ..me.id() };
        assert!(Process::find(earlier).unwrap().is_none());
    }

    #[test]
    fn an_exited_child_is_dead_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::now(child.id().cast_signed()).unwrap().unwrap();
        assert!(process.exited_within(Duration::from_secs(10)).unwrap());
        assert!(!process.alive().unwrap());
        child.wait().unwrap();
        process.signal(Signal::KILL).unwrap();
        assert!(Process::find(process.id()).unwrap().is_none());
    }
}
