//! Further files of the host: those that are mounted, and those that are handed over as secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `--mount SRC:DST[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRecord {
    /// Path on the host, without symbolic links in it.
    pub source: PathBuf,
    /// Absolute path inside.
    pub at: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// `--secret NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRecord {
    /// Name of the file inside.
    pub name: String,
    /// The file on the host.
    pub file: PathBuf,
}
