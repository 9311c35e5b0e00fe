//! What of a sandbox's work is nowhere but in the sandbox, found out before it is removed.
//!
//! First everything inside that no ref holds gets one: files that are not committed become a snapshot, older entries of
//! the stash and what is checked out on no branch are named. What follows is a pull whose last step is left out: where no
//! object would come, all that refs inside reach is reached by refs at home too, by whichever name. Whoever answers inside
//! can lie; what is lost by that is the agent's own.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use agent_protocol::{exit::How, failure::FailureKind, message::ExecRequest};

use super::{
    host_git::HostGit,
    pull::{Described, PullError, Pulled},
    snapshot::{Ask, LeftOut, Outcome, Report, SnapshotError, TakeOptions},
    source::{ANSWER_PATIENCE, SourceError},
};
use crate::{
    client::{
        Connection, ConnectionError,
        capture::{self, Captured},
    },
    isolation::plan::{GIT, WORKSPACE},
    sandbox::{
        endpoint::{EndpointError, Reach},
        record::Record,
    },
};

/// For a snapshot of everything.
const SNAPSHOT_WITHIN: Duration = Duration::from_mins(5);

/// For finding out which refs are to be named.
const NAME_WITHIN: Duration = Duration::from_secs(10);

/// Private memory of each git on the host, bytes.
const MEMORY_BYTES: u64 = 4 << 30;

/// Most bytes that one of them says.
const READ_BYTES: usize = 64 * 1024;

/// For git inside to look at every file.
const STATUS_WITHIN: Duration = Duration::from_mins(2);

/// Most bytes that it may say about them.
const MAX_STATUS_BYTES: usize = 16 * 1024 * 1024;

/// Work that this host does not have.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// What a pull would bring.
    pub pulled: Pulled,
    /// Refs that hold it, the first of them.
    pub refs: Vec<Described>,
    /// What no pull would bring.
    pub loose: Loose,
}

/// What no ref inside holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loose {
    /// Files, and why they are in no snapshot. From inside: show them sanitised.
    pub files: Vec<LeftOut>,
    /// How many more there are.
    pub more: u64,
}

