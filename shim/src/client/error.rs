//! Why an operation over a connection ended.

use std::io;

use agent_protocol::{codec::CodecError, failure::Failure, frame::FrameError, handshake::HandshakeError};

/// The first step with whoever listens.
pub(crate) const HANDSHAKE: &str = "shaking hands";

/// What is said of a machine that has not said yet that it can be called.
pub(crate) const COMING_UP: &str = "its machine is coming up";

/// What is said of a machine in which nobody listens.
pub(crate) const NOBODY_LISTENS: &str = "its machine is there, and nobody in it listens";

/// Why an operation over a connection ended without its answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nobody listens: there is no init behind this address.
    #[error("the sandbox is not running")]
    NotRunning,
    /// Somebody holds the listener but does not answer: init is stopped or wedged.
    #[error("the sandbox's init does not answer ({0})")]
    Stuck(&'static str),
    /// It took longer than it may.
    #[error("no answer in time while {0}")]
    Deadline(&'static str),
    /// The peer closed the connection where something should have come.
    #[error("the sandbox's init closed the connection while {0}")]
    Closed(&'static str),
    /// A system call of ours failed.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// Whoever is there does not speak our protocol.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The token is not this sandbox's.
    #[error("the sandbox's init refused our token")]
    Denied,
    /// Init has as many connections as it takes.
    #[error("the sandbox's init has too many open connections")]
    Busy,
    /// Init speaks no protocol generation that we speak.
    #[error("the sandbox's init speaks protocol generation {0}, which this agent-shim does not")]
    NoCommonGeneration(u32),
    /// The device behind a `hybrid:` address answered something else than `OK N`.
    #[error("the machine's vsock device refused the connection")]
    Hybrid,
    /// Bytes that are not a frame.
    #[error("malformed frame from inside: {0}")]
    Frame(#[from] FrameError),
    /// A frame whose payload is not a message, or a message of ours that does not fit.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A message or a piece of data that has no place here.
    #[error("unexpected {what} from inside while {during}")]
    Unexpected {
        /// What came.
        what: &'static str,
        /// What we were doing.
        during: &'static str,
    },
    /// Descriptors that do not belong here.
    #[error("bad descriptors from inside: {0}")]
    Descriptors(&'static str),
    /// Init refused, and says why. The message comes from inside: show it sanitised.
    #[error(transparent)]
    Refused(Failure),
}

impl ConnectionError {
    /// Whether it is what an init that comes or goes looks like to a caller: soon it answers, or it is not there.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Stuck(NOBODY_LISTENS) | Self::Closed(HANDSHAKE))
    }

    /// The same, where the machine itself has said that it comes.
    pub(crate) fn is_to_come(&self) -> bool {
        matches!(self, Self::Stuck(COMING_UP))
    }

    /// Whether init is there and gives no sign of life.
    pub fn is_stuck(&self) -> bool {
        matches!(self, Self::Stuck(_) | Self::Deadline(_))
    }
}

/// Turns a failed system call into an error that names the step.
pub(crate) fn io_error(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> ConnectionError {
    move |errno| ConnectionError::Io(step, errno.into())
}
