//! Letting go of environments that no sandbox uses.
//!
//! What is dropped is our link and our files; the store keeps its paths until its own collector runs.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    cache::{Files, Lock},
    error::EnvError,
    spec::EnvId,
    view::Users,
};
use crate::sandbox::{Sandbox, name::Name, paths::DataDir};

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Environments that are gone.
    pub dropped: Vec<Dropped>,
    /// Environments that stay.
    pub kept: Vec<Kept>,
}

/// An environment that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its name.
    pub id: EnvId,
    /// What it was made of.
    pub packages: Vec<String>,
    /// What the store's collector may take now.
    pub store_path: Option<PathBuf>,
}

/// An environment that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its name.
    pub id: EnvId,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Why an environment stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// Sandboxes were made with it.
    Used {
        /// Which.
        sandboxes: Vec<Name>,
    },
    /// It is being built, or a sandbox is being made with it.
    Busy,
    /// Some records cannot be read, and any of them may name it.
    Unknown {
        /// The sandboxes whose records these are.
        sandboxes: Vec<Name>,
    },
}

/// Drops what nobody uses, or only says what would be dropped.
pub fn collect(data: &DataDir, dry_run: bool) -> Result<Collected, EnvError> {
    let files = Files::new(data);
    let mut collected = Collected::default();
    for id in files.ids()? {
        let Some(lock) =
            files.try_lock(&id, Lock::Exclusive).map_err(EnvError::io("locking an environment"))?
        else {
            collected.kept.push(Kept { id, reason: Reason::Busy });
            continue;
        };
        // Read under the lock: whoever makes a sandbox holds the environment until its record is written.
        let users = Users::read(data)?;
        let reason = match (users.of(&id), users.unknown.as_slice()) {
            ([], []) => None,
            ([], unknown) => {
                Some(Reason::Unknown { sandboxes: unknown.iter().map(|(name, _)| name.clone()).collect() })
            }
            (sandboxes, _) => Some(Reason::Used { sandboxes: sandboxes.to_vec() }),
        };
        if let Some(reason) = reason {
            let sandbox_lives =
                |name: &Name| Sandbox::find(data, name).is_ok_and(|sandbox| sandbox.is_alive());
            if !dry_run && !users.of(&id).iter().any(sandbox_lives) {
                files.remove_previous(&id).map_err(EnvError::io("removing the previous environment"))?;
            }
            collected.kept.push(Kept { id, reason });
            continue;
        }
        let packages = files.stored(&id).map(|stored| stored.packages).unwrap_or_default();
        let store_path = files.target(&id);
        if !dry_run {
            files.remove(&id).map_err(EnvError::io(format!("removing environment {id}")))?;
        }
        collected.dropped.push(Dropped { id, packages, store_path });
        drop(lock);
    }
    Ok(collected)
}
