//! Signals as init receives them: all blocked, read one by one, each with who sent it.
//!
//! A signal that is blocked is never dropped, not even by a PID 1 without a handler, so reading them from a
//! descriptor loses nothing and needs no handler anywhere.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use nix::libc;
use nix::sys::signal::{self, SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;
pub use crate::sys::SignalState;

/// What init itself was started with; an entrypoint's child is to get exactly this.
pub fn given() -> SignalState {
    sys::given_signals()
}

/// The signals init reads. A process of its own that faults must die of it, so those stay deliverable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every signal counts, also a SIGPIPE somebody sends: it is to be forwarded.
    Entrypoint,
    /// SIGPIPE stays ignored: a viewer that goes away is an error of one write, nothing more.
    Sandbox,
}

/// Blocks what is to be read, and makes sure that nothing init was given stands in the way.
///
/// Given an ignored SIGCHLD, the kernel would reap our children itself and their exits would be lost.
pub fn take_over(role: Role) -> io::Result<SigSet> {
    let mut set = SigSet::all();
    for signal in SYNCHRONOUS {
        set.remove(signal);
    }
    if role == Role::Sandbox {
        set.remove(signal::Signal::SIGPIPE);
    }
    let given = given();
    for signal in (1..=Signal::MAX).filter(|n| given.ignored & (1 << (n - 1)) != 0) {
        if signal != libc::SIGPIPE {
            sys::default_action(signal);
        }
    }
    signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    Ok(set)
}

/// A signal by number, real-time ones included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(i32);

impl Signal {
    const MAX: i32 = 64;
    /// Hang up.
    pub const HUP: Self = Self(1);
    /// Interrupt.
    pub const INT: Self = Self(2);
    /// Kill, which nobody can refuse.
    pub const KILL: Self = Self(9);
    /// Terminate, which one may refuse.
    pub const TERM: Self = Self(15);
    /// The power is about to fail, or a machine is told to shut down.
    pub const PWR: Self = Self(libc::SIGPWR);
    /// A child ended or stopped.
    pub const CHLD: Self = Self(libc::SIGCHLD);
    /// Continue.
    pub const CONT: Self = Self(libc::SIGCONT);
    /// Stop, which nobody can refuse.
    pub const STOP: Self = Self(libc::SIGSTOP);
    /// The terminal changed its size.
    pub const WINCH: Self = Self(libc::SIGWINCH);
    /// A write nobody reads.
    pub const PIPE: Self = Self(libc::SIGPIPE);
    /// A background process reads from its terminal.
    pub const TTIN: Self = Self(libc::SIGTTIN);
    /// A background process writes to its terminal.
    pub const TTOU: Self = Self(libc::SIGTTOU);

    /// `None` for a number that is no signal.
    pub fn new(number: i32) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// From "SIGTERM", "TERM" or "15".
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Self::new(number);
        }
        let name = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
        let named: signal::Signal = name.parse().ok()?;
        Self::new(named as i32)
    }

    /// The number, as `kill(2)` takes it.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match signal::Signal::try_from(self.number()) {
            Ok(named) => f.write_str(named.as_str()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who sent a signal, as far as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `kill(2)` from outside our PID namespace: the host, or a container engine.
    Outside,
    /// A process of the sandbox, or something a process of the sandbox can bring about.
    Inside,
    /// The kernel itself: a child's exit, ctrl-alt-del on a machine's console.
    Kernel,
}

/// One signal that init read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// From whom.
    pub origin: Origin,
    /// Who sent it, in our PID namespace; 0 if it has no number there.
    pub pid: u32,
}

impl Received {
    /// Reads one `struct signalfd_siginfo`; `None` for a number beyond what we know as signals.
    fn read(fd: &OwnedFd) -> io::Result<Option<Self>> {
        let mut info = [0; SIGNALFD_SIGINFO_BYTES];
        // The kernel hands out whole records only.
        rustix::io::read(fd, &mut info)?;
        let field = |index: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&info[index * 4..][..4]);
            u32::from_ne_bytes(bytes)
        };
        let (number, code, pid) = (field(0), field(2).cast_signed(), field(3));
        Ok(Signal::new(number.cast_signed()).map(|signal| Self {
            signal,
            origin: origin(signal, code, pid),
            pid,
        }))
    }
}

/// Its first fields are signal number, errno, code and pid, 32 bits each, on every architecture.
const SIGNALFD_SIGINFO_BYTES: usize = 128;

