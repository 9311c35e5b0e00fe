//! Who speaks the pack protocol for a sandbox: init's git, or a command in its place.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command},
    time::{Duration, Instant},
};

use agent_protocol::{
    failure::FailureKind,
    message::{GitRequest, GitService},
};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    client::{
        ConnectionError,
        git::{self, GitStream},
        interrupt::Interrupt,
    },
    sandbox::endpoint::{EndpointError, Reach},
};

/// For init to accept a connection.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// For another command that uses or changes a sandbox that does not run.
pub(crate) const ENDPOINT_PATIENCE: Duration = Duration::from_secs(30);

/// For the first byte of git inside: it may have many refs to read.
pub(crate) const FIRST_BYTE_WITHIN: Duration = Duration::from_mins(1);

/// What `/bin/sh` gets as `$1`: where the repository is inside.
const WORKSPACE: &str = "/workspace";

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The repository in the workspace of a sandbox.
    Sandbox(&'a Reach<'a>),
    /// This shell command, on the host, with the protocol on its standard input and output.
    Command(&'a OsStr),
}

/// Why nobody speaks.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The sandbox cannot be reached.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Init cannot be reached.
    #[error(transparent)]
    Connection(ConnectionError),
    /// The environment has no git.
    #[error("there is no git inside the sandbox")]
    NoGit,
    /// The command cannot be run.
    #[error("running the command in its place")]
    Command(#[source] io::Error),
}

/// Somebody who will speak.
#[derive(Debug)]
pub enum Opening {
    /// Init's git.
    Sandbox(git::Asked),
    /// A command.
    Command(OwnedFd, Speaker),
}

/// A command that speaks. Killed on drop.
#[derive(Debug)]
pub struct Speaker(Child);

impl Source<'_> {
    /// Has it begin.
    pub fn open(self) -> Result<Opening, SourceError> {
        match self {
            Self::Sandbox(reach) => {
                let endpoint = reach.endpoint()?;
                let connection = endpoint.connect(Instant::now() + ANSWER_PATIENCE)?;
                let request = GitRequest { service: GitService::UploadPack, directory: None, version: 2 };
                Ok(Opening::Sandbox(git::ask(connection, request)?))
            }
            Self::Command(command) => {
                let (ours, child) = run(command).map_err(SourceError::Command)?;
                Ok(Opening::Command(ours, Speaker(child)))
            }
        }
    }
}

impl Opening {
    /// The stream, and what has to live as long as it.
    pub fn stream(
        self,
        until: Instant,
        interrupt: Option<&Interrupt>,
    ) -> Result<(GitStream, Option<Speaker>), SourceError> {
        match self {
            Self::Sandbox(asked) => {
                let until = until.min(Instant::now() + FIRST_BYTE_WITHIN);
                Ok((asked.stream_unless(until, interrupt)?, None))
            }
            Self::Command(socket, speaker) => {
                Ok((GitStream::over(socket).interrupted_by(interrupt), Some(speaker)))
            }
        }
    }
}

impl From<ConnectionError> for SourceError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Refused(refusal) if refusal.kind == FailureKind::NotFound => Self::NoGit,
            error => Self::Connection(error),
        }
    }
}

fn run(script: &OsStr) -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).arg("upload-pack").arg(WORKSPACE).env("GIT_PROTOCOL", "version=2");
    let stdin = OwnedFd::from(theirs.try_clone()?);
    command.stdin(stdin).stdout(OwnedFd::from(theirs)).process_group(0);
    Ok((ours.into(), command.spawn()?))
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // Its group, so that what the shell started goes with it; all of it may have ended.
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}
