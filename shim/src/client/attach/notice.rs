//! What a viewer is told in words.

use agent_protocol::message::{Lease, SessionEnded};

use crate::terminal::{keys::DetachKeys, sanitize::sanitized};

/// The line below the last output of a program that ended.
pub(super) fn session_ended(ended: &SessionEnded) -> String {
    format!("[{}]", sanitized(&ended.to_string()))
}

/// The line for who waits for nothing.
pub(super) fn leaves(keys: &DetachKeys) -> String {
    format!("[{keys} leaves]")
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

#[cfg(test)]
mod tests {
    use agent_protocol::message::{Next, SessionId, ViewerId};

    use super::*;
    use crate::client::testing::exited;

    #[test]
    fn a_notice_cannot_act_on_the_terminal() {
        let next = Next::Parked { reason: "failed \x1b[2Jthrice".into() };
        let ended = SessionEnded { session: SessionId(1), exit: exited(2), next };
        assert_eq!(session_ended(&ended), r"[agent exited with code 2; parked: failed \x1b[2Jthrice]");
        assert_eq!(leaves(&DetachKeys::default()), "[ctrl-],d leaves]");
    }

    #[test]
    fn help_says_who_types() {
        let lease = |holder: Option<u64>, yours| Lease { holder: holder.map(ViewerId), yours };
        assert!(help(lease(Some(3), true)).ends_with("; you type]"));
        assert!(help(lease(Some(3), false)).ends_with("; viewer 3 types]"));
        assert!(help(lease(None, false)).ends_with("; nobody types]"));
    }
}
