//! What the tasks of connections ask of the loop.

use std::{os::fd::OwnedFd, time::Duration};

use agent_protocol::{
    exit::ExitRecord,
    failure::Failure,
    message::{AddAgent, ExecId, ExecRequest, Resources, Status},
};
use tokio::sync::{oneshot, watch};

use crate::{
    server::{ReadEnd, WriteEnd},
    session::pty::Master,
};

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// One question or order.
pub(crate) enum Ask {
    /// Tell everything.
    Status(Reply<Status>),
    /// Tell what is used of what may be used.
    Resources(Reply<Resources>),
    /// How much processor time has what runs as the agent used? `None` where none runs.
    AgentCpu(Reply<Option<Duration>>),
    /// Start a command. Git gets the connection itself, both ways.
    Exec { request: Box<ExecRequest>, git: Option<OwnedFd>, reply: Reply<Result<StartedExec, Failure>> },
    /// Let me know when a command ends.
    ExecWait { exec: ExecId, reply: Reply<Result<watch::Receiver<Option<ExitRecord>>, Failure>> },
    /// Signal a command's process group.
    ExecSignal { exec: ExecId, signal: i32, reply: Reply<Result<(), Failure>> },
    /// Start the agent anew.
    RestartAgent(Reply<Result<(), Failure>>),
    /// Start a unit anew.
    RestartUnit { name: String, reply: Reply<Result<(), Failure>> },
    /// Start one more agent.
    AddAgent { request: AddAgent, reply: Reply<Result<(), Failure>> },
    /// End an agent for good; the answer says when it has come to that.
    RemoveAgent { name: String, force: bool, reply: Reply<Result<oneshot::Receiver<()>, Failure>> },
    /// Signal the agent's process group.
    SignalAgent { signal: i32, reply: Reply<Result<(), Failure>> },
    /// End the sandbox.
    Stop { force: bool, reply: Reply<Result<(), Failure>> },
    /// A viewer was told that the agent has exited for good.
    ViewerSawExit,
}

/// A command that was executed.
pub(crate) struct StartedExec {
    pub(crate) id: ExecId,
    pub(crate) pid: u32,
    pub(crate) ends: Ends,
    pub(crate) exit: watch::Receiver<Option<ExitRecord>>,
}

/// The other ends of a command's standard streams.
pub(crate) enum Ends {
    /// There are none.
    Detached,
    /// For the client, who reads and writes them itself.
    Handed { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    /// For us.
    Pipes { stdin: Option<WriteEnd>, stdout: ReadEnd, stderr: ReadEnd },
    /// What git said on its standard error, for us.
    Git { errors: OwnedFd },
    /// A terminal, for us.
    Terminal(Master),
}
