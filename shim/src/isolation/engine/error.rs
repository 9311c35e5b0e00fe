//! Why an engine makes no container, and what a person can do about it.

use super::Engine;
use crate::isolation::error::{ErrorKind, IsolationError};

/// Longest complaint of an engine that is passed on.
const SAID_MAX_CHARS: usize = 400;

/// What keeps an engine from making a container.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Its program is not in PATH.
    #[error("{} is not installed: there is no `{}` in {searched}", .engine.name(), .engine.name())]
    Missing {
        /// Which one.
        engine: Engine,
        /// The PATH that was searched.
        searched: String,
    },
    /// Its daemon does not answer, or not to this person.
    #[error("{} does not answer: {said}", .engine.name())]
    NotRunning {
        /// Which one.
        engine: Engine,
        /// What it printed.
        said: String,
    },
    /// The image is not here.
    #[error("{} has no image `{image}`", .engine.name())]
    NoImage {
        /// Which engine.
        engine: Engine,
        /// As the person called it.
        image: String,
    },
    /// It was looked for in a registry.
    #[error("{} cannot get the image `{image}`: {said}", .engine.name())]
    NotPulled {
        /// Which engine.
        engine: Engine,
        /// As the person called it.
        image: String,
        /// What it printed.
        said: String,
    },
    /// What the engine says of the image is of no use.
    #[error("{} cannot use the image `{image}`: {why}", .engine.name())]
    OddImage {
        /// Which engine.
        engine: Engine,
        /// As the person called it.
        image: String,
        /// The reason.
        why: String,
    },
    /// Nothing to run.
    #[error("the image `{image}` names no command, and none was given")]
    NoCommand {
        /// As the person called it.
        image: String,
    },
    /// podman without ids to map.
    #[error("podman has no further user ids for you: {said}")]
    NoSubordinateIds {
        /// What it printed.
        said: String,
    },
    /// docker cannot show files under another owner.
    #[error("as root, agent-shim uses podman only: a container of docker's would run as root")]
    RootNeedsPodman,
    /// An engine makes nothing without one.
    #[error("{} makes containers of images, and none was given", .engine.name())]
    NoImageGiven {
        /// Which one.
        engine: Engine,
    },
    /// A path that an engine would take for something else.
    #[error("{} takes no mount with a comma or a quotation mark in its path: {path}", .engine.name())]
    OddPath {
        /// Which one.
        engine: Engine,
        /// The path.
        path: String,
    },
}

impl EngineError {
    /// What kind of problem it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. }
            | Self::NotRunning { .. }
            | Self::NoImage { .. }
            | Self::NotPulled { .. }
            | Self::OddImage { .. }
            | Self::NoCommand { .. }
            | Self::NoSubordinateIds { .. }
            | Self::RootNeedsPodman => ErrorKind::Requirement,
            Self::NoImageGiven { .. } | Self::OddPath { .. } => ErrorKind::Usage,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { engine, .. } => {
                let name = engine.name();
                format!("install {name}, or leave out `--engine` for a container without an engine")
            }
            Self::NotRunning { engine: Engine::Docker, .. } => {
                "start it (`systemctl start docker`) and see that you may use it (`docker info`), or use \
                 `--engine podman`, which needs no daemon"
                    .to_owned()
            }
            Self::NotRunning { .. } => "`podman info` says more".to_owned(),
            Self::NoImage { engine, .. } | Self::NotPulled { engine, .. } => {
                format!("`{} images` lists those that are here", engine.name())
            }
            Self::OddImage { engine, .. } => {
                format!("`{0} images` lists those that are here, and `{0} image inspect` shows one", engine.name())
            }
            Self::NoCommand { .. } => {
                "write one behind two dashes: `agent-shim run --image IMAGE . -- bash`".to_owned()
            }
            Self::NoSubordinateIds { .. } => {
                "an administrator gives you some: `usermod --add-subuids 200000-265535 --add-subgids \
                 200000-265535 NAME`, then `podman system migrate`; newuidmap (package uidmap) has to be there"
                    .to_owned()
            }
            Self::RootNeedsPodman => {
                "run it as an ordinary user who may use docker, or with `--engine podman`".to_owned()
            }
            Self::NoImageGiven { .. } => {
                "name one with `--image`, or leave out `--engine` for a container without an image".to_owned()
            }
            Self::OddPath { .. } => return None,
        })
    }
}

