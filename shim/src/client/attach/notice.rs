//! What a viewer is told in words.

use std::fmt::Write as _;

use agent_protocol::{
    exit::{ExitRecord, How, KilledBy},
    message::{Lease, Next, SessionEnded},
};
use nix::sys::signal::Signal;

use crate::terminal::{keys::DetachKeys, sanitize::sanitized};

/// The line behind the last output of a program that ended.
pub(super) fn session_ended(ended: &SessionEnded, keys: &DetachKeys) -> String {
    let mut line = format!("[agent {}", how(&ended.exit));
    // Writing into a string never fails.
    let _always = match &ended.next {
        Next::Restart { delay_ms } => write!(line, "; restarts in {delay_ms} ms]"),
        Next::Parked { reason } => write!(line, "; parked: {}; {keys} leaves]", sanitized(reason)),
        Next::Exited => write!(line, "; the sandbox lives on; {keys} leaves]"),
        Next::End => write!(line, "]"),
    };
    line
}

/// The line that the help key shows.
pub(super) fn help(lease: Lease) -> String {
    let typist = match lease.holder {
        _ if lease.yours => "you type".to_owned(),
        Some(viewer) => format!("viewer {} types", viewer.0),
        None => "nobody types".to_owned(),
    };
    format!("[ctrl-] d: detach, t: take over, h: hand on, ctrl-]: send ctrl-]; {typist}]")
}

fn how(exit: &ExitRecord) -> String {
    let mut text = match exit.how {
        How::Code(code) => format!("exited with code {code}"),
        How::Signal(number) => match Signal::try_from(number) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {number}"),
        },
    };
    text.push_str(match exit.killed_by {
        KilledBy::Itself | KilledBy::Unknown | KilledBy::Client | KilledBy::Disconnect => "",
        KilledBy::Stop => " (stop)",
        KilledBy::Restart => " (restart)",
        KilledBy::Timeout => " (time was up)",
        KilledBy::Watchdog => " (no sign of life)",
        KilledBy::Health => " (unhealthy)",
        KilledBy::Limit => " (a limit)",
        KilledBy::OutOfMemory => " (out of memory)",
    });
    text
}

#[cfg(test)]
mod tests {
    use agent_protocol::message::{SessionId, ViewerId};

    use super::*;
    use crate::client::testing::exited;

    #[test]
    fn a_notice_says_what_happened_and_what_follows() {
        let say = |exit: ExitRecord, next| {
            session_ended(&SessionEnded { session: SessionId(1), exit, next }, &DetachKeys::default())
        };
        let restart = Next::Restart { delay_ms: 100 };
        assert_eq!(say(exited(1), restart), "[agent exited with code 1; restarts in 100 ms]");
        let killed = ExitRecord { how: How::Signal(9), killed_by: KilledBy::OutOfMemory, ..exited(0) };
        assert_eq!(say(killed, Next::End), "[agent was ended by SIGKILL (out of memory)]");
        let parked = Next::Parked { reason: "failed \x1b[2Jthrice".into() };
        assert_eq!(
            say(exited(2), parked),
            r"[agent exited with code 2; parked: failed \x1b[2Jthrice; ctrl-],d leaves]"
        );
    }

    #[test]
    fn help_says_who_types() {
        let lease = |holder: Option<u64>, yours| Lease { holder: holder.map(ViewerId), yours };
        assert!(help(lease(Some(3), true)).ends_with("; you type]"));
        assert!(help(lease(Some(3), false)).ends_with("; viewer 3 types]"));
        assert!(help(lease(None, false)).ends_with("; nobody types]"));
    }
}
