//! What the monitor knows about the agent from init's events, for the time after init.

use agent_protocol::message::{Event, What};

use crate::sandbox::view::{AgentState, AgentView, ExitView, rfc3339};

/// The agent's name among the units.
pub(super) const AGENT: &str = "agent";

/// Brings what is known up to date.
pub(super) fn follow(agent: &mut AgentView, event: &Event) {
    match &event.what {
        What::UnitStarted { unit, pid, attempt, .. } if unit == AGENT => {
            agent.state = AgentState::Starting;
            agent.pid = Some(*pid);
            agent.restarts = attempt.saturating_sub(1);
            agent.started_at = Some(rfc3339(event.unix_ms));
            agent.reason = None;
        }
        What::UnitReady { unit } if unit == AGENT => agent.state = AgentState::Running,
        What::UnitStatusText { unit, text } if unit == AGENT => agent.status_text = Some(text.clone()),
        What::UnitExited { unit, exit } if unit == AGENT => {
            agent.state = AgentState::Exited;
            agent.pid = None;
            agent.last_exit = Some(ExitView::from(exit));
        }
        What::UnitFailed { unit, reason } if unit == AGENT => {
            agent.state = AgentState::Exited;
            agent.reason = Some(reason.clone());
        }
        What::UnitBackoff { unit, .. } if unit == AGENT => agent.state = AgentState::Backoff,
        What::UnitParked { unit, reason } if unit == AGENT => {
            agent.state = AgentState::Parked;
            agent.reason = Some(reason.clone());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{
        exit::{ExitRecord, How, KilledBy},
        message::UnitKind,
    };

    #[test]
    fn a_restart_that_ends_parked_is_remembered_whole() {
        let unit = || AGENT.to_owned();
        let exit = ExitRecord {
            how: How::Code(3),
            core_dumped: false,
            killed_by: KilledBy::Itself,
            limit: None,
            output_truncated: false,
            ran_ms: 1,
            at_unix_ms: 2,
        };
        let mut agent = AgentView::in_state(AgentState::Setup);
        for what in [
            What::UnitStarted { unit: unit(), kind: UnitKind::Agent, pid: 2, attempt: 3 },
            What::UnitReady { unit: unit() },
            What::UnitReady { unit: "db".to_owned() },
            What::UnitStarted { unit: "worktree.x".to_owned(), kind: UnitKind::Agent, pid: 9, attempt: 1 },
            What::UnitExited { unit: unit(), exit },
            What::UnitParked { unit: unit(), reason: "three times".to_owned() },
        ] {
            follow(&mut agent, &Event { seq: 1, unix_ms: 0, what });
        }
        assert_eq!((agent.state, agent.restarts, agent.pid), (AgentState::Parked, 2, None));
        assert_eq!(agent.reason.as_deref(), Some("three times"));
        assert_eq!(agent.last_exit.unwrap().code, Some(3));
    }
}
