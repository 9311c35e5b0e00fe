//! How the host reaches init, and how it proves that it is the host.

use serde::{Deserialize, Serialize};

/// The control endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Where init accepts connections.
    pub listen: Listen,
    /// What a client must present. Needed wherever a process inside could connect too.
    #[serde(default)]
    pub token: Option<TokenSource>,
}

/// Where init accepts connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Listen {
    /// A listening socket that init inherited under this number: no path to it exists inside.
    Fd(i32),
    /// This vsock port, from the host only.
    VsockPort(u32),
    /// A socket that init creates at this path, for engines that cannot pass a descriptor.
    Unix(String),
}

/// Where the token is read from, once, at start. There is no inline form on purpose: argv and environment can
/// be read by others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenSource {
    /// A file, removed after reading where init may.
    File(String),
    /// An inherited descriptor, read to its end and closed.
    Fd(i32),
}
