use serde::{Deserialize, Serialize};

use crate::bounded::MaybeBytes;

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
