//! Signals of ours as one more descriptor to poll.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// What a person or a program sends to us and means for the command.
pub(crate) const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// What a terminal's session tells us besides.
pub(crate) const TERMINAL: [Signal; 3] = [Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGCONT];

/// This many requests to end within [`INSISTENCE_WINDOW`] end us, whatever the command makes of them.
const INSISTENCE_COUNT: usize = 3;

/// A person who presses Ctrl-C to the beat of a program that answers each time does not mean us.
const INSISTENCE_WINDOW: Duration = Duration::from_secs(1);

/// Where the line with the ignored signals ends at the latest in /proc/PID/status: before it come some forty
/// short lines and the groups.
const STATUS_BYTES: usize = 4096;

/// Signals held back from this thread and read from a descriptor, until it is dropped.
///
/// A signal that the caller of this program set to be ignored, as `nohup` does, is left alone: blocked
/// signals are queued even where they are ignored. Threads started before would still get the others.
#[derive(Debug)]
pub(crate) struct SignalWatch {
    descriptor: SignalFd,
    before: SigSet,
}

impl SignalWatch {
    /// Begins to hold back `signals`.
    pub(crate) fn new(signals: &[Signal]) -> nix::Result<Self> {
        let ignored = ignored_signals();
        let mut set = SigSet::empty();
        for signal in signals {
            if ignored & (1 << (*signal as u32 - 1)) == 0 {
                set.add(*signal);
            }
        }
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { descriptor, before })
    }

    /// The next signal, if one came.
    pub(crate) fn next(&self) -> Option<Signal> {
        let info = self.descriptor.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

impl AsFd for SignalWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        // The mask was ours a moment ago, so that setting it cannot fail.
        let _never_fails = self.before.thread_set_mask();
    }
}

/// Notices when somebody really wants us to go.
#[derive(Debug, Default)]
pub(crate) struct Insistence {
    recent: Vec<Instant>,
}

impl Insistence {
    /// Hears one signal; `true` says that enough of them came in a short time.
    pub(crate) fn hears(&mut self, signal: Signal, now: Instant) -> bool {
        if !matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT) {
            return false;
        }
        self.recent.retain(|at| now.saturating_duration_since(*at) <= INSISTENCE_WINDOW);
        self.recent.push(now);
        self.recent.len() >= INSISTENCE_COUNT
    }
}

/// One bit for each ignored signal. Where /proc does not tell, none is taken for ignored.
fn ignored_signals() -> u64 {
    // One read of a fixed size: reading to the end costs ten, and the line comes early.
    let mut status = [0; STATUS_BYTES];
    let read = File::open("/proc/thread-self/status").and_then(|mut file| file.read(&mut status));
    read.ok().and_then(|count| parse_ignored(&String::from_utf8_lossy(&status[..count]))).unwrap_or(0)
}

fn parse_ignored(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_found() {
        assert_eq!(parse_ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(0x1001));
        assert_eq!(parse_ignored("Name:\tx\n"), None);
        // Rust's runtime ignores SIGPIPE (13), and the test runner nothing else of ours.
        assert_eq!(ignored_signals() & (1 << 12), 1 << 12);
    }

    #[test]
    fn signals_are_read_and_the_mask_is_put_back() {
        let before = SigSet::thread_get_mask().unwrap();
        let watch = SignalWatch::new(&[Signal::SIGUSR1]).unwrap();
        assert_eq!(watch.next(), None);
        nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), Signal::SIGUSR1).unwrap();
        assert_eq!(watch.next(), Some(Signal::SIGUSR1));
        drop(watch);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn three_quick_requests_to_end_are_insistence_and_three_slow_ones_are_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut slow = Insistence::default();
        assert!((0..20).all(|turn| !slow.hears(Signal::SIGINT, at(turn * 600))));
        let mut other = Insistence::default();
        assert!((0..20).all(|turn| !other.hears(Signal::SIGUSR1, at(turn))));
        let mut quick = Insistence::default();
        assert!(!quick.hears(Signal::SIGINT, at(0)));
        assert!(!quick.hears(Signal::SIGTERM, at(10)));
        assert!(quick.hears(Signal::SIGINT, at(20)));
    }
}