/// What was printed before init answered. Init's words come last, where it ran; else the engine's.
pub(super) fn explain(printed: &str, engine: Engine, image: &str) -> IsolationError {
    let mut lines = printed.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.clone().next().unwrap_or("it ended without saying why");
    if let Some(said) = last.strip_prefix("agent-init: error: ") {
        return IsolationError::Failed { program: "agent-init", said: short(said) };
    }
    let complaint = |line: &&str| line.starts_with("Error: ") || line.starts_with("docker: ");
    let said = lines.find(complaint).unwrap_or(last);
    if let Some(known) = known(said, printed, engine, image) {
        return known.into();
    }
    IsolationError::Failed { program: engine.name(), said: short(plain(said)) }
}

/// The complaints that have a remedy. `said` is the one that counts, and `all` everything before it too.
pub(super) fn known(said: &str, all: &str, engine: Engine, image: &str) -> Option<EngineError> {
    let has = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let daemon = [
        "Cannot connect to the Docker daemon",
        "permission denied while trying to connect",
        "failed to connect to the docker API",
        "unable to connect to Podman",
    ];
    if has(said, &daemon) {
        return Some(EngineError::NotRunning { engine, said: short(plain(said)) });
    }
    let ids = [
        "requires additional UIDs",
        "no subuid ranges",
        "newuidmap",
        "insufficient UIDs",
        "not enough available IDs",
    ];
    if engine == Engine::Podman && has(all, &ids) {
        return Some(EngineError::NoSubordinateIds { said: short(plain(said)) });
    }
    if has(said, &["invalid reference format", "must be lowercase"]) {
        let why = "that is no name of an image".to_owned();
        return Some(EngineError::OddImage { engine, image: image.to_owned(), why });
    }
    let absent = ["No such image", "image not known", "no such image", "Unable to find image"];
    has(said, &absent).then(|| EngineError::NoImage { engine, image: image.to_owned() })
}

/// Without the words that say only that it is an error.
pub(super) fn plain(said: &str) -> &str {
    let said = said.trim();
    let said = said.strip_prefix("it exited with status 1: ").unwrap_or(said);
    let said = said.strip_prefix("it exited with status 125: ").unwrap_or(said);
    said.strip_prefix("Error: ").or_else(|| said.strip_prefix("docker: ")).unwrap_or(said)
}

/// What an engine said may be an image's words. The reason comes last, behind everything that was being done.
pub(super) fn short(said: &str) -> String {
    let harmless: Vec<char> = said.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if harmless.len() <= SAID_MAX_CHARS {
        return harmless.into_iter().collect();
    }
    let half = SAID_MAX_CHARS / 2;
    let (head, tail) = (&harmless[..half], &harmless[harmless.len() - half..]);
    head.iter().chain(&[' ', '.', '.', '.', ' ']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_has_a_remedy() {
        let daemon = "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker \
                      daemon running?\nSee 'docker run --help'.\n";
        let error = explain(daemon, Engine::Docker, "x");
        assert_eq!(error.kind(), ErrorKind::Requirement);
        assert!(error.to_string().starts_with("docker does not answer: Cannot connect"), "{error}");
        assert!(error.hint().unwrap().contains("--engine podman"));

        let ids = "time=\"x\" level=error msg=\"cannot find UID/GID for user me: no subuid ranges found\"\n\
                   Error: keep-id requires additional UIDs or GIDs defined in /etc/subuid\n";
        let error = explain(ids, Engine::Podman, "x");
        assert_eq!(error.kind(), ErrorKind::Requirement);
        assert!(error.hint().unwrap().contains("--add-subuids"), "{error}");

        let error = explain("Error: x: image not known\n", Engine::Podman, "x");
        assert_eq!(error.to_string(), "podman has no image `x`");
    }

    #[test]
    fn what_is_not_known_is_passed_on_short_and_harmless() {
        let printed = format!("level=warning\nError: \x1b]0;{}\n", "a".repeat(1000));
        let error = explain(&printed, Engine::Podman, "x").to_string();
        assert!(error.starts_with("podman failed: ?]0;aaa") && error.len() < 500, "{error}");
        let error = explain("Error: odd\nagent-init: error: reading the spec\n", Engine::Podman, "x");
        assert_eq!(error.to_string(), "agent-init failed: reading the spec");
        assert_eq!(
            explain("", Engine::Docker, "x").to_string(),
            "docker failed: it ended without saying why"
        );
    }
}
