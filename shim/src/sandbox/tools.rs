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
    isolation::{LaunchPlan, Mount, Network},
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
        // The image's, which only its engine knows.
        Environment::Host if record.engine().is_some() => Ok(bare::environment()),
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

/// The variables of a sandbox whose tools are an image's: its own, with those of ours that say where things are. Programs
/// of ours come before the image's.
pub(crate) fn on_top_of_image(plan: &LaunchPlan, ours: Vec<(String, String)>) -> Vec<(String, String)> {
    let Some(container) = &plan.container else { return ours };
    let brings_programs = plan.mounts.iter().any(|mount| matches!(mount, Mount::Store { .. }));
    let is_path = |entry: &&(String, String)| entry.0 == "PATH";
    let of_image = container.variables.iter().find(is_path).map_or(IMAGE_PATH, |(_, path)| path);
    let path = match ours.iter().find(is_path).filter(|_| brings_programs) {
        Some((_, path)) => format!("{path}:{of_image}"),
        None => of_image.to_owned(),
    };
    let mut variables = container.variables.clone();
    variables.extend(ours);
    variables.push(("PATH".to_owned(), path));
    variables
}

/// What an engine uses for an image that says nothing.
const IMAGE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where Nix would build it.
fn store_dir() -> PathBuf {
    let given = env::var_os("NIX_STORE_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    given.unwrap_or_else(|| "/nix/store".into())
}
