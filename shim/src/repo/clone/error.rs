use std::{io, path::PathBuf};

use nix::sys::signal::Signal;

use super::{dirty::DirtyError, places::MAX_SHARED};
use crate::repo::host_git::GitError;

/// Why there is no clone.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Git does not trust the owner of the repository.
    #[error("git does not trust the repository, which belongs to somebody else")]
    NotTrusted {
        /// The project.
        folder: PathBuf,
        /// What git said.
        source: GitError,
    },
    /// The repository is another folder's.
    #[error("its repository is {}, which knows nothing of it", .repository.display())]
    NotOwn {
        /// The project.
        folder: PathBuf,
        /// The repository that it names.
        repository: PathBuf,
    },
    /// There is no such branch.
    #[error("there is no branch `{0}`")]
    NoBranch(String),
    /// No branch can be called that.
    #[error("`{0}` is not the name of a branch")]
    NotABranch(String),
    /// What is checked out is not there.
    #[error("the commit that is checked out cannot be read")]
    Broken(#[source] GitError),
    /// Not all objects are there.
    #[error("the repository does not have all of its objects: it is a partial clone")]
    Partial(#[source] GitError),
    /// What is not committed belongs to another branch than the one that is cloned.
    #[error("what is not committed belongs to the branch that is checked out, and another one was asked for")]
    Elsewhere,
    /// What is not committed cannot be taken along.
    #[error("cannot take along what is not committed")]
    Dirty(#[source] DirtyError),
    /// The file system makes no copies that share what they hold.
    #[error("the file system cannot share what files hold between copies")]
    NoReflink(#[source] io::Error),
    /// Objects lie where none belong.
    #[error("{} is no folder of a repository's objects", .0.display())]
    NotObjects(PathBuf),
    /// Objects lie in too many places.
    #[error("its objects lie in more than {MAX_SHARED} places")]
    TooManyPlaces,
    /// Git answered in a way that we do not understand.
    #[error("git describes the repository in a way that this agent-shim does not understand")]
    Answer,
    /// The person called it off.
    #[error("it was called off ({})", .0.as_str())]
    Cancelled(Signal),
    /// The kernel refuses.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl CloneError {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}
