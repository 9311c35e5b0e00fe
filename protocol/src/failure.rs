//! Why a request was refused.

use serde::{Deserialize, Serialize};

/// What went wrong, for programs. The numbers are permanent: add at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The bytes are not a request of this generation.
    BadRequest,
    /// The command does not exist.
    NotFound,
    /// The command exists but cannot be executed.
    NotExecutable,
    /// The working directory cannot be entered.
    BadDirectory,
    /// The kernel refuses it.
    Permission,
    /// A limit on processes, memory or descriptors is reached.
    Limit,
    /// No terminal can be had.
    Pty,
    /// The user is unknown inside, or cannot be changed to.
    Credentials,
    /// There is no such unit, session or exec.
    Unknown,
    /// It exists but is not in a state in which this can be done.
    WrongState,
    /// Too many of these are open at once.
    Busy,
    /// The sandbox is shutting down.
    Stopping,
    /// It took longer than it may.
    Deadline,
    /// This init cannot do it here.
    Unsupported,
    /// Init itself failed.
    Internal,
}

/// Longest [`Failure::message`] in bytes; longer ones are cut at a character.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// A refusal: what failed and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: one sentence without a full stop.
    pub message: String,
}

impl Failure {
    /// A refusal with a message of at most [`MAX_MESSAGE_BYTES`].
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        Self { kind, message }
    }
}
