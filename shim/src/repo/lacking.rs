//! What of a sandbox's work is nowhere but in the sandbox, found out before it is removed.
//!
//! It is a pull whose last step is left out: where no object would come, everything that refs inside reach is reached by
//! refs at home too, by whichever name. What no ref inside holds, such as files that were never committed, is asked for
//! inside. The answer can be a lie of the agent's; what is lost by that is its own.

use std::time::{Duration, Instant};

use agent_protocol::{exit::How, failure::FailureKind, message::ExecRequest, message::Stdio};

use super::{
    pull::{PullError, Pulled},
    source::{ANSWER_PATIENCE, SourceError},
};
use crate::{
    client::{
        ConnectionError,
        capture::{self, Captured},
    },
    sandbox::endpoint::{EndpointError, Reach},
};

/// For git inside to look at every file.
const STATUS_WITHIN: Duration = Duration::from_mins(2);

/// Most bytes that it may say about them.
const MAX_STATUS_BYTES: usize = 16 * 1024 * 1024;

/// Work that this host does not have.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// What a pull would bring.
    pub pulled: Pulled,
    /// Files in the workspace that are in no commit as they are.
    pub uncommitted: usize,
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
    /// Git inside cannot tell. What it says comes from inside.
    #[error("git inside cannot tell what is not committed: {0}")]
    Status(String),
    /// A pull would fail.
    #[error(transparent)]
    Pull(#[from] PullError),
}

impl Lacking {
    /// Whether all of it is at home.
    pub fn is_nothing(&self) -> bool {
        self.pulled.found.objects == 0 && self.uncommitted == 0
    }

    /// Counts files that are in no commit as they are; those that git is told to ignore do not count.
    pub fn uncommitted(reach: &Reach<'_>) -> Result<usize, LackingError> {
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
        let request = ExecRequest {
            argv: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: Vec::new(),
            directory: None,
            user: None,
            stdin: false,
            stdio: Stdio::Frames,
            timeout_ms: Some(STATUS_WITHIN.as_millis().try_into().unwrap_or(u64::MAX)),
        };
        let connection = reach.endpoint()?.connect(Instant::now() + ANSWER_PATIENCE);
        let deadline = Instant::now() + STATUS_WITHIN + ANSWER_PATIENCE;
        let captured =
            connection.and_then(|open| capture::capture(open, request, MAX_STATUS_BYTES, deadline));
        let Captured { exit, output, errors } = captured.map_err(|error| match error {
            ConnectionError::Refused(refusal) if refusal.kind == FailureKind::NotFound => {
                LackingError::NoGit(SourceError::NoGit)
            }
            error => LackingError::Inside(error),
        })?;
        if exit.how != How::Code(0) {
            return Err(LackingError::Status(String::from_utf8_lossy(&errors).trim().to_owned()));
        }
        Ok(entries(&output))
    }
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
