//! A container, as it was asked for: what makes it, and of which image.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::isolation::{ContainerMaker, engine};

/// What a container is made of and by. What is absent is found by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerRecord {
    /// What runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The image, as its engine names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// crun, without an image
    Crun,
    /// runc, without an image
    Runc,
    /// podman, which has no daemon
    Podman,
    /// docker, by its daemon
    Docker,
}

impl Engine {
    /// Whether it makes containers of images.
    pub fn takes_images(self) -> bool {
        matches!(self, Self::Podman | Self::Docker)
    }

    /// The runtime's name, where it is one.
    fn runtime(self) -> Option<&'static str> {
        match self {
            Self::Crun => Some("crun"),
            Self::Runc => Some("runc"),
            Self::Podman | Self::Docker => None,
        }
    }
}

impl ContainerRecord {
    /// The engine and its image, where one makes the container.
    pub fn made_by(&self) -> Option<(engine::Engine, &str)> {
        // Without an image there is nothing for an engine to do that a runtime does not do better.
        let image = self.image.as_deref()?;
        let engine = match self.engine {
            Some(Engine::Crun | Engine::Runc) => return None,
            Some(Engine::Docker) => engine::Engine::Docker,
            // The one without a daemon is the nearer one.
            Some(Engine::Podman) | None => engine::Engine::Podman,
        };
        Some((engine, image))
    }
}

impl Record {
    /// What its container is to be made by, where it is one.
    pub fn container_maker(&self) -> ContainerMaker<'_> {
        let container = self.container.as_ref().filter(|_| self.isolation.capabilities().takes_images);
        ContainerMaker {
            engine: container.and_then(ContainerRecord::made_by),
            runtime: container.and_then(|container| container.engine?.runtime()),
        }
    }

    /// The engine and the image that its container is made of, where one is.
    pub fn engine(&self) -> Option<(engine::Engine, &str)> {
        self.container_maker().engine
    }
}
