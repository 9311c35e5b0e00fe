//! What the supervisor is told, and what it asks for: its whole surface to the world.

use std::fmt;
use std::ops::Add;
use std::rc::Rc;
use std::time::Duration;

use agent_protocol::spec::{Agent, Signal};

use super::exit::{Ended, ExitRecord, SpawnError};
use super::status::Announcement;

/// A point in time, as the time since init started. The supervisor reads no clock: the caller says what time
/// it is, and tests make it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub Duration);

impl Instant {
    /// The time from `earlier` to here, zero if it is the other way round.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// One thing that is supervised: by its place in the spec, or by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitId {
    /// A setup step.
    Step(usize),
    /// A service.
    Service(usize),
    /// The agent.
    Agent,
    /// A further agent, by a number that is never given to another.
    Further(u32),
}

/// A child process that the caller spawned. Never given out twice, unlike a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub u64);

/// One start of one unit. Numbers grow over all units and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// One run of a readiness or health command. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub u64);

/// Everything the supervisor can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to [`Action::Start`]: it was executed.
    Started {
        /// Which unit.
        unit: UnitId,
        /// Which start.
        attempt: Attempt,
        /// The process, leader of its group.
        child: ChildId,
    },
    /// The other answer to [`Action::Start`]. Each start gets exactly one.
    SpawnFailed {
        /// Which unit.
        unit: UnitId,
        /// Which start.
        attempt: Attempt,
        /// Why.
        error: SpawnError,
    },
    /// A unit's process was reaped. Others may be reported too, and are of no interest.
    Exited {
        /// The process.
        child: ChildId,
        /// How it ended.
        ended: Ended,
        /// Whether the kernel counted an out-of-memory kill meanwhile.
        oom: bool,
    },
    /// The time of the last [`Action::WakeAt`] has come.
    Timer,
    /// A message on the unit's `NOTIFY_SOCKET`.
    Notify {
        /// The unit's process of that run, whoever in its group wrote.
        child: ChildId,
        /// What it said.
        notice: Notice,
    },
    /// The unit's process wrote its first byte.
    FirstOutput {
        /// The process.
        child: ChildId,
    },
    /// The answer to [`Action::StartProbe`], killed or not. Each probe gets exactly one, once it is gone.
    ProbeResult {
        /// Which unit.
        unit: UnitId,
        /// Which probe.
        probe: ProbeId,
        /// Whether it exited with code 0.
        ok: bool,
    },
    /// A person asks for a new run; this revives what was parked or has exited, and goes on with a failed setup.
    Restart {
        /// Which unit.
        unit: UnitId,
    },
    /// A person asks that one unit stops and stays so.
    StopUnit {
        /// Which unit.
        unit: UnitId,
    },
    /// One more agent is to be there from now on.
    Add {
        /// Its number; the spec's own further agents have the first ones, from 0 on.
        number: u32,
        /// Its name.
        name: String,
        /// What it is.
        agent: Rc<Agent>,
    },
    /// A further agent is to end and to be no more.
    Remove {
        /// Which unit.
        unit: UnitId,
        /// Without its grace.
        force: bool,
    },
    /// The sandbox is to end.
    Stop {
        /// In at most this time, instead of the spec's `shutdown.total_ms`, if that is shorter.
        within: Option<Duration>,
        /// Without asking anyone.
        force: bool,
    },
    /// A signal from outside is passed on to the agent, as an entry point does.
    Forward {
        /// The signal.
        signal: Signal,
        /// To its group.
        group: bool,
    },
    /// Nothing runs any more but init. To be reported after each [`Action::KillEverything`] as soon as it is so.
    AllProcessesGone,
    /// Someone has read the agent's last exit.
    ViewerSawExit,
}

/// What a unit says about itself, as in sd_notify(3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `READY=1`
    Ready,
    /// `STATUS=`
    Status(String),
    /// `WATCHDOG=1`
    Watchdog,
    /// `WATCHDOG=trigger`: it found itself broken.
    WatchdogTrigger,
    /// `STOPPING=1`
    Stopping,
}

/// Everything the supervisor can ask for. The caller obeys in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Spawn the unit in a process group of its own and report [`Event::Started`] or [`Event::SpawnFailed`].
    Start {
        /// Which unit.
        unit: UnitId,
        /// To be named in the answer.
        attempt: Attempt,
    },
    /// Signal a unit's process, which was started and is not reaped.
    Signal {
        /// The process.
        child: ChildId,
        /// The signal.
        signal: Signal,
        /// The whole group it leads.
        group: bool,
    },
    /// Run the unit's readiness or health command and report [`Event::ProbeResult`].
    StartProbe {
        /// Which unit.
        unit: UnitId,
        /// To be named in the answer.
        probe: ProbeId,
        /// Which command.
        kind: ProbeKind,
    },
    /// Kill that command's group. Its result is still to be reported.
    KillProbe {
        /// Which unit.
        unit: UnitId,
        /// Which probe.
        probe: ProbeId,
    },
    /// Send [`Event::Timer`] then. This replaces the time asked for before.
    WakeAt(Instant),
    /// Tell whoever listens.
    Announce(Announcement),
    /// The request just handled was not done.
    Refuse {
        /// Why not.
        reason: String,
    },
    /// Signal every process but init.
    KillEverything(Signal),
    /// End. Nothing follows.
    PowerOff(Ending),
}

/// Which of a unit's commands a probe runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// The readiness command.
    Readiness,
    /// The health command.
    Health,
}

/// How the sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Init's own exit code: the agent's; without an agent 0; after a failed setup 1.
    pub code: u8,
    /// The agent's last exit, if it ran.
    pub agent: Option<ExitRecord>,
    /// Why it ended.
    pub cause: Cause,
}

/// Why the sandbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked.
    Requested,
    /// The agent exited, and the spec says `on_agent_exit: end`.
    AgentExited,
}
