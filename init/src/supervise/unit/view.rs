//! What the coordinator, and through it everyone else, sees of a unit.

use super::super::event::{ChildId, Instant, UnitId};
use super::super::exit::ExitRecord;
use super::super::status::{UnitState, UnitStatus};
use super::{State, Unit};

impl Unit {
    pub(in super::super) fn id(&self) -> UnitId {
        self.id
    }

    pub(in super::super) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(in super::super) fn child(&self) -> Option<ChildId> {
        match &self.state {
            State::Running(run) | State::Stopping(run, _) => Some(run.child),
            State::Waiting
            | State::Starting { .. }
            | State::Backoff { .. }
            | State::Parked { .. }
            | State::Exited => None,
        }
    }

    pub(in super::super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// It has no process and none is about to appear.
    pub(in super::super) fn is_down(&self) -> bool {
        !matches!(self.state, State::Starting { .. } | State::Running(_) | State::Stopping(..))
    }

    /// By its policy that was all. For a step: it succeeded.
    pub(in super::super) fn has_exited(&self) -> bool {
        matches!(self.state, State::Exited)
    }

    /// It is to be no more.
    pub(in super::super) fn is_going(&self) -> bool {
        self.going
    }

    pub(in super::super) fn was_started(&self) -> bool {
        self.starts > 0
    }

    /// A service that was up once; what came after no longer holds anyone back.
    pub(in super::super) fn has_been_ready(&self) -> bool {
        self.been_ready
    }

    pub(in super::super) fn last_exit(&self) -> Option<&ExitRecord> {
        self.last_exit.as_ref()
    }

    /// Why others wait for this unit in vain, if they do.
    pub(in super::super) fn obstacle(&self) -> Option<String> {
        let done = if self.plan.once { self.has_exited() } else { self.been_ready };
        match &self.state {
            _ if done => None,
            State::Parked { reason } => Some(format!("`{}`: {reason}", self.plan.name)),
            State::Exited => {
                let how = self.last_exit.as_ref().map_or_else(String::new, |record| format!(", {record}"));
                Some(format!("`{}`: exited before it was ready{how}", self.plan.name))
            }
            State::Waiting
            | State::Starting { .. }
            | State::Running(_)
            | State::Stopping(..)
            | State::Backoff { .. } => None,
        }
    }

    /// When the timer has something to do here.
    pub(in super::super) fn next_wake(&self) -> Option<Instant> {
        match &self.state {
            State::Running(run) => {
                let probe = self.probe.as_ref();
                [run.next_due(probe.is_none()), probe.and_then(|probe| probe.kill_at)]
                    .into_iter()
                    .flatten()
                    .min()
            }
            State::Stopping(_, stopping) => {
                stopping.hangup_at.into_iter().chain(stopping.kill_at.or(stopping.stuck_at)).min()
            }
            State::Backoff { until } => Some(*until),
            State::Waiting | State::Starting { .. } | State::Parked { .. } | State::Exited => None,
        }
    }

    pub(in super::super) fn status(&self) -> UnitStatus {
        let state = match &self.state {
            State::Waiting => UnitState::Waiting,
            State::Starting { .. } => UnitState::Starting,
            State::Running(_) => UnitState::Running,
            State::Stopping(_, stopping) => UnitState::Stopping { why: stopping.why },
            State::Backoff { until } => UnitState::Backoff { until: *until },
            State::Parked { reason } => UnitState::Parked { reason: reason.clone() },
            State::Exited => UnitState::Exited,
        };
        UnitStatus {
            unit: self.id,
            name: self.plan.name.clone(),
            state,
            since: self.since,
            child: self.child(),
            restarts: self.starts.saturating_sub(1),
            ready: matches!(&self.state, State::Running(run) if run.ready),
            text: self.text.clone(),
            last_exit: self.last_exit.clone(),
        }
    }
}
