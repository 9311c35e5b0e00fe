//! No tools at all: for a sandbox whose own are not there any more, where what comes with init is enough.

use super::{Environment, system};
use crate::isolation::plan::{HOME, Network, USER};

/// Describes it. It has no network, for nothing in it could use one.
pub fn environment() -> Environment {
    let variables =
        [("PATH", "/usr/bin:/bin"), ("HOME", HOME), ("USER", USER), ("LOGNAME", USER), ("TMPDIR", "/tmp")];
    Environment {
        mounts: system::identity(&Network::None).into(),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}