/// Pid 0 alone proves nothing.
///
/// With `rt_sigqueueinfo` a sender writes pid and (negative) code himself, and a descriptor with `F_SETOWN`
/// and `F_SETSIG` makes the kernel send any signal with a code of its own and no pid at all. Only
/// `SI_USER`, which nobody but `kill(2)` may write, and `SI_KERNEL` are the kernel's word.
/// (When a sender has used up the queue, a forged signal arrives without its details and looks like
/// `SI_USER` from 0. The seccomp filter therefore refuses signals with forged details, and those to one thread.)
fn origin(signal: Signal, code: i32, pid: u32) -> Origin {
    match code {
        // A real-time signal loses its sender when the queue is full, which anybody inside can see to.
        libc::SI_USER if pid == 0 && signal.number() < FIRST_REAL_TIME => Origin::Outside,
        // Whoever owns a descriptor is told of it in the kernel's name, and F_SETOWN makes anybody the owner.
        libc::SI_KERNEL if [libc::SIGIO, libc::SIGURG].contains(&signal.number()) => Origin::Inside,
        libc::SI_KERNEL => Origin::Kernel,
        // Other codes share these numbers, so they mean a child only with this signal.
        libc::CLD_EXITED..=libc::CLD_CONTINUED if signal == Signal::CHLD => Origin::Kernel,
        _ => Origin::Inside,
    }
}

/// As the kernel counts: libc keeps the first ones for itself.
const FIRST_REAL_TIME: i32 = 32;

/// Reads signals in the event loop.
pub struct Signals {
    fd: AsyncFd<OwnedFd>,
}

impl Signals {
    /// Needs a runtime with I/O. `set` is what [`take_over`] returned.
    pub fn new(set: &SigSet) -> io::Result<Self> {
        let fd = SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd: sys::watch(fd.into(), Interest::READABLE)? })
    }

    /// The next signal. Several SIGCHLD may arrive as one: reap until nobody is left. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Received> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(read) = ready.try_io(|fd| Received::read(fd.get_ref()))
                && let Some(received) = read?
            {
                return Ok(received);
            }
        }
    }
}

/// Reads signals one after the other, sleeping in between: all an entrypoint needs.
pub struct BlockingSignals {
    fd: OwnedFd,
}

impl BlockingSignals {
    /// `set` is what [`take_over`] returned.
    pub fn new(set: &SigSet) -> io::Result<Self> {
        Ok(Self { fd: SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC)?.into() })
    }

    /// Waits for the next signal, without a deadline: somebody ends, or somebody tells us to.
    pub fn wait(&mut self) -> io::Result<Received> {
        loop {
            match Received::read(&self.fd) {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Raised by a fault of the process itself. Blocked, such a fault would kill without the runtime's message.
const SYNCHRONOUS: [signal::Signal; 7] = {
    use signal::Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    [SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kill_from_another_namespace_counts_as_outside() {
        let from = |code, pid| origin(Signal::TERM, code, pid);
        assert_eq!(from(libc::SI_USER, 0), Origin::Outside);
        assert_eq!(from(libc::SI_USER, 7), Origin::Inside);
        assert_eq!(origin(Signal(40), libc::SI_USER, 0), Origin::Inside);
        assert_eq!(from(libc::SI_KERNEL, 0), Origin::Kernel);
        // F_SETOWN without F_SETSIG, and data out of band.
        assert_eq!(origin(Signal(libc::SIGIO), libc::SI_KERNEL, 0), Origin::Inside);
        assert_eq!(origin(Signal(libc::SIGURG), libc::SI_KERNEL, 0), Origin::Inside);
        // rt_sigqueueinfo with a pid of the sender's choice.
        assert_eq!(from(libc::SI_QUEUE, 0), Origin::Inside);
        // F_SETOWN and F_SETSIG: POLL_IN, which is also CLD_EXITED, and no pid.
        assert_eq!(from(1, 0), Origin::Inside);
        assert_eq!(origin(Signal::CHLD, libc::CLD_EXITED, 7), Origin::Kernel);
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(Signal::parse("SIGTERM"), Some(Signal::TERM));
        assert_eq!(Signal::parse("KILL"), Some(Signal::KILL));
        assert_eq!(Signal::parse("64").map(|s| s.to_string()).as_deref(), Some("signal 64"));
        for wrong in ["", "0", "65", "-1", "SIGNOTHING"] {
            assert_eq!(Signal::parse(wrong), None, "{wrong}");
        }
    }
}
