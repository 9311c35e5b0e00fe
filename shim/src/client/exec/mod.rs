//! Running a command inside, with the caller's standard streams or terminal.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use agent_protocol::{
    Request, ServerMessage,
    exit::ExitRecord,
    failure::{Failure, FailureKind},
    handshake::Features,
    message::{ExecId, ExecRequest, ExecStarted, Stdio},
};
use nix::sys::signal::Signal;

use super::{
    Connection, ConnectionError,
    endpoint::{Direction, Endpoint},
    operations::unexpected,
    signals::Insistence,
};
use crate::terminal;

mod descriptors;
mod frames;
#[cfg(test)]
mod tests;

/// How long init may take until the command was executed. It does so within milliseconds, or says why not.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// What a command's output goes to and its input comes from.
#[derive(Clone, Copy, Debug)]
pub struct Streams<'a> {
    /// Standard input.
    pub input: BorrowedFd<'a>,
    /// Standard output.
    pub output: BorrowedFd<'a>,
    /// Standard error.
    pub error: BorrowedFd<'a>,
}

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct ExecOptions<'a> {
    /// The command. `stdin` says whether the input is read; `stdio` is set here.
    pub request: ExecRequest,
    /// Whether the command gets a terminal of its own.
    pub terminal: bool,
    /// The caller's streams.
    pub streams: Streams<'a>,
    /// How long init may take until the command runs, usually [`START_PATIENCE`].
    pub start_patience: Duration,
}

/// How it went.
#[derive(Debug)]
pub struct ExecOutcome {
    /// Which command it was.
    pub exec: ExecId,
    /// How it ended.
    pub exit: ExitRecord,
    /// Why our own input could not be read, where that is so; the command saw its end instead.
    pub input_error: Option<io::Error>,
}

/// Why there is no exit to tell, or not the whole truth of it.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Init could not be asked, or answered nonsense.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The command was not executed. The message comes from inside: show it sanitised.
    #[error(transparent)]
    Refused(Failure),
    /// The connection broke while the command ran; what became of it is unknown.
    #[error("the sandbox was lost while the command ran")]
    Lost(#[source] ConnectionError),
    /// Somebody insisted that we end. Init ends the command once the connection is gone.
    #[error("interrupted by {0}")]
    Interrupted(Signal),
    /// The command ended, but its output could not be written.
    #[error("writing standard {stream}")]
    Output {
        /// `output` or `error`.
        stream: &'static str,
        /// Why.
        #[source]
        source: io::Error,
        /// How the command ended.
        exit: Box<ExitRecord>,
    },
    /// A descriptor of the caller's is of no use.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
}

impl Streams<'static> {
    /// This process's own.
    pub fn inherited() -> Self {
        Self {
            input: rustix::stdio::stdin(),
            output: rustix::stdio::stdout(),
            error: rustix::stdio::stderr(),
        }
    }
}

impl ExecError {
    /// The exit code to end with, as `exec` documents it: 127 where the command does not exist, 126 where it
    /// cannot be executed, 128 + N where signal N ended us, and 125 for every failure of our own.
    pub fn shell_code(&self) -> u8 {
        match self {
            Self::Refused(failure) => match failure.kind {
                FailureKind::NotFound => 127,
                FailureKind::NotExecutable => 126,
                _ => 125,
            },
            Self::Interrupted(signal) => 128 + u8::try_from(*signal as i32).unwrap_or(0),
            _ => 125,
        }
    }
}

/// Runs a command and carries its streams until it ends.
///
/// Signals meant for the command are forwarded while it runs; three requests to end within a second end us
/// instead, and init then ends the command. What the command's descendants write after its exit is not
/// waited for.
pub fn run(mut connection: Connection, options: ExecOptions<'_>) -> Result<ExecOutcome, ExecError> {
    let ExecOptions { mut request, terminal, streams, start_patience } = options;
    let stdin = request.stdin;
    request.stdio = if terminal {
        Stdio::Terminal(terminal::size(streams.output).unwrap_or(terminal::FALLBACK_SIZE))
    } else if connection.features().has(Features::DESCRIPTORS) {
        Stdio::Descriptors
    } else {
        Stdio::Frames
    };
    let deadline = Instant::now() + start_patience;
    if request.stdio == Stdio::Descriptors {
        connection.expect_descriptors(2 + usize::from(stdin));
        let ExecStarted { exec, .. } = start(&mut connection, request, deadline)?;
        let mut pipes = connection.take_descriptors().into_iter();
        let mut pipe = |direction| received(pipes.next(), direction);
        let stdin = if stdin { Some(pipe(Direction::Write)?) } else { None };
        let (stdout, stderr) = (pipe(Direction::Read)?, pipe(Direction::Read)?);
        return descriptors::carry(connection, exec, streams, stdin, stdout, stderr);
    }
    let ExecStarted { exec, .. } = start(&mut connection, request, deadline)?;
    frames::carry(connection, exec, streams, stdin, terminal)
}

/// Runs a command that goes on without us; its output is thrown away.
pub fn run_detached(
    mut connection: Connection,
    mut request: ExecRequest,
    deadline: Instant,
) -> Result<ExecStarted, ExecError> {
    request.stdio = Stdio::Detached;
    request.stdin = false;
    start(&mut connection, request, deadline)
}

fn start(
    connection: &mut Connection,
    request: ExecRequest,
    deadline: Instant,
) -> Result<ExecStarted, ExecError> {
    const DURING: &str = "starting the command";
    connection.request(&Request::Exec(request))?;
    match connection.recv_message(DURING, Some(deadline)) {
        Ok(ServerMessage::ExecStarted(started)) => Ok(started),
        Ok(other) => Err(unexpected(&other, DURING).into()),
        Err(ConnectionError::Refused(failure)) => Err(ExecError::Refused(failure)),
        Err(error) => Err(error.into()),
    }
}

/// Checks a descriptor that came with `ExecStarted`.
fn received(descriptor: Option<OwnedFd>, direction: Direction) -> Result<Endpoint<'static>, ConnectionError> {
    let descriptor = descriptor.ok_or(ConnectionError::Descriptors("fewer than were asked for"))?;
    Endpoint::received(descriptor, direction)
        .map_err(|error| ConnectionError::Io("looking at a pipe from inside", error.into()))?
        .ok_or(ConnectionError::Descriptors("not the end of a pipe that was asked for"))
}

/// What a signal of ours leads to.
fn leave_on(signal: Signal, insistence: &mut Insistence) -> Result<(), ExecError> {
    if insistence.hears(signal, Instant::now()) { Err(ExecError::Interrupted(signal)) } else { Ok(()) }
}

/// Turns what is known at the end into the outcome.
fn conclude(
    exec: ExecId,
    exit: ExitRecord,
    input_error: Option<io::Error>,
    output_errors: [(&'static str, Option<io::Error>); 2],
) -> Result<ExecOutcome, ExecError> {
    for (stream, error) in output_errors {
        if let Some(source) = error {
            return Err(ExecError::Output { stream, source, exit: Box::new(exit) });
        }
    }
    Ok(ExecOutcome { exec, exit, input_error })
}
