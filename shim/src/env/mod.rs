//! Where the tools inside come from.

pub mod host;

use crate::isolation::plan::Mount;

/// Tools and system files of a sandbox: what differs between `--env host` and other environments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Folders with tools, and the parts of /etc that belong to them.
    pub mounts: Vec<Mount>,
    /// Variables for everything that runs inside, PATH among them.
    pub variables: Vec<(String, String)>,
}
