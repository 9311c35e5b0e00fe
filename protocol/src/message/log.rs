use serde::{Deserialize, Serialize};

/// Where to begin in a unit's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFrom {
    /// At this stream offset, or at the first byte kept behind it.
    Offset(u64),
    /// This many bytes before the end.
    Tail(u64),
}

/// Receive a unit's output. `Skipped` tells where bytes are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// `agent`, or the name of a step or service.
    pub unit: String,
    /// Where to begin.
    pub from: LogFrom,
    /// Whether to stay for what comes.
    pub follow: bool,
}
