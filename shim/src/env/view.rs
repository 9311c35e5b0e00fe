//! Environments as people and programs are told of them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use super::{
    cache::{Files, StoredSpec},
    error::EnvError,
    spec::EnvId,
};
use crate::sandbox::{Sandbox, StateError, name::Name, paths::DataDir};

/// One environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnvView {
    /// Its name.
    pub id: EnvId,
    /// What there is of it.
    pub state: EnvState,
    /// All its packages, where that is known.
    pub packages: Vec<String>,
    /// What was asked for, and when it was built.
    #[serde(flatten)]
    pub stored: Option<Stored>,
    /// The tree that becomes /env.
    pub store_path: Option<PathBuf>,
    /// How many store paths it needs, itself included.
    pub store_paths: Option<usize>,
    /// Sandboxes that use it.
    pub sandboxes: Vec<Name>,
}

/// What was asked for, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// The spec.
    pub spec: super::spec::EnvSpec,
    /// When it was built, RFC 3339.
    pub built_at: String,
}

/// What there is of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnvState {
    /// All of it.
    Built,
    /// Its build did not come to its end.
    Unfinished,
    /// It was built, and the store has it no longer.
    Gone,
}

/// Who uses which environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Sandboxes by environment.
    pub known: BTreeMap<EnvId, Vec<Name>>,
    /// Sandboxes whose record cannot be read, and why; each may use any environment.
    pub unknown: Vec<(Name, String)>,
}

impl Users {
    /// Reads every record.
    pub fn read(data: &DataDir) -> Result<Self, EnvError> {
        let mut users = Self::default();
        for sandbox in Sandbox::all(data)? {
            match sandbox.record() {
                Ok(record) => {
                    if let Some(id) = record.environment.id() {
                        users.known.entry(id.clone()).or_default().push(sandbox.name().clone());
                    }
                }
                // It was never made, or is removed just now.
                Err(StateError::Unfinished { .. }) => {}
                Err(error) => users.unknown.push((sandbox.name().clone(), error.to_string())),
            }
        }
        Ok(users)
    }

    /// Those of one environment.
    pub fn of(&self, id: &EnvId) -> &[Name] {
        self.known.get(id).map_or(&[], Vec::as_slice)
    }
}

/// Every environment, sorted.
pub fn all(data: &DataDir) -> Result<Vec<EnvView>, EnvError> {
    let (files, users) = (Files::new(data), Users::read(data)?);
    Ok(files.ids()?.into_iter().map(|id| view(&files, &users, id)).collect())
}

/// The environments whose ids begin like this.
pub fn beginning_with(data: &DataDir, prefix: &str) -> Result<Vec<EnvId>, EnvError> {
    let ids = Files::new(data).ids()?;
    Ok(ids.into_iter().filter(|id| id.as_str().starts_with(prefix)).collect())
}

/// One environment.
pub fn one(data: &DataDir, id: &EnvId) -> Result<EnvView, EnvError> {
    Ok(view(&Files::new(data), &Users::read(data)?, id.clone()))
}

/// Its expression, where it was kept.
pub fn expression_of(data: &DataDir, id: &EnvId) -> Option<String> {
    std::fs::read_to_string(Files::new(data).expression(id)).ok()
}

fn view(files: &Files, users: &Users, id: EnvId) -> EnvView {
    let (built, target, stored) = (files.find(&id), files.target(&id), files.stored(&id));
    let state = match (&built, &target) {
        (Some(_), _) => EnvState::Built,
        (None, Some(target)) if !target.exists() => EnvState::Gone,
        (None, _) => EnvState::Unfinished,
    };
    let (packages, stored) = stored
        .map_or((Vec::new(), None), |StoredSpec { spec, packages, built_at, .. }| {
            (packages, Some(Stored { spec, built_at }))
        });
    EnvView {
        sandboxes: users.of(&id).to_vec(),
        id,
        state,
        packages,
        stored,
        store_path: target,
        store_paths: built.map(|built| built.closure.len()),
    }
}
