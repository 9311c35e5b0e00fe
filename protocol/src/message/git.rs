use serde::{Deserialize, Serialize};

use super::exec::ExecId;
use crate::{bounded::MaybeBytes, exit::ExitRecord};

/// Longest [`GitEnded::errors`], bytes.
pub const MAX_GIT_ERRORS_BYTES: usize = 4096;

/// Which half of git's pack protocol is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GitService {
    /// Objects come out: fetch, clone, ls-remote (git-upload-pack(1)).
    UploadPack,
    /// Objects go in: push (git-receive-pack(1)).
    ReceivePack,
}

/// Speak git's pack protocol with a repository inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitRequest {
    /// Which half of it.
    pub service: GitService,
    /// The repository or a worktree of it, below the agent's working directory and named from there; that
    /// directory itself where none is given.
    #[serde(with = "MaybeBytes")]
    pub directory: Option<Vec<u8>>,
    /// The version of the pack protocol that the client would like: 0, 1 or 2 (gitprotocol-v2(5)).
    pub version: u8,
}

/// The other side of the pack protocol has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitEnded {
    /// Which run.
    pub exec: ExecId,
    /// How.
    pub exit: ExitRecord,
    /// The last of what it wrote to its standard error, at most [`MAX_GIT_ERRORS_BYTES`].
    pub errors: String,
}
