//! A launch as a value: it can be printed, compared in a test, and only then carried out.
//!
//! Nothing here makes a system call, and nothing here knows which layer will carry the plan out.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::engine::Engine;
use super::limits::{LimitPlan, Limits};
use super::microvm::plan::MachinePlan;
use super::store::Closure;

/// Where the project is mounted, and where the agent starts.
pub const WORKSPACE: &str = "/workspace";
/// The home folder inside.
pub const HOME: &str = "/home/sandbox";
/// The name of the only user inside.
pub const USER: &str = "sandbox";
/// User and group id inside, whoever runs the sandbox.
pub const USER_ID: u32 = 1000;
/// Where init's binary appears.
pub const INIT: &str = "/run/agent/init";
/// Where what serves git beside init appears.
pub const GIT: &str = "/run/agent/git";
/// Where objects of the host's repository appear, each folder under a number.
pub const OBJECTS: &str = "/run/agent/objects";
/// Where secrets appear, one file each.
pub const SECRETS: &str = "/run/secrets";

/// Everything a layer needs to start PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaunchPlan {
    /// Which layer made the plan, and carries it out.
    pub layer: &'static str,
    /// The program that builds the sandbox.
    #[serde(serialize_with = "lossy")]
    pub program: PathBuf,
    /// The sandbox's host name.
    pub hostname: String,
    /// State folder of the sandbox, where the layer keeps its own record.
    #[serde(serialize_with = "lossy")]
    pub folder: PathBuf,
    /// On whose behalf the layer works.
    pub caller: Caller,
    /// In this order; a later one may lie on an earlier one.
    pub mounts: Vec<Mount>,
    /// Paths of a store that is mounted whole: init lets no others in it be used. They go into its spec.
    pub readable: Vec<String>,
    /// What is not shared with the host.
    pub namespaces: Namespaces,
    /// Environment of init. The agent's own comes in its spec and may hold secrets; this never does.
    pub env: Vec<(String, String)>,
    /// Descriptors init inherits besides 0, 1 and 2.
    pub fds: Vec<PromisedFd>,
    /// Init and its arguments, as paths inside.
    pub command: Vec<String>,
    /// The cgroup to create, when limits were asked for.
    pub limits: LimitPlan,
    /// What an engine makes it of, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// The machine, on layers that make one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachinePlan>,
    /// Whether the kernel ends the layer's process with its parent; only for runs nobody comes back to.
    pub dies_with_parent: bool,
}

/// A container that an engine makes of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// The engine.
    pub engine: Engine,
    /// The image, as the person calls it.
    pub image: String,
    /// Which image that is now.
    pub id: String,
    /// What its containers' names begin with; each start adds something.
    pub name: String,
    /// The only user inside that is more than an owner of files.
    pub user: u32,
    /// The image's environment, on which the sandbox's own lies.
    pub variables: Vec<(String, String)>,
    /// What the engine bounds.
    pub limits: Limits,
}

/// Who runs the sandbox on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// An ordinary user, whose id the sandbox's processes keep on the host.
    Ordinary,
    /// Root. The sandbox runs as `runs_as`, an id that owns nothing on the host, because the kernel lets
    /// uid 0 write files such as core_pattern even from a user namespace without capabilities.
    Root {
        /// The id the sandbox's processes have on the host.
        runs_as: u32,
    },
}

/// Namespaces that are more than always on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    /// What of the network is reachable.
    pub network: Network,
    /// Whether processes inside may make user namespaces of their own.
    pub nested: bool,
}

/// What of the network a sandbox reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A loopback device of its own and nothing else.
    None,
    /// The host's network, its loopback services included.
    Host,
    /// A device of its own, through which it reaches what the host reaches, and not the host.
    Nat,
    /// A device of its own in this bridge of the host's.
    Bridge(String),
}

/// A descriptor that init inherits under a number its spec names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromisedFd {
    /// What it is, for the caller to hand over the right one and for the reader of a plan.
    pub name: &'static str,
    /// Its number inside; 3 or more.
    pub number: i32,
}

