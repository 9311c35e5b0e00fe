use serde::{Deserialize, Serialize};

use super::{
    attach::{SessionId, ViewerId},
    exec::ExecId,
    status::UnitKind,
};
use crate::exit::ExitRecord;

/// Receive events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// Begin behind the event with this number; 0 for all that are kept.
    pub after: u64,
    /// Whether to stay for what comes.
    pub follow: bool,
}

/// Something that happened inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 without a gap; a gap that a reader sees is what was dropped.
    pub seq: u64,
    /// When, milliseconds since the Unix epoch on the clock inside.
    pub unix_ms: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Init answers requests.
    Booted,
    /// A unit was executed.
    UnitStarted {
        /// Its name.
        unit: String,
        /// What it is.
        kind: UnitKind,
        /// Its process id inside.
        pid: u32,
        /// 1 for the first start.
        attempt: u64,
    },
    /// A unit could not be executed.
    UnitFailed {
        /// Its name.
        unit: String,
        /// Why.
        reason: String,
    },
    /// A unit says that it is ready, or did what counts as that.
    UnitReady {
        /// Its name.
        unit: String,
    },
    /// A unit said something with `STATUS=`.
    UnitStatusText {
        /// Its name.
        unit: String,
        /// What it said.
        text: String,
    },
    /// A health probe failed.
    UnitUnhealthy {
        /// Its name.
        unit: String,
        /// How often in a row.
        failures: u32,
    },
    /// A unit ended.
    UnitExited {
        /// Its name.
        unit: String,
        /// How.
        exit: ExitRecord,
    },
    /// A unit waits before its next start.
    UnitBackoff {
        /// Its name.
        unit: String,
        /// For how long.
        delay_ms: u64,
    },
    /// A unit is not started again until somebody says so.
    UnitParked {
        /// Its name.
        unit: String,
        /// Why.
        reason: String,
    },
    /// All steps are done and all services are ready.
    SetupDone,
    /// A step or service failed; the agent is not started.
    SetupFailed {
        /// Why.
        reason: String,
    },
    /// A new run on the agent's terminal.
    SessionStarted {
        /// Which.
        session: SessionId,
    },
    /// A viewer came.
    ViewerAttached {
        /// Who.
        viewer: ViewerId,
    },
    /// A viewer went.
    ViewerDetached {
        /// Who.
        viewer: ViewerId,
    },
    /// The write lease changed hands.
    LeaseChanged {
        /// Who has it now.
        holder: Option<ViewerId>,
    },
    /// A command was executed.
    ExecStarted {
        /// Which.
        exec: ExecId,
        /// Its process id inside.
        pid: u32,
        /// Its program and arguments, cut to 256 bytes, printable.
        command: String,
    },
    /// A command ended.
    ExecExited {
        /// Which.
        exec: ExecId,
        /// How.
        exit: ExitRecord,
    },
    /// Orphans were reaped; several at once count as one event.
    OrphansReaped {
        /// How many.
        count: u64,
    },
    /// The end has begun.
    Stopping {
        /// Whether the graceful part is skipped.
        force: bool,
    },
    /// Something went wrong that ends nothing.
    Warning {
        /// What.
        message: String,
    },
    /// Init ends; the last event.
    Ended {
        /// The exit code that init ends with.
        code: u8,
    },
    /// A unit was taken away; one of that name that comes later is another.
    UnitRemoved {
        /// Its name.
        unit: String,
    },
    /// Branches, tags or `HEAD` of the watched repository may have changed; several changes at once count as one event.
    RefsChanged,
    /// The agent has done nothing that shows, for as long as it was asked to be told of.
    Quiet {
        /// For how long by now.
        idle_ms: u64,
    },
    /// Something is done again after it was quiet.
    Active,
}
