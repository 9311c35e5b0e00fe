//! What was found on a machine. Plain values: nothing here looks, and nothing decides.

use std::path::PathBuf;

use serde::Serialize;

use super::{Requirement, version::Version};

/// Everything that [`super::report`] decides from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The kernel's release.
    pub(super) kernel: String,
    /// Whether sandboxes are started by root, which takes another way.
    pub(super) by_root: bool,
    pub(super) bwrap: Program,
    pub(super) user_namespaces: UserNamespaces,
    /// Folders that root would lend, and why one cannot be lent.
    pub(super) id_mapping: Vec<(PathBuf, Option<String>)>,
    pub(super) agent_init: Found,
    pub(super) data_folder: DataFolder,
    /// The version of Landlock's interface.
    pub(super) landlock_abi: Option<u32>,
    /// Why memory and processors cannot be limited.
    pub(super) no_limits: Option<String>,
    pub(super) terminal: Terminal,
    pub(super) git: Program,
    pub(super) pasta: Program,
    pub(super) nix: Nix,
    pub(super) crun: Program,
    pub(super) runc: Program,
    pub(super) podman: Program,
    pub(super) docker: Program,
    pub(super) qemu: Program,
    pub(super) machine_kernel: MachineKernel,
    pub(super) kvm: Device,
    pub(super) virtiofsd: Program,
    /// Whether it can tell ids inside from those outside by itself.
    pub(super) virtiofsd_translates: bool,
    pub(super) vhost_device_vsock: Program,
    pub(super) vhost_vsock: Device,
    pub(super) passt: Program,
}

/// The kernel that machines would boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum MachineKernel {
    Found {
        image: PathBuf,
        version: String,
        /// What every machine needs and it does not have, in words.
        lacks: Vec<String>,
        /// Whether files of the host can reach it, by either way.
        virtiofs: bool,
        plan9: bool,
    },
    Not {
        requirement: Requirement,
        /// Whole sentences, as a start says them.
        why: String,
    },
}

/// A program, and what it said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Program {
    /// It was looked for in PATH.
    Missing,
    /// It says which version it is.
    Works { path: PathBuf, version: Version },
    /// It does not.
    Broken { path: PathBuf, why: String },
}

/// A file, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Found {
    At(PathBuf),
    Not(String),
}

/// A device, and whether it does what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Device {
    Missing,
    NoPermission { why: String },
    Unusable { why: String },
    Works,
}

/// Whether bwrap can make one, and what might keep it from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct UserNamespaces {
    /// Whether the kernel has them at all.
    pub(super) built: bool,
    /// Files below /proc/sys that switch them off, by name, as far as they are there.
    pub(super) settings: Vec<(&'static str, String)>,
    /// Whether AppArmor has a profile for bwrap.
    pub(super) profile: bool,
    /// The container that we are in.
    pub(super) container: Option<String>,
    /// What bwrap said to making one; not tried where there is no bwrap.
    pub(super) tried: Option<Trial>,
}

/// What came of trying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trial {
    Works,
    /// What the program printed on its standard error.
    Failed(String),
    Hangs,
}

/// Where sandboxes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DataFolder {
    /// `None` where nothing says where it is.
    pub(super) path: Option<PathBuf>,
    /// Why nothing can be made in it.
    pub(super) not_writable: Option<String>,
    /// Why it is not ours alone.
    pub(super) foreign: Option<String>,
    pub(super) free_bytes: Option<u64>,
}

/// The person's terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Terminal {
    pub(super) is_one: bool,
    pub(super) term: Option<String>,
}

/// Nix, its store and its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Nix {
    pub(super) build: Program,
    pub(super) store: PathBuf,
    pub(super) store_exists: bool,
    pub(super) store_writable: bool,
    /// The daemon's socket.
    pub(super) daemon: Daemon,
    /// What `nix-store` said when the store was opened; not tried where there is no store.
    pub(super) opened: Option<Trial>,
    pub(super) flakes: bool,
    pub(super) unfree: bool,
}

/// Whether somebody listens on the Nix daemon's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Daemon {
    /// Nothing says that there should be one.
    None,
    /// It is set up, and does not listen.
    Down(String),
    /// It may be used by others.
    Forbidden(String),
    Listens,
}
