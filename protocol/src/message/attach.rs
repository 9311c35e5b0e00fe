use serde::{Deserialize, Serialize};

use super::exec::TerminalSize;
use crate::exit::ExitRecord;

/// Names one run of a program on a terminal; a restart makes a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// Names one viewer while it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ViewerId(pub u64);

/// What a viewer starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachFrom {
    /// A picture of the screen, then what comes.
    Screen,
    /// The bytes from this stream offset on, as far as they are kept, then what comes.
    Offset(u64),
}

/// How much a viewer wants to type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseWish {
    /// Only watch.
    Watch,
    /// Type if nobody else does.
    IfFree,
    /// Type, taking the lease from whoever has it.
    TakeOver,
}

/// See and drive the agent's terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// How much the viewer wants to type.
    pub lease: LeaseWish,
    /// The viewer's terminal, if it has one; the lease holder's size becomes the agent's.
    pub size: Option<TerminalSize>,
    /// What to begin with.
    pub from: AttachFrom,
}

/// What a viewer does with the write lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseAction {
    /// Take it, whoever has it.
    TakeOver,
    /// Give it up; the longest attached viewer that wants to type gets it.
    HandOn,
    /// Give it to this viewer.
    HandTo(ViewerId),
}

/// Who may type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The holder, if there is one.
    pub holder: Option<ViewerId>,
    /// Whether it is the viewer that this is said to.
    pub yours: bool,
}

/// The viewer is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its name.
    pub viewer: ViewerId,
    /// What runs on the terminal, or ran last.
    pub session: Option<SessionId>,
    /// Who may type.
    pub lease: Lease,
    /// The terminal's size.
    pub size: TerminalSize,
}

/// What follows the end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// A new one after this time.
    Restart {
        /// Milliseconds until then.
        delay_ms: u64,
    },
    /// Nothing, until somebody says `restart`.
    Parked {
        /// Why.
        reason: String,
    },
    /// Nothing: it was not to be started again. The sandbox lives on.
    Exited,
    /// The sandbox ends.
    End,
}

/// The program on the terminal ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnded {
    /// Which run.
    pub session: SessionId,
    /// How it ended.
    pub exit: ExitRecord,
    /// What follows.
    pub next: Next,
}

/// A new program runs on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStarted {
    /// Which run.
    pub session: SessionId,
    /// Its process id inside.
    pub pid: u32,
}
