//! Why a conversation ends early.

use std::io;

use super::id::Id;

/// Why it ends.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The client is gone, which is nobody's failure.
    Gone,
    /// The repository has a form that only git itself knows.
    Foreign(String),
    /// It was in the middle of a pack that the client was told this.
    Told(String),
    /// Something is wrong with what the client says, or with the repository; the client is told.
    Said(String),
}

/// What may end early.
pub(crate) type Outcome<T> = Result<T, Trouble>;

impl Trouble {
    /// Something that the client is to be told.
    pub(crate) fn said(what: impl Into<String>) -> Self {
        Self::Said(what.into())
    }

    /// The repository refers to what it does not have.
    pub(crate) fn missing(id: Id) -> Self {
        Self::Said(format!("the repository inside lacks object {id}"))
    }

    /// An object is not what git would have written.
    pub(crate) fn corrupt(id: Id) -> Self {
        Self::Said(format!("object {id} of the repository inside is corrupt"))
    }

    /// A file of the repository cannot be read.
    pub(crate) fn reading(what: &str, error: &io::Error) -> Self {
        Self::Said(format!("cannot read {what} of the repository inside: {error}"))
    }
}
