//! Asking the program inside.

use std::time::Instant;

use agent_protocol::{exit::How, failure::FailureKind};

use super::answer::{self, Listed, Refusal, Report};
use crate::{
    client::{
        Connection, ConnectionError,
        capture::{Captured, capture, command},
    },
    isolation::plan::{GIT, WORKSPACE},
    sandbox::{endpoint::EndpointError, snapshots::SnapshotPolicy},
};

/// All that it may say, bytes.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The sandbox cannot be reached.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Init cannot be reached, or did not do it in time.
    #[error(transparent)]
    Connection(ConnectionError),
    /// The sandbox was started by an agent-shim that had none.
    #[error("this sandbox has no program for it inside")]
    NoProgram,
    /// It ended without an answer.
    #[error("the program inside ended without an answer")]
    Silent,
    /// Its answer is not one of its own.
    #[error("the program inside answers what it never would")]
    Nonsense,
    /// It says why not.
    #[error("{message}")]
    Refused {
        /// For programs.
        why: String,
        /// From inside: show it sanitised.
        message: String,
    },
}

/// What a snapshot is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeOptions {
    /// One worktree, by its name or its branch; all of them where there is none.
    pub worktree: Option<String>,
    /// Whether what the repository ignores is taken too.
    pub ignored: bool,
    /// How many are kept of each worktree, if that was said.
    pub keep: Option<u32>,
    /// For how many days.
    pub days: Option<u32>,
}

impl TakeOptions {
    /// Of every worktree, as the sandbox was told.
    pub fn of(policy: &SnapshotPolicy) -> Self {
        let SnapshotPolicy { ignored, keep, days, .. } = *policy;
        Self { worktree: None, ignored, keep: Some(keep), days: Some(days) }
    }
}

/// One question.
#[derive(Debug)]
pub struct Ask {
    /// To whom.
    pub connection: Connection,
    /// When an answer is of no use any more.
    pub deadline: Instant,
}

impl Ask {
    /// Takes snapshots.
    pub fn take(self, options: &TakeOptions) -> Result<Vec<Report>, SnapshotError> {
        let mut words = vec!["take".to_owned()];
        if options.ignored {
            words.push("--ignored".to_owned());
        }
        let numbers = [("--keep", options.keep), ("--days", options.days)];
        for (flag, number) in numbers {
            words.extend(number.into_iter().flat_map(|number| [flag.to_owned(), number.to_string()]));
        }
        let said = self.run(words, options.worktree.as_deref())?;
        answer::reports(&said).map_err(SnapshotError::from)
    }

    /// Lists those that are inside.
    pub fn list(self, worktree: Option<&str>) -> Result<Vec<Listed>, SnapshotError> {
        let said = self.run(vec!["list".to_owned()], worktree)?;
        answer::list(&said).map_err(SnapshotError::from)
    }

    fn run(self, words: Vec<String>, worktree: Option<&str>) -> Result<Vec<u8>, SnapshotError> {
        let mut argv = vec![GIT.to_owned(), "snapshot".to_owned()];
        argv.extend(words);
        if let Some(worktree) = worktree {
            argv.extend(["--worktree".to_owned(), worktree.to_owned()]);
        }
        argv.push(WORKSPACE.to_owned());
        let Captured { exit, mut output, .. } =
            capture(self.connection, command(argv), MAX_ANSWER_BYTES, self.deadline)?;
        match (exit.how, output.pop()) {
            // It says what failed, and then that something did.
            (How::Code(0 | 1), Some(b'\n')) => Ok(output),
            _ => Err(SnapshotError::Silent),
        }
    }
}

impl From<ConnectionError> for SnapshotError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Refused(refusal) if refusal.kind == FailureKind::NotFound => Self::NoProgram,
            error => Self::Connection(error),
        }
    }
}

impl From<Refusal> for SnapshotError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Said { why, message } => Self::Refused { why, message },
            Refusal::Nonsense => Self::Nonsense,
        }
    }
}
