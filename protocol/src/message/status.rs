use serde::{Deserialize, Serialize};

use super::attach::{SessionId, ViewerId};
use crate::{bounded::AtMost, exit::ExitRecord};

/// Longest [`Status::units`]: more than a spec can name.
pub const MAX_UNITS: usize = 256;

/// Longest [`Status::warnings`].
pub const MAX_WARNINGS: usize = 256;

/// What the sandbox as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Setup steps and services come up.
    Setup,
    /// A setup step failed; the agent was not started, the sandbox lives on.
    SetupFailed,
    /// The agent had its start; see its own state.
    Running,
    /// The end has begun.
    Stopping,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitKind {
    /// The agent, on its terminal.
    Agent,
    /// An ordered one-shot before the agent.
    Step,
    /// A process beside the agent.
    Service,
}

/// What a unit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitState {
    /// It waits for those before it.
    Waiting,
    /// It was executed and is not ready yet.
    Starting,
    /// It is ready.
    Running,
    /// It ended and starts again at a set time.
    Backoff,
    /// It ended too often; it starts again when somebody says so.
    Parked,
    /// It ended and is not to be started again.
    Exited,
    /// It was asked to end.
    Stopping,
}

/// The state of one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name; `agent` for the agent.
    pub name: String,
    /// What it is.
    pub kind: UnitKind,
    /// What it is doing.
    pub state: UnitState,
    /// Its process id inside while it runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// When it was started last, milliseconds since the Unix epoch.
    pub started_at_unix_ms: Option<u64>,
    /// In `Backoff`: when it starts again, in milliseconds from now.
    pub next_start_ms: Option<u64>,
    /// Why it is parked.
    pub reason: Option<String>,
    /// What it said last with `STATUS=`.
    pub status_text: Option<String>,
    /// How it ended last.
    pub last_exit: Option<ExitRecord>,
}

/// The agent's terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The run on the terminal now, or the last one.
    pub session: Option<SessionId>,
    /// Bytes the agent has written so far.
    pub output_bytes: u64,
    /// Who may type.
    pub lease: Option<ViewerId>,
}

/// What is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections to init, this one included.
    pub connections: u32,
    /// Viewers of the agent's terminal.
    pub viewers: u32,
    /// Commands that run.
    pub execs: u32,
    /// Processes inside, init included.
    pub processes: u32,
    /// Orphans reaped so far.
    pub orphans_reaped: u64,
}

/// What the sandbox uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory of all processes inside, shared pages counted once for each.
    pub memory_bytes: u64,
    /// CPU time of all processes that live or were reaped.
    pub cpu_ms: u64,
}

/// What is used of what may be used. What nobody counts, or nothing bounds, is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Memory that the cgroup counts now, files in memory among it.
    pub memory_bytes: Option<u64>,
    /// The most that it has counted.
    pub memory_peak_bytes: Option<u64>,
    /// The most that it may count.
    pub memory_limit_bytes: Option<u64>,
    /// Processor time so far, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Processor time that may be used, in thousandths of one processor.
    pub cpu_limit_milli: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// The most that may be.
    pub pids_limit: Option<u64>,
    /// Processes that the kernel has ended because memory ran out.
    pub out_of_memory: Option<u64>,
}

/// The whole state. It fits into one frame: init cuts the texts in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the init binary.
    pub init_version: String,
    /// Milliseconds since init began.
    pub uptime_ms: u64,
    /// What the sandbox is doing.
    pub phase: Phase,
    /// Agent, steps and services, the agent first; at most [`MAX_UNITS`].
    #[serde(with = "AtMost::<MAX_UNITS>")]
    pub units: Vec<UnitStatus>,
    /// The agent's terminal.
    pub agent: AgentStatus,
    /// What is open now.
    pub counts: Counts,
    /// What is used.
    pub usage: Usage,
    /// What init could not do as asked, each one sentence; at most [`MAX_WARNINGS`].
    #[serde(with = "AtMost::<MAX_WARNINGS>")]
    pub warnings: Vec<String>,
}
