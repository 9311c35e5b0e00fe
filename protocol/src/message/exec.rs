use serde::{Deserialize, Serialize};

use crate::{
    bounded::{BytesAtMost, MaybeBytes, PairsAtMost},
    exit::ExitRecord,
};

/// Longest [`ExecRequest::argv`]. Each empty argument is one byte on the wire and 24 in memory, so the number
/// is bounded beside the bytes; `find | xargs` stays below it.
pub const MAX_ARGV: usize = 16 * 1024;

/// Longest [`ExecRequest::env`], for the same reason.
pub const MAX_ENV: usize = 4 * 1024;

/// How much standard input a client sends beyond what was taken, over a connection with
/// [`INPUT_WINDOW`](crate::handshake::Features::INPUT_WINDOW). Less than the kernel of a machine holds for a connection, 256 KiB.
pub const INPUT_WINDOW_BYTES: u64 = 192 * 1024;

/// Names a command beyond its connection; never reused while init lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExecId(pub u64);

/// Columns and rows of a terminal, in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Cells in a row; 0 counts as 1.
    pub columns: u16,
    /// Rows; 0 counts as 1.
    pub rows: u16,
}

/// How a command's standard streams reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Init makes fresh pipes and sends the host's ends with `ExecStarted`, in the order stdin (where asked
    /// for), stdout, stderr. Needs the feature [`DESCRIPTORS`](crate::handshake::Features::DESCRIPTORS).
    Descriptors,
    /// Data frames on this connection.
    Frames,
    /// A terminal of this size; data frames of kind `Terminal`.
    Terminal(TerminalSize),
    /// None: the command goes on without its client, its output is thrown away.
    Detached,
}

/// A command to run inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments; a program without a slash is looked up in the `PATH` that the command gets.
    /// At most [`MAX_ARGV`].
    #[serde(with = "BytesAtMost::<MAX_ARGV>")]
    pub argv: Vec<Vec<u8>>,
    /// Variables on top of the sandbox's own, at most [`MAX_ENV`].
    #[serde(with = "PairsAtMost::<MAX_ENV>")]
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; the agent's where none is given.
    #[serde(with = "MaybeBytes")]
    pub directory: Option<Vec<u8>>,
    /// `NAME`, `UID` or `UID:GID`; the agent's user where none is given.
    pub user: Option<String>,
    /// Whether the client has bytes for standard input; /dev/null otherwise.
    pub stdin: bool,
    /// How the streams travel.
    pub stdio: Stdio,
    /// Ends the command and everything it started after this time.
    pub timeout_ms: Option<u64>,
}

/// The command was executed: execve(2) has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// Its name beyond this connection.
    pub exec: ExecId,
    /// Its process id inside.
    pub pid: u32,
}

/// The command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExited {
    /// Which one.
    pub exec: ExecId,
    /// How.
    pub exit: ExitRecord,
}
