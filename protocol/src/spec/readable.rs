//! One folder of which only some entries can be used: a package store that holds more than a sandbox should see.

use serde::{Deserialize, Serialize};

/// Entries of the folder that can be used. A whole operating system has some ten thousand, and as many rules take init
/// 20 milliseconds.
pub const MAX_ENTRIES: usize = 32 * 1024;

/// Init forbids itself and everything it will start to read, list or execute any other entry, or to list the folder and
/// those above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readable {
    /// Absolute path of the folder, without `.`, `..` and symbolic links. Nothing above it may be writable inside: what
    /// is made there later could not be read.
    pub folder: String,
    /// Names directly below it.
    pub entries: Vec<String>,
}