/// One entry of the file system inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mount {
    /// A file or folder of the host, with the mounts below it.
    Bind {
        /// Path on the host.
        #[serde(serialize_with = "lossy")]
        source: PathBuf,
        /// Path inside.
        at: String,
        /// Whether it can be written to.
        access: Access,
        /// Whose rights it is read with.
        origin: Origin,
    },
    /// A folder of packages that everyone may read, such as `/nix/store`, read-only.
    Store {
        /// Path on the host, without symbolic links in it.
        #[serde(serialize_with = "lossy")]
        source: PathBuf,
        /// Path inside.
        at: String,
        /// What of it is there.
        view: StoreView,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Path inside.
        at: String,
        /// Memory it can take.
        size_bytes: u64,
        /// Permissions of its top folder.
        mode: u32,
    },
    /// The process table of the sandbox.
    Proc {
        /// Path inside.
        at: String,
    },
    /// null, zero, full, random, urandom, tty and a terminal multiplexer of its own.
    Dev {
        /// Path inside.
        at: String,
    },
    /// An empty folder.
    Dir {
        /// Path inside.
        at: String,
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: String,
        /// Path inside.
        at: String,
    },
    /// A copy of something, on a file system that ends up read-only.
    File {
        /// Path inside.
        at: String,
        /// Its permissions.
        mode: u32,
        /// What it holds.
        content: Content,
    },
    /// Makes what was built at this path read-only, mounts on top of it excepted.
    Seal {
        /// Path inside.
        at: String,
    },
}

/// What of a store is to be seen. In a plan, [`StoreView::Whole`] may still be narrowed by [`LaunchPlan::readable`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreView {
    /// Everything in it, now and later.
    Whole,
    /// These packages, as if there were no others.
    Closure(Closure),
}

/// Whether a bind can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Every write fails with EROFS, whatever the file's permissions.
    ReadOnly,
    /// Writes reach the host, as the owner of the folder.
    ReadWrite,
}

/// Whose rights a bind is read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A part of the host everyone may read: bound as it is, so that what is restricted stays so.
    System,
    /// Given by the caller, who may reach it where the sandbox's own id could not.
    Caller,
}

/// What a [`Mount::File`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// This text.
    Text(String),
    /// The same of a file that the caller gave, reached without any symbolic link: an agent may have made one since.
    Given(#[serde(serialize_with = "lossy")] PathBuf),
    /// What this file of the host holds at launch. The plan never holds it, so that printing one shows no secret.
    Of(#[serde(serialize_with = "lossy")] PathBuf),
}

impl Mount {
    /// A part of the host everyone may read, at the same path inside.
    pub fn system(path: &str) -> Mount {
        Mount::Bind { source: path.into(), at: path.into(), access: Access::ReadOnly, origin: Origin::System }
    }

    /// A file or folder the caller gives.
    pub fn given(source: impl Into<PathBuf>, at: impl Into<String>, access: Access) -> Mount {
        Mount::Bind { source: source.into(), at: at.into(), access, origin: Origin::Caller }
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<String>, at: impl Into<String>) -> Mount {
        Mount::Symlink { target: target.into(), at: at.into() }
    }

    /// A generated file everyone inside may read.
    pub fn text(at: impl Into<String>, text: impl Into<String>) -> Mount {
        Mount::File { at: at.into(), mode: 0o644, content: Content::Text(text.into()) }
    }

    /// A copy of a host file everyone inside may read: cheaper than a mount for a small one.
    pub fn copy(source: impl Into<PathBuf>, at: impl Into<String>) -> Mount {
        Mount::File { at: at.into(), mode: 0o644, content: Content::Of(source.into()) }
    }

    /// Where it appears inside.
    pub fn at(&self) -> &str {
        match self {
            Mount::Bind { at, .. }
            | Mount::Store { at, .. }
            | Mount::Tmpfs { at, .. }
            | Mount::Proc { at }
            | Mount::Dev { at }
            | Mount::Dir { at, .. }
            | Mount::Symlink { at, .. }
            | Mount::File { at, .. }
            | Mount::Seal { at } => at,
        }
    }
}

impl LaunchPlan {
    /// The plan as JSON, for `-n --json` and for tests.
    pub fn to_json(&self) -> String {
        // Numbers, strings and lists only: writing them to memory cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// A host path need not be UTF-8; printing shows what can be shown.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
