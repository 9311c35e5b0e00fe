//! How a program ended, in words for a person.

use std::fmt;

use crate::{
    exit::{ExitRecord, How, KilledBy},
    message::{Next, SessionEnded},
};

/// The signals that end programs, by number on Linux.
const SIGNALS: [(i32, &str); 18] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (31, "SIGSYS"),
];

impl fmt::Display for ExitRecord {
    /// Completes "the agent ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Code(code) => write!(f, "exited with code {code}")?,
            How::Signal(number) => match SIGNALS.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => write!(f, "was ended by {name}")?,
                None => write!(f, "was ended by signal {number}")?,
            },
        }
        f.write_str(match self.killed_by {
            KilledBy::Itself | KilledBy::Unknown | KilledBy::Client | KilledBy::Disconnect => "",
            KilledBy::Stop => " (stop)",
            KilledBy::Restart => " (restart)",
            KilledBy::Timeout => " (time was up)",
            KilledBy::Watchdog => " (no sign of life)",
            KilledBy::Health => " (unhealthy)",
            KilledBy::Limit => " (a limit)",
            KilledBy::OutOfMemory => " (out of memory)",
        })
    }
}

impl fmt::Display for SessionEnded {
    /// What viewers read below the last output. Whoever got it from inside has to clean it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {}", self.exit)?;
        match &self.next {
            Next::Restart { delay_ms } => write!(f, "; restarts in {delay_ms} ms"),
            Next::Parked { reason } => write!(f, "; parked: {reason}"),
            Next::Exited => f.write_str("; the sandbox lives on"),
            Next::End => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionId;

    fn said(how: How, killed_by: KilledBy, next: Next) -> String {
        let exit = ExitRecord {
            how,
            core_dumped: false,
            killed_by,
            limit: None,
            output_truncated: false,
            ran_ms: 0,
            at_unix_ms: 0,
        };
        SessionEnded { session: SessionId(1), exit, next }.to_string()
    }

    #[test]
    fn it_says_what_happened_and_what_follows() {
        let restart = Next::Restart { delay_ms: 100 };
        assert_eq!(
            said(How::Code(1), KilledBy::Itself, restart),
            "agent exited with code 1; restarts in 100 ms"
        );
        assert_eq!(
            said(How::Signal(9), KilledBy::OutOfMemory, Next::End),
            "agent was ended by SIGKILL (out of memory)"
        );
        assert_eq!(said(How::Signal(40), KilledBy::Stop, Next::End), "agent was ended by signal 40 (stop)");
        let parked = Next::Parked { reason: "thrice".into() };
        assert_eq!(said(How::Code(2), KilledBy::Itself, parked), "agent exited with code 2; parked: thrice");
    }
}
