//! How a process ended, told whole.

use serde::{Deserialize, Serialize};

/// The last thing a process did, as wait(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum How {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Who or what ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KilledBy {
    /// It ended by itself: it exited, or died of its own fault.
    Itself,
    /// The sandbox is being stopped.
    Stop,
    /// A person asked for a restart.
    Restart,
    /// Its time was up.
    Timeout,
    /// It had promised a sign of life and gave none.
    Watchdog,
    /// Its health probe failed too often.
    Health,
    /// A resource limit, named in [`ExitRecord::limit`].
    Limit,
    /// The memory limit.
    OutOfMemory,
    /// Its client went away.
    Disconnect,
    /// A signal of the client's own asking.
    Client,
    /// A signal from a sender that we do not know.
    Unknown,
}

/// A resource limit that can end a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LimitKind {
    /// Memory of the sandbox.
    Memory,
    /// CPU time of the process (`SIGXCPU`).
    CpuTime,
    /// Size of a file (`SIGXFSZ`).
    FileSize,
}

/// The whole truth of an exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code or signal.
    pub how: How,
    /// Whether the kernel wrote a core dump.
    pub core_dumped: bool,
    /// Who or what ended it.
    pub killed_by: KilledBy,
    /// Which limit, where one ended it.
    pub limit: Option<LimitKind>,
    /// Whether output was thrown away because nobody read it.
    pub output_truncated: bool,
    /// How long it ran.
    pub ran_ms: u64,
    /// When it ended, milliseconds since the Unix epoch on the clock inside.
    pub at_unix_ms: u64,
}

impl How {
    /// What a shell reports: the code itself, 128 + N for signal N.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Self::Signal(signal) => 128u8.saturating_add(u8::try_from(signal & 0x7f).unwrap_or(0x7f)),
        }
    }

    /// Whether it is what a successful program returns.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_codes_follow_the_shell() {
        assert_eq!(How::Code(0).shell_code(), 0);
        assert_eq!(How::Code(255).shell_code(), 255);
        assert_eq!(How::Signal(9).shell_code(), 137);
        assert_eq!(How::Signal(15).shell_code(), 143);
        assert_eq!(How::Signal(64).shell_code(), 192);
    }
}
