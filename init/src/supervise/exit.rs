//! How a run ended, and who ended it.

use std::fmt;
use std::time::Duration;

use agent_protocol::spec::Signal;

use super::event::Instant;

/// How a process ended, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited.
    Code(u8),
    /// It was killed.
    Signal {
        /// By this signal.
        signal: Signal,
        /// And the kernel wrote a core.
        core_dumped: bool,
    },
    /// It never ran.
    NotStarted(SpawnError),
}

/// Why a unit could not be spawned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnError {
    /// Which kind of failure.
    pub kind: SpawnErrorKind,
    /// The failed step and its error, for a person.
    pub message: String,
}

/// Kinds of spawn failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnErrorKind {
    /// No such program.
    NotFound,
    /// It is there, but cannot be executed.
    NotExecutable,
    /// Its folder is missing or closed.
    BadDirectory,
    /// Ids, capabilities or limits were refused.
    Permission,
    /// No processes, memory or descriptors left.
    Limit,
    /// No terminal to be had.
    Pty,
    /// Anything else.
    Other,
}

impl SpawnErrorKind {
    /// Whether the same command will fail in the same way until somebody changes files.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::NotFound | Self::NotExecutable | Self::BadDirectory => true,
            Self::Permission | Self::Limit | Self::Pty | Self::Other => false,
        }
    }
}

impl Ended {
    /// Whether it is what a program returns that did its work.
    pub fn is_success(&self) -> bool {
        *self == Self::Code(0)
    }

    /// As a shell would say it: the code, 128 + N for signal N, 127 for no such program, 126 for one that
    /// cannot be executed; 125 if the failure is ours and not the command's.
    pub fn shell_code(&self) -> u8 {
        match self {
            Self::Code(code) => *code,
            Self::Signal { signal, .. } => u8::try_from(128 + signal.number()).unwrap_or(u8::MAX),
            Self::NotStarted(error) => match error.kind {
                SpawnErrorKind::NotFound => 127,
                SpawnErrorKind::NotExecutable | SpawnErrorKind::BadDirectory => 126,
                SpawnErrorKind::Permission
                | SpawnErrorKind::Limit
                | SpawnErrorKind::Pty
                | SpawnErrorKind::Other => 125,
            },
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core_dumped: false } => write!(f, "killed by {signal}"),
            Self::Signal { signal, core_dumped: true } => write!(f, "killed by {signal}, core dumped"),
            Self::NotStarted(error) => write!(f, "not started: {error}"),
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SpawnErrorKind::NotFound => "command not found",
            SpawnErrorKind::NotExecutable => "command not executable",
            SpawnErrorKind::BadDirectory => "bad directory",
            SpawnErrorKind::Permission => "permission denied",
            SpawnErrorKind::Limit => "out of resources",
            SpawnErrorKind::Pty => "no terminal",
            SpawnErrorKind::Other => "spawn failed",
        };
        if self.message.is_empty() { f.write_str(kind) } else { write!(f, "{kind}: {}", self.message) }
    }
}

/// Who ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KilledBy {
    /// A person, by stop.
    Stop,
    /// A person, by restart.
    Restart,
    /// The supervisor, after a time limit.
    Timeout,
    /// The supervisor, for want of `WATCHDOG=1`.
    Watchdog,
    /// The supervisor, after failed health commands.
    Health,
    /// The kernel, at a resource limit.
    Limit,
    /// The kernel, out of memory.
    Oom,
    /// It returned, or crashed.
    Itself,
    /// Somebody else: a SIGKILL from inside or from the host leaves no trace.
    Unknown,
}

/// One finished run, as kept and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// How.
    pub ended: Ended,
    /// By whom.
    pub killed_by: KilledBy,
    /// When.
    pub at: Instant,
    /// How long it had run.
    pub ran: Duration,
}

impl fmt::Display for ExitRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ended.fmt(f)?;
        match self.killed_by {
            KilledBy::Stop => f.write_str(" (stopped)"),
            KilledBy::Restart => f.write_str(" (restarted)"),
            KilledBy::Timeout => f.write_str(" (timed out)"),
            KilledBy::Watchdog => f.write_str(" (watchdog)"),
            KilledBy::Health => f.write_str(" (unhealthy)"),
            KilledBy::Limit => f.write_str(" (resource limit)"),
            KilledBy::Oom => f.write_str(" (out of memory)"),
            KilledBy::Itself | KilledBy::Unknown => Ok(()),
        }
    }
}

