//! Why there is no environment.

use std::{io, path::PathBuf};

use nix::sys::signal::Signal;

use super::{
    nix_log::short_name,
    pin::PinError,
    problem::Problem,
    spec::{EnvId, SpecError},
};
use crate::sandbox::StateError;

/// Why an environment cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// What was asked for means nothing.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Where packages are to come from is not there.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A program of Nix is missing.
    #[error("{program} was not found")]
    NoNix {
        /// Its name.
        program: &'static str,
    },
    /// It was called off.
    #[error("the build of the environment was interrupted by {0}")]
    Cancelled(Signal),
    /// Nix did not build it.
    #[error("{}", message(&.0.problem))]
    Build(Box<BuildFailure>),
    /// The store's garbage collector failed.
    #[error("the Nix store cannot be cleaned: {0}")]
    Collect(String),
    /// Our own files.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A build that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFailure {
    /// Which environment.
    pub id: EnvId,
    /// What was wrong.
    pub problem: Problem,
    /// The last lines of the builder that failed, where one did.
    pub tail: Vec<String>,
    /// Everything that Nix said.
    pub log: PathBuf,
}

/// Which of the ways to fail it is, for exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// What was asked for.
    Request,
    /// Something that the machine lacks.
    Machine,
    /// The person called it off.
    Person,
    /// What was to be built.
    Build,
}

impl EnvError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::State(StateError::Io { doing: doing.into(), source })
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Spec(_) | Self::Pin(_) => Blame::Request,
            Self::NoNix { .. } => Blame::Machine,
            Self::Cancelled(_) => Blame::Person,
            Self::Build(failure) => failure.blame(),
            Self::Collect(_) | Self::State(_) => Blame::Build,
        }
    }

    /// Lines of somebody else's that say more.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Build(failure) => &failure.tail,
            _ => &[],
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spec(error) => error.hint(),
            Self::Pin(error) => Some(error.hint().to_owned()),
            Self::NoNix { .. } => Some(
                "`agent-shim doctor` says how to install Nix here; `--env host` uses the host's own tools instead"
                    .to_owned(),
            ),
            Self::Cancelled(_) => Some("the next start goes on from what was built so far".to_owned()),
            Self::Build(failure) => failure.hint(),
            Self::Collect(_) | Self::State(_) => None,
        }
    }
}

/// What failed, in one line.
pub(super) fn message(problem: &Problem) -> String {
    let paths = |paths: &[Vec<String>]| paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ");
    match problem {
        Problem::Unknown(names) => {
            let names: Vec<Vec<String>> = names.iter().map(|(name, _)| name.clone()).collect();
            let word = if names.len() == 1 { "package" } else { "packages" };
            format!("nixpkgs has no {word} {}", paths(&names))
        }
        Problem::NotPackages(names) => format!("no package, but a part of nixpkgs: {}", paths(names)),
        Problem::Unfree(package) => format!("the package {package} has an unfree licence"),
        Problem::Refused { package, why } => format!("the package {package} {why}"),
        Problem::NotNixpkgs => "what was given as nixpkgs is not nixpkgs".to_owned(),
        Problem::Builder(derivation) => format!("building {} failed", short_name(derivation)),
        Problem::Collision([first, second]) => {
            format!("two packages have the same file: {first} and {second}")
        }
        Problem::DiskFull => "no space is left for the Nix store".to_owned(),
        Problem::Daemon(socket) => format!("the Nix daemon does not answer at {socket}"),
        Problem::DaemonRefuses => "the Nix daemon does not take orders from this user".to_owned(),
        Problem::NotWritable(path) => {
            format!("this user cannot write to the Nix store: {path} is closed to them")
        }
        Problem::Fetch { url, why } if why.is_empty() => format!("cannot fetch {url}"),
        Problem::Fetch { url, why } => format!("cannot fetch {url}: {why}"),
        Problem::Hash { specified, got } => {
            format!("what was fetched is not what was pinned: its hash is {got}, not {specified}")
        }
        Problem::FlakesDisabled => "flakes are switched off in this Nix".to_owned(),
        Problem::NixTooOld(version) => format!("these packages need Nix {version} or later"),
        Problem::StoreDamaged(path) => format!("the Nix store has lost {path}, and does not know it"),
        Problem::Other(text) => format!("Nix cannot build the environment: {text}"),
    }
}

impl BuildFailure {
    /// Whether more can be learned from the log than from the message.
    pub(super) fn has_more_to_say(&self) -> bool {
        matches!(self.problem, Problem::Builder(_) | Problem::Collision(_) | Problem::Other(_))
    }

