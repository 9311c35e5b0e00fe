//! Where the tools of one sandbox are: from its record to what is mounted. Starts no process.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{
    launch::PrepareError,
    paths::DataDir,
    record::{Environment, Record, Store},
};
use crate::{
    env::{self as environment, Built, bare, host, nix},
    isolation::Network,
};

/// Whether an environment has to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// It is used now.
    #[default]
    Built,
    /// A launch is only shown: one that was not built yet stands for itself, under a name that says so.
    Shown,
    /// What comes with init is enough: one that is not there is done without.
    IfBuilt,
}

/// Finds the tools of a sandbox.
pub(crate) fn find(
    data: &DataDir,
    record: &Record,
    need: Need,
) -> Result<environment::Environment, PrepareError> {
    // Names are looked up in the same way behind every network.
    let network = if record.network.is_none() { Network::None } else { Network::Host };
    let root = Path::new("/");
    match &record.environment {
        Environment::Host => host::environment(root, &network).map_err(PrepareError::Environment),
        Environment::Nix { id, .. } => {
            let found = environment::lookup(data, id)?;
            let (built, store) = match (found, need) {
                (Some(built), _) => (built, record.store),
                // Of what it will consist, only Nix knows.
                (None, Need::Shown) => (Built::unbuilt(id.clone(), &store_dir()), Store::Whole),
                (None, Need::IfBuilt) => return Ok(bare::environment()),
                (None, Need::Built) => return Err(PrepareError::NotBuilt(id.clone())),
            };
            Ok(nix::environment(&built, root, &network, store)?)
        }
    }
}

/// Where Nix would build it.
fn store_dir() -> PathBuf {
    let given = env::var_os("NIX_STORE_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    given.unwrap_or_else(|| "/nix/store".into())
}