/// The signals we sent to one run, and why: the only way to tell our SIGKILL from another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// One bit for each signal number.
    signals: u64,
    /// Why we are ending the run, once we are.
    why: Option<KilledBy>,
}

impl Sent {
    pub(super) fn add(&mut self, signal: Signal) {
        self.signals |= bit(signal);
    }

    /// The first reason stays: what comes later only hurries.
    pub(super) fn because(&mut self, why: KilledBy) {
        self.why.get_or_insert(why);
    }

    fn has(self, signal: Signal) -> bool {
        self.signals & bit(signal) != 0
    }

    /// Who ended a run that got these signals and ended like this.
    pub(super) fn killed_by(self, ended: &Ended, oom: bool) -> KilledBy {
        match ended {
            Ended::NotStarted(_) => KilledBy::Itself,
            Ended::Code(_) => self.why.unwrap_or(KilledBy::Itself),
            // A signal that was only passed on, and was deadly: somebody outside wanted it to end.
            Ended::Signal { signal, .. } if self.has(*signal) => self.why.unwrap_or(KilledBy::Stop),
            Ended::Signal { signal, .. } => match signal.to_string().as_str() {
                "SIGKILL" if oom => KilledBy::Oom,
                "SIGXCPU" | "SIGXFSZ" => KilledBy::Limit,
                "SIGSEGV" | "SIGABRT" | "SIGBUS" | "SIGILL" | "SIGFPE" | "SIGSYS" | "SIGTRAP" | "SIGPIPE" => {
                    KilledBy::Itself
                }
                _other => KilledBy::Unknown,
            },
        }
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.number() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(name: &str) -> Ended {
        Ended::Signal { signal: name.parse().unwrap(), core_dumped: false }
    }

    fn sent(signals: &[&str], why: Option<KilledBy>) -> Sent {
        let mut sent = Sent { why, ..Sent::default() };
        for name in signals {
            sent.add(name.parse().unwrap());
        }
        sent
    }

    #[test]
    fn who_killed_it() {
        use KilledBy::{Health, Itself, Limit, Oom, Stop, Timeout, Unknown, Watchdog};
        let table = [
            // Nothing sent.
            (signal("KILL"), false, &[][..], None, Unknown),
            (signal("TERM"), false, &[], None, Unknown),
            (signal("KILL"), true, &[], None, Oom),
            (signal("SEGV"), true, &[], None, Itself),
            (signal("XCPU"), false, &[], None, Limit),
            (signal("XFSZ"), false, &[], None, Limit),
            (signal("SYS"), false, &[], None, Itself),
            (signal("PIPE"), false, &[], None, Itself),
            (Ended::Code(0), false, &[], None, Itself),
            (Ended::Code(137), true, &[], None, Itself),
            // Ours.
            (signal("TERM"), false, &["TERM"], Some(Stop), Stop),
            (signal("KILL"), false, &["TERM", "KILL"], Some(Timeout), Timeout),
            (signal("KILL"), true, &["TERM", "KILL"], Some(Stop), Stop),
            (signal("ABRT"), false, &["ABRT"], Some(Watchdog), Watchdog),
            (Ended::Code(0), false, &["TERM"], Some(Stop), Stop),
            (Ended::Code(1), false, &["TERM"], Some(Health), Health),
            // We sent something, but this is not what killed it.
            (signal("KILL"), true, &["TERM"], Some(Stop), Oom),
            (signal("KILL"), false, &["TERM"], Some(Stop), Unknown),
            (signal("SEGV"), false, &["TERM"], Some(Stop), Itself),
            // Passed on for somebody outside.
            (signal("INT"), false, &["INT"], None, Stop),
            (Ended::Code(0), false, &["USR1"], None, Itself),
        ];
        for (ended, oom, signals, why, expected) in table {
            let found = sent(signals, why).killed_by(&ended, oom);
            assert_eq!(found, expected, "{ended}, oom {oom}, sent {signals:?} for {why:?}");
        }
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        let not_started = |kind| Ended::NotStarted(SpawnError { kind, message: String::new() });
        let table = [
            (Ended::Code(3), 3),
            (signal("KILL"), 137),
            (signal("RTMIN+30"), 192),
            (not_started(SpawnErrorKind::NotFound), 127),
            (not_started(SpawnErrorKind::NotExecutable), 126),
            (not_started(SpawnErrorKind::Limit), 125),
        ];
        for (ended, code) in table {
            assert_eq!(ended.shell_code(), code, "{ended}");
        }
    }
}
