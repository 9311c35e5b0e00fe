//! What is wrong with a configuration, with the place.

use std::io;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What is wrong, after the place: `FILE:LINE:COLUMN: ...`.
    pub message: String,
    /// The line it stands in, and a line with a mark below the place.
    pub excerpt: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// What the system said.
    #[source]
    pub source: Option<io::Error>,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was written makes no sense.
    Written,
    /// What was written makes sense, and cannot be done.
    Failed,
}

impl ConfigError {
    /// Something that was written and makes no sense.
    pub fn written(message: impl Into<String>) -> Self {
        Self { fault: Fault::Written, message: message.into(), excerpt: Vec::new(), hint: None, source: None }
    }

    /// Something that cannot be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { fault: Fault::Failed, ..Self::written(message) }
    }

    pub(super) fn because(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