    fn blame(&self) -> Blame {
        match &self.problem {
            Problem::Unknown(_) | Problem::NotPackages(_) | Problem::NotNixpkgs => Blame::Request,
            Problem::DiskFull
            | Problem::Daemon(_)
            | Problem::DaemonRefuses
            | Problem::NotWritable(_)
            | Problem::FlakesDisabled
            | Problem::StoreDamaged(_)
            | Problem::Fetch { .. }
            | Problem::NixTooOld(_) => Blame::Machine,
            Problem::Unfree(_)
            | Problem::Refused { .. }
            | Problem::Builder(_)
            | Problem::Collision(_)
            | Problem::Hash { .. }
            | Problem::Other(_) => Blame::Build,
        }
    }

    fn hint(&self) -> Option<String> {
        let log = format!("everything Nix said is in {}", self.log.display());
        let fixed = |text: &str| Some(text.to_owned());
        match &self.problem {
            Problem::Unknown(names) => {
                let near: Vec<String> = names
                    .iter()
                    .filter(|(_, near)| !near.is_empty())
                    .map(|(name, near)| format!("{}: {}", shown(name), near.join(", ")))
                    .collect();
                let search = "https://search.nixos.org/packages lists all names";
                if near.is_empty() {
                    fixed(search)
                } else {
                    Some(format!("names like it are {}", near.join("; ")))
                }
            }
            Problem::NotPackages(names) => {
                let first = names.first().cloned().unwrap_or_default();
                let inside = shown(&[first, vec!["NAME".to_owned()]].concat());
                Some(format!("name one of the packages in it: {inside}"))
            }
            Problem::Unfree(_) => fixed("`--unfree` allows such packages"),
            Problem::Refused { .. } => fixed("leave it out, or choose another nixpkgs with `--nixpkgs`"),
            Problem::NotNixpkgs => fixed("name a checkout of nixpkgs, or a flake whose tree is one"),
            Problem::Builder(_) | Problem::Other(_) => Some(log),
            Problem::Collision(_) => fixed("leave one of them out"),
            Problem::DiskFull => fixed(
                "`nix-collect-garbage` frees what nothing uses, and `agent-shim env gc` what no sandbox uses before it",
            ),
            Problem::Daemon(_) => fixed("start it: `systemctl start nix-daemon`"),
            Problem::DaemonRefuses => fixed("allow this user in `allowed-users` of /etc/nix/nix.conf"),
            Problem::NotWritable(_) => fixed(
                "be the user who installed Nix, or install it with its daemon, which writes for everyone",
            ),
            Problem::Fetch { .. } => {
                fixed("packages come over the network the first time; `--env host` needs none")
            }
            Problem::Hash { .. } => {
                fixed("check the hash behind `--nixpkgs`; if it is right, what was fetched was tampered with")
            }
            Problem::FlakesDisabled => fixed(
                "put `experimental-features = nix-command flakes` into ~/.config/nix/nix.conf, or name nixpkgs by commit or folder",
            ),
            Problem::StoreDamaged(_) => fixed("`nix-store --verify --check-contents --repair` mends it"),
            Problem::NixTooOld(_) => fixed("upgrade Nix, or choose an older nixpkgs with `--nixpkgs`"),
        }
    }
}

/// A path of attributes as a person writes it. It comes from Nix, and need not be one that we would accept.
fn shown(path: &[String]) -> String {
    let part = |part: &String| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "_-'".contains(c));
        if plain { part.clone() } else { format!("\"{part}\"") }
    };
    format!("`{}`", path.iter().map(part).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(problem: Problem) -> EnvError {
        let id = "a".repeat(EnvId::LEN).parse().unwrap();
        EnvError::Build(Box::new(BuildFailure { id, problem, tail: Vec::new(), log: "/data/x.log".into() }))
    }

    #[test]
    fn unknown_packages_come_with_names_like_them() {
        let name = |text: &str| vec![text.to_owned()];
        let error = failure(Problem::Unknown(vec![
            (name("helo"), name("hello")),
            (vec!["a".to_owned(), "b c".to_owned()], Vec::new()),
        ]));
        assert_eq!(error.to_string(), "nixpkgs has no packages `helo`, `a.\"b c\"`");
        assert_eq!(error.hint().unwrap(), "names like it are `helo`: hello");
        assert_eq!(error.blame(), Blame::Request);
    }

    #[test]
    fn a_builder_names_itself_and_its_log() {
        let error = failure(Problem::Builder("/nix/store/abc-broken-1.0.drv".to_owned()));
        assert_eq!(error.to_string(), "building broken-1.0 failed");
        assert!(error.hint().unwrap().ends_with("/data/x.log"));
    }
}
