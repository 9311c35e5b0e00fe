//! Everything that can be said about a sandbox before it is made. One layer says some of it; `merge` lays the
//! layers over each other.

use std::{collections::BTreeMap, path::PathBuf};

use agent_protocol::spec::{RestartPolicy, Service, ShareKind, Step};

use super::origin::{Origin, Sourced};
use crate::{
    agents::{Definition, Provider},
    env::{choice::EnvChoice, pin::Nixpkgs},
    isolation::{Accelerator, NetworkChoice},
    sandbox::record::{
        AgentConfig, CloneObjects, DEFAULT_SYNC_IDLE_S, Engine, EnvKind, Isolation, Store, SyncMode,
        Workspace,
    },
};

/// What one layer says, or all of them together. What is absent was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What keeps the sandbox apart from the host.
    pub isolation: Option<Sourced<Isolation>>,
    /// Where its tools come from.
    pub env: Option<Sourced<EnvKind>>,
    /// How the project gets in. Where nobody said it, that follows from what the project is.
    pub workspace: Option<Sourced<Workspace>>,
    /// The branch that is cloned, instead of what is checked out.
    pub branch: Option<Sourced<String>>,
    /// Whether every branch and tag is cloned.
    pub all_branches: Option<Sourced<bool>>,
    /// How many commits deep.
    pub depth: Option<Sourced<u32>>,
    /// Whether changes that are not committed go along.
    pub include_dirty: Option<Sourced<bool>>,
    /// How the clone gets its objects.
    pub clone_objects: Option<Sourced<CloneObjects>>,
    /// When the agent's work is brought home.
    pub sync: Option<Sourced<SyncMode>>,
    /// After how many seconds without any doing, where that is when.
    pub sync_idle: Option<Sourced<u64>>,
    /// What of the network it reaches.
    pub network: Option<Sourced<NetworkChoice>>,
    /// Whether processes inside may make user namespaces; whether a machine may make machines.
    pub nested: Option<Sourced<bool>>,
    /// How many processors a machine has.
    pub vcpus: Option<Sourced<u32>>,
    /// A machine's kernel.
    pub kernel: Option<Sourced<PathBuf>>,
    /// How a machine reaches files of the host.
    pub share: Option<Sourced<ShareKind>>,
    /// What carries out a machine's instructions.
    pub accel: Option<Sourced<Accelerator>>,
    /// What runs a container.
    pub engine: Option<Sourced<Engine>>,
    /// The image of a container.
    pub image: Option<Sourced<String>>,
    /// What it sees of the Nix store.
    pub store: Option<Sourced<Store>>,
    /// When the agent is started again.
    pub restart: Option<Sourced<RestartPolicy>>,
    /// The agent, by name.
    pub agent: Option<Sourced<String>>,
    /// Whose models the agent uses.
    pub provider: Option<Sourced<String>>,
    /// What the agent is to do first.
    pub prompt: Option<Sourced<String>>,
    /// Whether the agent keeps its own permission prompts.
    pub ask: Option<Sourced<bool>>,
    /// What of the person's configuration of the agent gets in.
    pub agent_config: Option<Sourced<AgentConfig>>,
    /// The agent as a command; behind an agent's name, further arguments for it.
    pub command: Option<Sourced<Vec<String>>>,
    /// Further files and folders of the host, each at another place inside.
    pub mounts: Vec<Sourced<MountSetting>>,
    /// Files under /run/secrets, by name.
    pub secrets: BTreeMap<String, Sourced<PathBuf>>,
    /// Variables for everything inside, the last of a name being the one that counts.
    pub variables: Vec<Sourced<Variable>>,
    /// What a Nix environment consists of.
    pub nix: NixSettings,
    /// What the sandbox may use.
    pub limits: LimitSettings,
    /// When its work in progress is kept.
    pub snapshots: SnapshotSettings,
    /// Setup steps, in their order.
    pub steps: Vec<Sourced<Step>>,
    /// Programs beside the agent.
    pub services: Vec<Sourced<Service>>,
    /// Agents that are not built in, or are to be different.
    pub agents: BTreeMap<String, Sourced<Definition>>,
    /// The same of providers.
    pub providers: BTreeMap<String, Sourced<Provider>>,
}

