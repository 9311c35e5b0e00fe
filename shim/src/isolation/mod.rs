//! What starts PID 1 in a world of its own: bubblewrap, the runtime of a container or an engine, or a machine.
//!
//! A layer turns a [`Request`] into a [`LaunchPlan`], a plain value, and a plan into a running PID 1.
//! Everything above this module works with the trait [`Layer`] and cannot tell which one it has;
//! everything that differs between layers is in that layer's folder or in [`Capabilities`].

pub mod bwrap;
mod draft;
pub mod engine;
pub mod error;
mod handover;
pub mod ids;
mod launcher;
mod layers;
pub mod limits;
pub mod memory;
pub mod microvm;
pub mod network;
pub mod oci;
pub mod plan;
pub mod process;
mod record;
mod rootfs;
mod said;
pub mod shape;
mod shown;
mod sources;
mod stage;
mod start;
pub mod store;
mod tree;
pub mod userns;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_protocol::{
    address::Address,
    message::Resources,
    spec::{Machine, ShareKind},
};
use serde::{Deserialize, Serialize};

pub use error::{ErrorKind, IsolationError};
pub(crate) use layers::variable_names;
pub use layers::{ContainerMaker, Isolation, own_process};
pub use limits::Limits;
pub use network::{NetworkChoice, NetworkKind};
pub use plan::{Access, Caller, LaunchPlan, Mount, Network, PromisedFd, StoreView};
pub use process::{Process, ProcessId};
pub use store::Closure;

use crate::env::Environment;

/// A way of running PID 1 apart from the host.
pub trait Layer {
    /// What it can do, for callers to ask instead of its name.
    fn capabilities(&self) -> &'static Capabilities;

    /// Decides everything about a launch. Looks at the host, changes nothing.
    fn plan(&self, request: &Request) -> Result<LaunchPlan, IsolationError>;

    /// The command a person would type to do what `plan` does. It shows where secrets come from, never what they are.
    fn to_shell(&self, plan: &LaunchPlan) -> String;

    /// Starts PID 1. Returns once the layer's process runs, which is before init does.
    ///
    /// If that process exits before init answers, [`Layer::explain`] says why.
    fn launch(&self, plan: &LaunchPlan, handles: Handles) -> Result<Launched, IsolationError>;

    /// The machine that init has to boot, where the layer makes one.
    fn machine(&self, plan: &LaunchPlan) -> Option<Machine> {
        let _ = plan;
        None
    }

    /// What to call for init, where it does not inherit its listener. A path is one in the sandbox's folder.
    fn address(&self, plan: &LaunchPlan) -> Option<Address> {
        let _ = plan;
        None
    }

    /// What a person should know of a plan although it works, each in a sentence.
    fn warnings(&self, plan: &LaunchPlan) -> Vec<String> {
        let _ = plan;
        Vec::new()
    }

    /// What the layer has recorded in a sandbox's folder since its last launch.
    ///
    /// The record is written by the layer's own process, so that it grows while nothing else of ours lives.
    fn report(&self, folder: &Path) -> io::Result<Report>;

    /// Turns what a failed launch printed into what to do about it.
    fn explain(&self, printed: &str) -> IsolationError;
}

/// What a layer can do.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Its name, as given to `--isolation`.
    pub name: &'static str,
    /// How init is reached.
    pub reach: Reach,
    /// Whether descriptors can travel over a connection to init.
    pub passes_descriptors: bool,
    /// Whether processes inside are processes of the host, with a pid and a user there.
    pub shares_kernel: bool,
    /// What it makes, as people call it.
    pub makes: &'static str,
    /// The networks it has; the first is what it does by itself.
    pub networks: &'static [NetworkKind],
    /// Whether it takes the image of a container as its root folder.
    pub takes_images: bool,
    /// The part that takes the calls for init, where init does not do that itself.
    pub door: Option<&'static str>,
    /// How long things may take on it.
    pub patience: Patience,
}

/// How long what is fine may take on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Patience {
    /// From the launch to init's first word.
    pub start: Duration,
    /// From a request to init's answer.
    pub answer: Duration,
}

/// From the launch to init's first word, where it is a process of the host: it takes milliseconds; a loaded host with a cold
/// disk, seconds.
const INIT_WITHIN: Duration = Duration::from_secs(30);
/// From a request to that init's answer.
const INIT_ANSWERS_WITHIN: Duration = Duration::from_millis(700);
/// From the launch to init's first word, where a kernel boots first, perhaps without the processor's help.
const BOOT_WITHIN: Duration = Duration::from_mins(2);
/// From a request to that init's answer.
const MACHINE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

impl Patience {
    /// Where init is a process of the host.
    pub const OF_PROCESSES: Self = Self { start: INIT_WITHIN, answer: INIT_ANSWERS_WITHIN };
    /// Where it is one of a machine.
    pub const OF_MACHINES: Self = Self { start: BOOT_WITHIN, answer: MACHINE_ANSWERS_WITHIN };
}

/// How init is reached on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The caller binds a socket and init inherits it listening: pass it as one of the promised descriptors.
    InheritedListener,
    /// Init listens on this vsock port of a machine: pass its spec and a token as promised descriptors, which the layer
    /// brings into the machine. [`Layer::address`] says what to call.
    Machine {
        /// The port.
        port: u32,
    },
}

