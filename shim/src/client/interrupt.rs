//! A person who calls it off, as something that can be waited for beside everything else.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::wait::wait_any;

/// Signals by which a person calls something off.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// `SIGINT`, `SIGTERM` and `SIGHUP`, taken from this thread and the threads that it starts.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<SignalFd>);

impl Interrupt {
    /// From now on these signals end waits and nothing else. The programs that are started get them as usual. What
    /// was ignored stays so: a pull behind `nohup` or `&` outlives the terminal.
    pub fn take() -> io::Result<Self> {
        let ignored = ignored();
        let is_heard = |signal: &Signal| ignored & (1 << (*signal as u64 - 1)) == 0;
        let set: SigSet = SIGNALS.into_iter().filter(is_heard).collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(Arc::new(SignalFd::with_flags(&set, flags)?)))
    }

    /// Whether somebody has called it off.
    pub fn is_set(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        wait_any(&mut fds, Some(Instant::now())).unwrap_or(false)
    }
}

/// The signals that we were started to ignore, a bit for each (proc_pid_status(5)). A blocked one would be taken all the same.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status).unwrap_or(0)
}

fn parse_ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// As [`super::wait::wait_for`]; fails with `ECANCELED` where it was called off first.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
    interrupt: Option<&Interrupt>,
) -> Result<bool, Errno> {
    let Some(interrupt) = interrupt else { return super::wait::wait_for(fd, flags, deadline) };
    let signals = PollFd::from_borrowed_fd(interrupt.0.as_fd(), PollFlags::IN);
    let mut fds = [PollFd::from_borrowed_fd(fd, flags), signals];
    let in_time = wait_any(&mut fds, deadline)?;
    if fds[1].revents().is_empty() { Ok(in_time) } else { Err(Errno::CANCELED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_as_the_kernel_says_it() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001003\n";
        assert_eq!(parse_ignored(status), Some(0x1003));
        assert_eq!(parse_ignored("Name:\tx\n"), None);
    }
}