/// `[nix]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixSettings {
    /// What everything else is added to.
    pub preset: Option<Sourced<String>>,
    /// Groups of packages.
    pub sets: Vec<Sourced<String>>,
    /// Single packages.
    pub packages: Vec<Sourced<String>>,
    /// Whether no preset comes with them unless one is named.
    pub exact: Option<Sourced<bool>>,
    /// Where packages come from.
    pub nixpkgs: Option<Sourced<Nixpkgs>>,
    /// Whether unfree packages are allowed.
    pub unfree: Option<Sourced<bool>>,
}

/// `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Bytes of memory.
    pub memory: Option<Sourced<u64>>,
    /// Processors, in thousandths.
    pub cpus: Option<Sourced<u32>>,
    /// Processes and threads.
    pub pids: Option<Sourced<u64>>,
}

/// `[snapshots]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Seconds after the last one; 0 for none.
    pub every: Option<Sourced<u32>>,
    /// Whether what git ignores is taken too.
    pub ignored: Option<Sourced<bool>>,
    /// How many are kept.
    pub keep: Option<Sourced<u32>>,
    /// For how many days.
    pub days: Option<Sourced<u32>>,
}

/// A file or folder of the host that is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSetting {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where it will be inside.
    pub at: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// Something that sets variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// A name and its value.
    Pair(String, String),
    /// A file with one `NAME=VALUE` a line. It is read when a sandbox is made.
    File(PathBuf),
}

impl Settings {
    /// What holds where nobody said anything. What is absent here as well follows from the rest.
    pub fn defaults() -> Self {
        fn default<T>(value: T) -> Sourced<T> {
            Sourced::new(value, Origin::Default)
        }
        Self {
            isolation: Some(default(Isolation::default())),
            all_branches: Some(default(false)),
            include_dirty: Some(default(false)),
            sync: Some(default(SyncMode::default())),
            sync_idle: Some(default(DEFAULT_SYNC_IDLE_S)),
            network: Some(default(NetworkChoice::default())),
            nested: Some(default(false)),
            accel: Some(default(Accelerator::default())),
            store: Some(default(Store::default())),
            ask: Some(default(false)),
            agent_config: Some(default(AgentConfig::default())),
            nix: NixSettings {
                exact: Some(default(false)),
                nixpkgs: Some(default(Nixpkgs::default())),
                unfree: Some(default(false)),
                ..NixSettings::default()
            },
            ..Self::default()
        }
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl NixSettings {
    /// Whether packages were named on the command line or in a variable.
    pub fn is_asked_for(&self) -> bool {
        let preset = self.preset.iter().map(|preset| &preset.origin);
        let lists = self.sets.iter().chain(&self.packages).map(|named| &named.origin);
        preset.chain(lists).any(|origin| matches!(origin, Origin::Flag(_) | Origin::Variable(_)))
    }

    /// The same without who said it.
    pub fn choice(&self) -> EnvChoice {
        fn plain<T: Clone>(values: &[Sourced<T>]) -> Vec<T> {
            values.iter().map(|sourced| sourced.value.clone()).collect()
        }
        EnvChoice {
            preset: self.preset.as_ref().map(|preset| preset.value.clone()),
            sets: plain(&self.sets),
            packages: plain(&self.packages),
            exact: self.exact.as_ref().map(|exact| exact.value),
            nixpkgs: self.nixpkgs.as_ref().map(|nixpkgs| nixpkgs.value.clone()),
            unfree: self.unfree.as_ref().map(|unfree| unfree.value),
        }
    }
}
