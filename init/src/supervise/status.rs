//! What the supervisor shows: plain data, with no way back in.

use std::time::Duration;

use agent_protocol::spec::Signal;

use super::event::{Attempt, Cause, ChildId, Instant, UnitId};
use super::exit::{ExitRecord, KilledBy};

/// Longest `STATUS=` kept. It is written by what runs inside, and shown on one line.
pub const MAX_STATUS_BYTES: usize = 256;

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the whole stands.
    pub phase: Phase,
    /// Steps, services, agent, in the order of the spec; then further agents.
    pub units: Vec<UnitStatus>,
}

/// Where the whole stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Steps and services come up; the agent was not started yet.
    Setup,
    /// A step or service failed, so the agent is not started until a person restarts.
    SetupFailed {
        /// Which one, and why.
        reason: String,
    },
    /// The setup is done.
    Up,
    /// The agent has exited, and the end waits for a viewer to see it.
    Lingering {
        /// At most until then.
        until: Instant,
    },
    /// The end has begun.
    Stopping {
        /// It is over by then.
        deadline: Instant,
    },
    /// Nothing is done any more.
    Off,
}

/// One unit at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitStatus {
    /// Which.
    pub unit: UnitId,
    /// Its name; the agent's is `agent`.
    pub name: String,
    /// Where it stands.
    pub state: UnitState,
    /// Since when.
    pub since: Instant,
    /// Its process, if there is one.
    pub child: Option<ChildId>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether this run is ready.
    pub ready: bool,
    /// Its last `STATUS=`, on one line and cut to [`MAX_STATUS_BYTES`].
    pub text: Option<String>,
    /// How its last run ended.
    pub last_exit: Option<ExitRecord>,
}

/// Where a unit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// Its turn has not come.
    Waiting,
    /// It is being spawned.
    Starting,
    /// It runs.
    Running,
    /// It was told to end.
    Stopping {
        /// Why.
        why: KilledBy,
    },
    /// It waits to be started again.
    Backoff {
        /// Until then.
        until: Instant,
    },
    /// It is not started again unless a person asks.
    Parked {
        /// Why.
        reason: String,
    },
    /// It has exited, and by its policy that is all. For a step: it succeeded.
    Exited,
}

/// What changed, for the log, the events and whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Something about one unit.
    Unit {
        /// Which.
        unit: UnitId,
        /// What.
        change: Change,
    },
    /// Steps and services are up, the agent is about to start.
    SetupDone,
    /// The agent will not be started until a person restarts what failed.
    SetupFailed {
        /// Which one, and why.
        reason: String,
    },
    /// The agent has exited for good; the end waits for a viewer to see it.
    Lingering {
        /// At most until then.
        until: Instant,
    },
    /// The end has begun.
    ShutdownBegan {
        /// Why.
        cause: Cause,
        /// Without asking anyone.
        force: bool,
        /// It is over by then.
        deadline: Instant,
    },
    /// Everything that is left gets this signal.
    Sweep {
        /// SIGTERM, then SIGKILL.
        signal: Signal,
    },
}

/// What changed about one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is being started.
    Starting {
        /// Which start.
        attempt: Attempt,
    },
    /// It runs.
    Started {
        /// Its process.
        child: ChildId,
    },
    /// It is ready.
    Ready,
    /// It said something about itself; at most one a second is announced.
    Status {
        /// What it said.
        text: String,
    },
    /// It said that it is going down by itself.
    Leaving,
    /// A health command failed.
    Unhealthy {
        /// So often in a row.
        failures: u32,
    },
    /// It was told to end.
    Stopping {
        /// Why.
        why: KilledBy,
    },
    /// It is still there, seconds after SIGKILL.
    Stuck,
    /// Its run is over.
    Exited(ExitRecord),
    /// A step succeeded.
    Done,
    /// It will be started again.
    BackingOff {
        /// After this long.
        delay: Duration,
        /// So many restarts in a row.
        failures: u32,
    },
    /// It will not be started again unless a person asks.
    Parked {
        /// Why.
        reason: String,
    },
    /// It is no more. Nothing of it runs, and its name is free.
    Removed,
}

/// One line of at most [`MAX_STATUS_BYTES`], whatever was sent.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > MAX_STATUS_BYTES {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_short_line() {
        assert_eq!(one_line("a\x1b[2J\nb"), "a [2J b");
        let long = one_line(&"ä".repeat(1000));
        assert_eq!(long.len(), MAX_STATUS_BYTES);
    }
}