/// What is asked of a layer.
#[derive(Clone, Debug)]
pub struct Request {
    /// The sandbox's name, and its host name inside.
    pub name: String,
    /// Its state folder, with `home` and `tmp` in it.
    pub folder: PathBuf,
    /// The folder that appears at `/workspace`, without symbolic links in its path.
    pub workspace: PathBuf,
    /// Folders of git objects that the workspace's repository reads, without symbolic links in their paths.
    pub objects: Vec<PathBuf>,
    /// Tools and system files.
    pub environment: Environment,
    /// Further files and folders.
    pub mounts: Vec<UserMount>,
    /// Files under `/run/secrets`.
    pub secrets: Vec<Secret>,
    /// Folders of the host that no mount may show, such as the state of all sandboxes.
    pub hidden: Vec<PathBuf>,
    /// What of the network is reachable.
    pub network: Network,
    /// Whether processes inside may make user namespaces, for agents that sandbox their own tools.
    pub nested_namespaces: bool,
    /// What it may use.
    pub limits: Limits,
    /// Init's binary on the host.
    pub init: PathBuf,
    /// The binary beside it that serves git where the environment has none.
    pub git: PathBuf,
    /// Arguments for init.
    pub init_args: Vec<String>,
    /// Environment of init itself. Nothing secret: it shows in the plan.
    pub init_env: Vec<(String, String)>,
    /// Descriptors init inherits, in ascending order of their numbers.
    pub fds: Vec<PromisedFd>,
    /// What its machine is made of, on layers that make one.
    pub machine: MachineWishes,
    /// On whose behalf.
    pub caller: Caller,
    /// End it when the calling process ends.
    pub dies_with_parent: bool,
}

/// What was asked for of a machine. Everything that is left out is found by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineWishes {
    /// How many processors it has.
    pub vcpus: Option<u32>,
    /// Its kernel: the image, or a folder with `boot` and `lib/modules` in it.
    pub kernel: Option<PathBuf>,
    /// How it reaches files of the host.
    pub share: Option<ShareKind>,
    /// What carries out its instructions.
    pub accelerator: Accelerator,
    /// Keep it from making machines of its own, which it can where the processor can.
    pub no_nested: bool,
}

/// What carries out a machine's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor where it can be used, else a program
    #[default]
    Auto,
    /// The processor, by KVM
    Kvm,
    /// A program, which is slower by far
    Tcg,
}

/// `--mount SRC:DST[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMount {
    /// Path on the host, without symbolic links in it.
    pub source: PathBuf,
    /// Absolute path inside.
    pub at: String,
    /// Whether it can be written to.
    pub access: Access,
}

/// `--secret NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Name of the file inside.
    pub name: String,
    /// The file on the host.
    pub source: PathBuf,
}

/// What a launch takes over from its caller.
#[derive(Debug)]
pub struct Handles {
    /// One for each promised descriptor of the plan, by name.
    pub promised: Vec<(&'static str, OwnedFd)>,
    /// Where the layer and init print; files or fresh pipes of ours, because inside they can be reopened.
    pub stdout: OwnedFd,
    /// The same for errors; what [`Layer::explain`] reads.
    pub stderr: OwnedFd,
}

/// A launch under way.
#[derive(Debug)]
pub struct Launched {
    /// The layer's own process, a child of the caller. Init outlives it.
    pub supervisor: Process,
    /// What remains when every process is gone. Record it before anything else.
    pub remains: Remains,
}

/// What a layer has recorded about a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its pid on the host. Written before init executes, and valid for as long as init answers:
    /// a living process keeps its number.
    pub init_pid: Option<i32>,
    /// The layer's own program, which leads a session. Written before it executes, where what it has begun and not told of
    /// can outlive it.
    pub layer_pid: Option<i32>,
    /// Its exit code, 128 + N for signal N. Missing if the layer's process was killed before init ended.
    pub exit_code: Option<i32>,
    /// Further processes that it is made of: a start ends with each of them.
    pub parts: Vec<Part>,
    /// What ended first, where that was not init in order.
    pub died: Option<Died>,
}

/// A process that a layer has started beside init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is: the name of its program.
    pub name: String,
    /// Its number on the host.
    pub pid: i32,
}

/// A process whose end was the end of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Died {
    /// What it is: the name of its program.
    pub part: String,
    /// How it ended, in words such as `killed by signal 9`.
    pub how: String,
}

/// What a layer leaves on the host outside the sandbox's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    /// The cgroup that held its limits.
    pub cgroup: Option<PathBuf>,
    /// The container that an engine keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<engine::Leftover>,
}

impl Caller {
    /// Who we are, and, for root, which id the sandbox in `folder` runs as.
    ///
    /// Root of a user namespace, as in a rootless container, is an ordinary user to the kernel, and here.
    pub fn detect(folder: &Path) -> io::Result<Caller> {
        use std::os::unix::ffi::OsStrExt;
        if !rustix::process::geteuid().is_root() {
            return Ok(Caller::Ordinary);
        }
        let runs_as = ids::choose(folder.as_os_str().as_bytes(), ids::has_processes)?;
        let ours = std::fs::read_to_string("/proc/self/uid_map")?;
        Ok(if stage::maps_to_itself(&ours, runs_as) { Caller::Root { runs_as } } else { Caller::Ordinary })
    }
}

impl Remains {
    /// Removes what is left after the last process is gone.
    ///
    /// `ResourceBusy` means that one is not reaped yet: try again within your deadline.
    pub fn clean(&self) -> io::Result<()> {
        self.container.as_ref().map_or(Ok(()), engine::Leftover::remove)?;
        self.cgroup.as_deref().map_or(Ok(()), limits::remove)
    }

    /// What the sandbox uses, as the host counts it; nothing where it does not.
    pub fn usage(&self) -> Resources {
        self.cgroup.as_deref().map(limits::usage).unwrap_or_default()
    }
}
