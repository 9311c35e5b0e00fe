//! Where a sandbox's tools come from, and what it sees of the store they are in.

use serde::{Deserialize, Serialize};

use crate::env::spec::{EnvId, EnvSpec};

/// Where a sandbox's tools come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// The host's /usr, read-only.
    #[default]
    Host,
    /// Packages that Nix provides.
    Nix {
        /// Which environment; the store path is found by it.
        id: EnvId,
        /// What it consists of, to build it again where it is gone.
        spec: EnvSpec,
    },
}

impl Environment {
    /// The environment's id, where it has one.
    pub fn id(&self) -> Option<&EnvId> {
        match self {
            Self::Host => None,
            Self::Nix { id, .. } => Some(id),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> EnvKind {
        match self {
            Self::Host => EnvKind::Host,
            Self::Nix { .. } => EnvKind::Nix,
        }
    }
}

/// The kinds of environments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EnvKind {
    /// The host's /usr, read-only
    Host,
    /// Packages that Nix provides
    Nix,
}

/// What a sandbox sees of the Nix store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// All of it
    Whole,
    /// What its environment consists of, and nothing else
    #[default]
    Closure,
}