/// Why that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LackingError {
    /// Nobody can be asked.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Init does not answer as it should.
    #[error("asking git inside what is not committed")]
    Inside(#[source] ConnectionError),
    /// There is no git inside.
    #[error(transparent)]
    NoGit(SourceError),
    /// What is not committed cannot be kept.
    #[error("what is not committed cannot be kept")]
    Snapshot(#[from] SnapshotError),
    /// Git inside cannot tell. What it says comes from inside.
    #[error("git inside cannot tell what there is: {0}")]
    Said(String),
    /// A pull would fail.
    #[error(transparent)]
    Pull(#[from] PullError),
}

impl Lacking {
    /// Looks which refs hold what a pull would bring, until `most` are found.
    pub fn new(pulled: Pulled, loose: Loose, most: usize) -> Result<Self, LackingError> {
        let mut refs = Vec::new();
        if pulled.found.objects > 0 {
            let git = HostGit::find(MEMORY_BYTES).map_err(PullError::from)?;
            let until = Instant::now() + NAME_WITHIN;
            let lacking = pulled.refs.iter().filter(|one| !is_at_home(&git, &pulled.repository, one, until));
            refs = lacking.take(most).cloned().collect();
        }
        Ok(Self { pulled, refs, loose })
    }

    /// Whether all of it is at home.
    pub fn is_nothing(&self) -> bool {
        self.pulled.found.objects == 0 && self.loose.is_nothing()
    }
}

impl Loose {
    /// Has everything inside held by refs, and tells what cannot be.
    pub fn gather(reach: &Reach<'_>, record: &Record) -> Result<Self, LackingError> {
        let (kept, errors) = run(reach, &[GIT, "keep", WORKSPACE], MAX_STATUS_BYTES, STATUS_WITHIN)?;
        let ask = Ask { connection: connect(reach)?, deadline: Instant::now() + SNAPSHOT_WITHIN };
        match ask.take(&TakeOptions::of(&record.snapshots)) {
            Ok(reports) if kept.is_some() => Self::of(reports),
            Ok(_) => Err(LackingError::Said(errors)),
            // Such as of a repository of a kind that only git itself reads.
            Err(SnapshotError::Refused { why, .. }) if why == "unsupported" => {
                Ok(Self { files: Vec::new(), more: uncommitted(reach)? as u64 })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is nothing of that kind.
    pub fn is_nothing(&self) -> bool {
        self.files.is_empty() && self.more == 0
    }

    fn of(reports: Vec<Report>) -> Result<Self, LackingError> {
        let mut loose = Self::default();
        for report in reports {
            if let Outcome::Failed { why, message } = report.outcome {
                return Err(SnapshotError::Refused { why, message }.into());
            }
            // A pipe or a socket holds nothing, and another file system is not the sandbox's.
            let counts = |one: &LeftOut| !matches!(one.why.as_str(), "special" | "mounted");
            loose.files.extend(report.left_out.into_iter().filter(counts));
            loose.more += report.left_out_more;
        }
        Ok(loose)
    }
}

/// Whether refs at home reach all of it. What is not even there is said by git's failure.
fn is_at_home(git: &HostGit, repository: &Path, one: &Described, until: Instant) -> bool {
    let Some(id) = &one.change.new else { return true };
    let mut command = git.on(repository);
    command.args(["rev-list", "--objects", "--max-count=1", id.as_str(), "--not", "--all", "--"]);
    let asked = git.start(command, "rev-list", until).and_then(|running| running.output(READ_BYTES));
    asked.is_ok_and(|said| said.is_empty())
}

fn connect(reach: &Reach<'_>) -> Result<Connection, LackingError> {
    reach.endpoint()?.connect(Instant::now() + ANSWER_PATIENCE).map_err(LackingError::Inside)
}

/// Runs a program inside: its output where it worked, and its complaints.
fn run(
    reach: &Reach<'_>,
    words: &[&str],
    most: usize,
    within: Duration,
) -> Result<(Option<Vec<u8>>, String), LackingError> {
    let request = ExecRequest {
        timeout_ms: Some(within.as_millis().try_into().unwrap_or(u64::MAX)),
        ..capture::command(words.iter().copied())
    };
    let deadline = Instant::now() + within + ANSWER_PATIENCE;
    let captured = capture::capture(connect(reach)?, request, most, deadline);
    let Captured { exit, output, errors } = captured.map_err(|error| match error {
        ConnectionError::Refused(refusal) if refusal.kind == FailureKind::NotFound => {
            LackingError::NoGit(SourceError::NoGit)
        }
        error => LackingError::Inside(error),
    })?;
    let errors = String::from_utf8_lossy(&errors).trim().to_owned();
    Ok(((exit.how == How::Code(0)).then_some(output), errors))
}

/// Counts files that are in no commit as they are; those that git is told to ignore do not count.
fn uncommitted(reach: &Reach<'_>) -> Result<usize, LackingError> {
    let words = [
        "git",
        "--no-optional-locks",
        "-c",
        "safe.directory=*",
        "status",
        "--porcelain",
        "-z",
        "--untracked-files=all",
        "--ignore-submodules=none",
    ];
    let (output, errors) = run(reach, &words, MAX_STATUS_BYTES, STATUS_WITHIN)?;
    Ok(entries(&output.ok_or(LackingError::Said(errors))?))
}

/// Counts what `git status --porcelain -z` lists; a file that was moved has its old name behind it.
fn entries(listed: &[u8]) -> usize {
    let mut parts = listed.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    let mut count = 0;
    while let Some(entry) = parts.next() {
        count += 1;
        if matches!(entry.first(), Some(b'R' | b'C')) {
            parts.next();
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_once() {
        assert_eq!(entries(b""), 0);
        assert_eq!(entries(b" M a\0?? b\nc\0R  new\0old\0?? d\0"), 4);
    }
}
