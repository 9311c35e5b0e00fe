use std::time::Instant;

use agent_protocol::{
    Request, ServerMessage,
    exit::ExitRecord,
    frame::Kind,
    message::{ExecRequest, Stdio},
};

use super::{Connection, ConnectionError, Incoming, operations::unexpected};

/// A command that has ended, and what it said. All of it comes from inside: show it sanitised.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub exit: ExitRecord,
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its standard error, as far as it was kept.
    pub errors: Vec<u8>,
}

/// Most bytes kept of a command's standard error.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// A program and its arguments, in the sandbox's own variables and folder and as its user.
pub fn command(words: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> ExecRequest {
    ExecRequest {
        argv: words.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        directory: None,
        user: None,
        stdin: false,
        stdio: Stdio::Frames,
        timeout_ms: None,
    }
}

/// Runs a command inside until it has ended. Its input is empty; an output of more than `most` bytes is an error, and so
/// is an end after `deadline`. Init ends a command whose connection is gone.
///
/// A program that is not there is [`ConnectionError::Refused`] with the kind `NotFound`.
pub fn capture(
    mut connection: Connection,
    mut request: ExecRequest,
    most: usize,
    deadline: Instant,
) -> Result<Captured, ConnectionError> {
    const DURING: &str = "running a command inside";
    request.stdio = Stdio::Frames;
    request.stdin = false;
    connection.request(&Request::Exec(request))?;
    let started = match connection.recv_message(DURING, Some(deadline))? {
        ServerMessage::ExecStarted(started) => started,
        other => return Err(unexpected(&other, DURING)),
    };
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    loop {
        match connection.recv(DURING, Some(deadline))? {
            Incoming::Data { kind: Kind::Stdout, bytes, .. } => {
                if output.len() + bytes.len() > most {
                    return Err(ConnectionError::Unexpected { what: "so much output", during: DURING });
                }
                output.extend_from_slice(bytes);
            }
            Incoming::Data { kind: Kind::Stderr, bytes, .. } => {
                let room = MAX_ERROR_BYTES - errors.len();
                errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Incoming::Data { .. } => {
                return Err(ConnectionError::Unexpected { what: "data", during: DURING });
            }
            Incoming::Message(ServerMessage::ExecExited(exited)) if exited.exec == started.exec => {
                return Ok(Captured { exit: exited.exit, output, errors });
            }
            Incoming::Message(ServerMessage::Failed(failure)) => {
                return Err(ConnectionError::Refused(failure));
            }
            Incoming::Message(other) => return Err(unexpected(&other, DURING)),
        }
    }
}
