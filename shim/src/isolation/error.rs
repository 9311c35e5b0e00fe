//! Why a sandbox cannot be started, and what a person can do about it.

use std::io;
use std::path::PathBuf;

use super::engine::EngineError;
use super::limits::LimitError;
use super::microvm::{error::MachineError, kernel::KernelError};
use super::userns::UsernsSwitch;
use crate::requirement::Requirement;

/// Decides the exit code and the tone of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The machine lacks something.
    Requirement,
    /// What was asked for cannot be.
    Usage,
    /// Something that should have worked did not.
    Internal,
}

/// A launch that cannot be planned, or did not work.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// No bwrap in PATH.
    #[error("bubblewrap is not installed: there is no `bwrap` in {searched}")]
    BwrapMissing {
        /// The PATH that was searched.
        searched: String,
    },
    /// Neither crun nor runc in PATH.
    #[error("no runtime for containers is installed: there is neither `crun` nor `runc` in {searched}")]
    OciRuntimeMissing {
        /// The PATH that was searched.
        searched: String,
    },
    /// The runtime that was asked for is not in PATH.
    #[error("`{name}` is not installed: it is not in {searched}")]
    NamedRuntimeMissing {
        /// Its name.
        name: &'static str,
        /// The PATH that was searched.
        searched: String,
    },
    /// bwrap without `--disable-userns`.
    #[error("bubblewrap {found} is too old: {needed} or later is needed")]
    BwrapTooOld {
        /// Its version.
        found: String,
        /// The oldest that works.
        needed: &'static str,
    },
    /// The kernel, or a policy, refuses.
    #[error("user namespaces are not available: {said}")]
    NoUserNamespaces {
        /// What switches them off, if it was found.
        switch: Option<UsernsSwitch>,
        /// What bwrap printed.
        said: String,
    },
    /// Root's way of keeping the owner of files needs this of the file system.
    #[error("the file system of {path} cannot be mounted under another owner", path = path.display())]
    NoIdMapping {
        /// The folder.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An engine that makes no container.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No kernel for a machine, or one that lacks something.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No machine of that kind on this host.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A limit that cannot be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A mount that is not possible or not safe.
    #[error("cannot mount {source_path} at {at}: {why}", source_path = source_path.display())]
    Mount {
        /// Path on the host.
        source_path: PathBuf,
        /// Path inside.
        at: String,
        /// The reason.
        why: String,
    },
    /// A secret that is not possible.
    #[error("cannot provide the secret `{name}`: {why}")]
    Secret {
        /// Its name.
        name: String,
        /// The reason.
        why: String,
    },
    /// A part of a store that is no part of it.
    #[error("`{path}` is not a path directly below the store {store}", path = path.display(), store = store.display())]
    NotInStore {
        /// The store.
        store: PathBuf,
        /// What was named.
        path: PathBuf,
    },
    /// Packages that were there when the environment was built.
    #[error("{path} is not in the store any more, and the environment needs it", path = path.display())]
    StorePathGone {
        /// The first of them.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// More packages than init takes.
    #[error("the environment has {count} paths of the store {store}, and at most {most} can be told apart", store = store.display())]
    ClosureTooLarge {
        /// The store.
        store: PathBuf,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A network that the layer does not have.
    #[error("`--isolation {layer}` has no network `{asked}`")]
    NoSuchNetwork {
        /// The layer.
        layer: &'static str,
        /// What was asked for.
        asked: String,
        /// What it has.
        can: String,
    },
    /// A caller that broke the contract of this module.
    #[error("the launch plan is not consistent: {0}")]
    Plan(String),
    /// One step of a launch.
    #[error("{doing}")]
    Step {
        /// In words, naming the path.
        doing: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The layer gave up for a reason we do not know.
    #[error("{program} failed: {said}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// What it printed.
        said: String,
    },
}

impl IsolationError {
    /// What kind of problem it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Machine(error) if error.is_usage() => ErrorKind::Usage,
            Self::Machine(MachineError::Boot { .. }) => ErrorKind::Internal,
            Self::Machine(_)
            | Self::BwrapMissing { .. }
            | Self::OciRuntimeMissing { .. }
            | Self::NamedRuntimeMissing { .. }
            | Self::BwrapTooOld { .. }
            | Self::NoUserNamespaces { .. }
            | Self::NoIdMapping { .. }
            | Self::StorePathGone { .. }
            | Self::Kernel(_)
            | Self::Limit(LimitError::NotHere { .. }) => ErrorKind::Requirement,
            Self::Mount { .. }
            | Self::Secret { .. }
            | Self::ClosureTooLarge { .. }
            | Self::NoSuchNetwork { .. } => ErrorKind::Usage,
            Self::Engine(error) => error.kind(),
            Self::Limit(_)
            | Self::NotInStore { .. }
            | Self::Plan(_)
            | Self::Step { .. }
            | Self::Failed { .. } => ErrorKind::Internal,
        }
    }

    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::StorePathGone { .. } => {
                "a garbage collection may have removed it; build the environment again with `agent-shim env build`"
            }
            Self::Machine(error) => {
                return error.hint().or_else(|| error.requirement().map(Requirement::hint));
            }
            Self::ClosureTooLarge { .. } => "show the store whole, with `--store whole`",
            Self::Engine(error) => return error.hint(),
            Self::NoSuchNetwork { can, .. } => return Some(format!("it has {can}")),
            _ => return self.requirement().map(Requirement::hint),
        };
        Some(hint.to_owned())
    }

    /// What the machine lacks, for `doctor` to name it too.
    pub fn requirement(&self) -> Option<Requirement> {
        Some(match self {
            Self::BwrapMissing { .. } => Requirement::BwrapMissing,
            Self::OciRuntimeMissing { .. } | Self::NamedRuntimeMissing { .. } => {
                Requirement::OciRuntimeMissing
            }
            Self::BwrapTooOld { .. } => Requirement::BwrapTooOld,
            Self::NoUserNamespaces { switch: Some(switch), .. } => switch.requirement(),
            Self::NoUserNamespaces { switch: None, .. } => Requirement::UserNamespacesRefused,
            Self::NoIdMapping { .. } => Requirement::IdMappedMountsMissing,
            Self::Limit(LimitError::NotHere { .. }) => Requirement::LimitsNotDelegated,
            Self::Machine(error) => return error.requirement(),
            Self::Kernel(error) => error.requirement(),
            Self::Limit(LimitError::Io { .. })
            | Self::Engine(_)
            | Self::Mount { .. }
            | Self::Secret { .. }
            | Self::StorePathGone { .. }
            | Self::ClosureTooLarge { .. }
            | Self::NoSuchNetwork { .. }
            | Self::NotInStore { .. }
            | Self::Plan(_)
            | Self::Step { .. }
            | Self::Failed { .. } => return None,
        })
    }
}
