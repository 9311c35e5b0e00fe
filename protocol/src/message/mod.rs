//! Every control message, by operation.
//!
//! A connection carries one [`Request`], then the operation's own frames. A message never changes once it
//! was released: fields are not added, removed or reordered, and variants are only ever added at the end.
//! `protocol/schema/generation-1.json` is the frozen form, and a test holds the code against it.

use serde::{Deserialize, Serialize};

mod attach;
mod event;
mod exec;
mod git;
mod log;
mod status;
mod unit;

pub use attach::{
    AttachFrom, AttachRequest, Attached, Lease, LeaseAction, LeaseWish, Next, SessionEnded, SessionId,
    SessionStarted, ViewerId,
};
pub use event::{Event, EventsRequest, What};
pub use exec::{
    ExecExited, ExecId, ExecRequest, ExecStarted, INPUT_WINDOW_BYTES, MAX_ARGV, MAX_ENV, Stdio, TerminalSize,
};
pub use git::{GitRequest, GitService};
pub use log::{LogFrom, LogRequest};
pub use status::{
    AgentStatus, Counts, MAX_UNITS, MAX_WARNINGS, Phase, Resources, Status, UnitKind, UnitState, UnitStatus,
    Usage,
};
pub use unit::{AddAgent, AttachTo};

use crate::failure::Failure;

/// What the shim asks for, once per connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? Answered with `Pong`. Liveness, not activity: it changes no idle clock.
    Ping,
    /// Tell everything. Answered with `Status`.
    Status,
    /// Run a command. Answered with `ExecStarted`, its streams, and `ExecExited`.
    Exec(ExecRequest),
    /// Wait for the exit of a command whose connection was lost. Answered with `ExecExited`.
    ExecWait(ExecId),
    /// Send a signal to a command by its id. Answered with `Done`.
    ExecSignal {
        /// Which one.
        exec: ExecId,
        /// Signal number, 1 to 64.
        signal: i32,
    },
    /// See and drive the agent's terminal.
    Attach(AttachRequest),
    /// Receive events, kept ones first.
    Events(EventsRequest),
    /// Receive a unit's output, kept bytes first.
    Log(LogRequest),
    /// Start the agent anew, whatever state it is in. Answered with `Done` once it is under way.
    RestartAgent,
    /// Send a signal to the agent's process group. Answered with `Done`.
    SignalAgent {
        /// Signal number, 1 to 64.
        signal: i32,
    },
    /// End the sandbox in order: agent, services, everything else. Answered with `Done`; the end of the
    /// connection tells that init is gone.
    Stop {
        /// Skip the graceful part.
        force: bool,
    },
    /// Speak git's pack protocol. Answered by git itself: from here on the connection is the pack protocol's
    /// alone, both ways.
    Git(GitRequest),
    /// Start one more agent. Answered with `Done` once it is under way.
    AddAgent(AddAgent),
    /// End an agent that was added, for good: its process, what that left behind, its terminal and its kept output.
    /// Answered with `Done` once all of it is gone.
    RemoveAgent {
        /// Its unit.
        name: String,
        /// Skip the graceful part.
        force: bool,
    },
    /// Start a unit anew, whatever state it is in. Answered with `Done` once it is under way.
    RestartUnit {
        /// Its name.
        name: String,
    },
    /// See and drive the terminal of any agent. Answered as `Attach` is.
    AttachTo(AttachTo),
    /// Tell what is used of what may be used. Answered with `Resources`.
    Resources,
}

/// What the shim says within an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// No more bytes for standard input.
    StdinEnd,
    /// The person's terminal has this size now.
    Resize(TerminalSize),
    /// Send this signal to the command's process group.
    Signal(i32),
    /// Ask for the write lease, or give it away.
    Lease(LeaseAction),
}

/// What init says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// Here I am.
    Pong,
    /// It was done, or is under way.
    Done,
    /// It was refused or it broke; nothing follows.
    Failed(Failure),
    /// The whole state.
    Status(Box<Status>),
    /// The command runs. With [`Stdio::Descriptors`] the host's ends of its pipes come along.
    ExecStarted(ExecStarted),
    /// The command ended. Frames with output may stand before this, none come after.
    ExecExited(ExecExited),
    /// The viewer is in; a `Screen` or `Terminal` frames follow.
    Attached(Attached),
    /// Paint this: `bytes` bytes come in `Screen` frames, then output goes on at `offset`.
    Screen {
        /// Stream offset of the first byte that is not part of the picture.
        offset: u64,
        /// Bytes of the picture.
        bytes: u64,
        /// The terminal's size that the picture is for.
        size: TerminalSize,
    },
    /// Bytes up to `offset` are gone; output goes on there. Only where no picture was asked for.
    Skipped {
        /// Where the stream goes on.
        offset: u64,
    },
    /// Who may type has changed.
    Lease(Lease),
    /// The terminal has this size now.
    Resized(TerminalSize),
    /// The program on the terminal ended; the viewer stays attached.
    SessionEnded(Box<SessionEnded>),
    /// A new program runs on the terminal.
    SessionStarted(SessionStarted),
    /// One event.
    Event(Box<Event>),
    /// All kept events were sent; new ones follow where that was asked for.
    EventsCaughtUp,
    /// All kept log bytes were sent; new ones follow where that was asked for.
    LogCaughtUp,
    /// What is used of what may be used.
    Resources(Resources),
    /// Of a command's standard input, the bytes before this offset need no more room. Said now and then, over a connection with
    /// [`INPUT_WINDOW`](crate::handshake::Features::INPUT_WINDOW).
    InputTaken(u64),
}
