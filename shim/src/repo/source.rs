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
    failure::{Failure, FailureKind},
    message::{GitId, GitRequest, GitService},
};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    client::{
        ConnectionError,
        git::{self, GitStream},
    },
    sandbox::Sandbox,
};

/// For init to answer a request.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What `/bin/sh` gets as `$1`: where the repository is inside.
const WORKSPACE: &str = "/workspace";

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The repository in the workspace of a sandbox that runs.
    Sandbox(&'a Sandbox),
    /// This shell command, on the host, with the protocol on its standard input and output.
    Command(&'a OsStr),
}

/// Why nobody speaks.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Init cannot be reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The environment has no git.
    #[error("there is no git inside the sandbox")]
    NoGit,
    /// Git inside failed. Its words come from inside.
    #[error("git inside the sandbox: {0}")]
    Failed(String),
    /// The command cannot be run.
    #[error("running the command in its place")]
    Command(#[source] io::Error),
}

/// Somebody who speaks. Ended on drop.
#[derive(Debug)]
pub struct Speaker<'a> {
    source: Source<'a>,
    run: Option<GitId>,
    child: Option<Child>,
}

impl<'a> Source<'a> {
    /// Has it speak.
    pub fn open(self) -> Result<(GitStream, Speaker<'a>), SourceError> {
        match self {
            Self::Sandbox(sandbox) => {
                let deadline = Instant::now() + ANSWER_PATIENCE;
                let connection = sandbox.connect(deadline)?;
                let request = GitRequest { service: GitService::UploadPack, directory: None, version: 2 };
                let (stream, run) = git::open(connection, request, deadline)?;
                Ok((stream, Speaker { source: self, run: Some(run), child: None }))
            }
            Self::Command(command) => {
                let (ours, child) = run(command).map_err(SourceError::Command)?;
                Ok((GitStream::over(ours), Speaker { source: self, run: None, child: Some(child) }))
            }
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

impl Speaker<'_> {
    /// Why it fell silent, where that is known: a better reason than that it did.
    pub fn reason(&self) -> Option<SourceError> {
        let (Source::Sandbox(sandbox), Some(run)) = (self.source, self.run) else { return None };
        let refusal = why(sandbox, run, Instant::now() + ANSWER_PATIENCE)?;
        Some(match refusal.kind {
            FailureKind::NotFound => SourceError::NoGit,
            _ => SourceError::Failed(words(&refusal.message)),
        })
    }
}

/// Why git inside failed, where it did, said something, and that can be learned.
pub(crate) fn why(sandbox: &Sandbox, run: GitId, deadline: Instant) -> Option<Failure> {
    let mut connection = sandbox.connect(deadline).ok()?;
    match git::ended(&mut connection, run, deadline) {
        // Of a client that left first nothing is known.
        Err(ConnectionError::Refused(refusal)) if refusal.kind != FailureKind::Unknown => {
            Some(refusal).filter(|refusal| !refusal.message.is_empty())
        }
        _ => None,
    }
}

/// What git says when it gives up, on one line and without its own marks.
pub(crate) fn words(said: &str) -> String {
    let lines =
        said.lines().map(|line| line.trim_start_matches("fatal: ").trim_start_matches("error: ").trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

impl Drop for Speaker<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Its group, so that what the shell started goes with it; all of it may have ended.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
        }
    }
}
