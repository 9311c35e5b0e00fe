//! What a sandbox is, as its owner asked for it: `sandbox.json`.
//!
//! What is read back here may have been written by an earlier version. A field that was added has a default for that reason,
//! and one that means something else is a new `RECORD_VERSION`.

mod agent;
mod container;
mod environment;
mod file;
mod mounts;
mod workspace;

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use agent_protocol::spec::{OnAgentExit, RestartPolicy, Service, Step};
use serde::{Deserialize, Serialize};

use super::{name::Name, snapshots::SnapshotPolicy};
use crate::isolation::{Limits, MachineWishes, NetworkChoice};

pub use crate::isolation::Isolation;

pub(super) use self::file::RECORD_FILE;
pub use self::{
    agent::{AgentConfig, AgentRecord},
    container::{ContainerRecord, Engine},
    environment::{EnvKind, Environment, Store},
    file::RECORD_VERSION,
    mounts::{MountRecord, SecretRecord},
    workspace::{
        CloneObjects, CloneRecord, Cloned, DEFAULT_SYNC_IDLE_S, SyncMode, Workspace, WorktreeRecord,
    },
};

/// What a sandbox is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// See [`RECORD_VERSION`].
    pub version: u32,
    /// Its name; the folder is called the same.
    pub name: Name,
    /// The project, without symbolic links in its path.
    pub project: PathBuf,
    /// What runs it.
    pub isolation: Isolation,
    /// Where its tools come from.
    pub environment: Environment,
    /// How the project gets in.
    pub workspace: Workspace,
    /// How it is cloned, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned: Option<CloneRecord>,
    /// When the agent's work is brought home by itself.
    #[serde(default)]
    pub sync: SyncMode,
    /// After how many seconds without any doing, where that is when.
    #[serde(default = "workspace::default_sync_idle")]
    pub sync_idle_s: u64,
    /// What of the network is reachable. A switch in earlier versions.
    #[serde(default)]
    pub network: NetworkChoice,
    /// Further files and folders.
    pub mounts: Vec<MountRecord>,
    /// Files under /run/secrets: where they are, never what they hold.
    pub secrets: Vec<SecretRecord>,
    /// Variables for everything inside.
    pub env: BTreeMap<String, String>,
    /// What it sees of the Nix store.
    #[serde(default)]
    pub store: Store,
    /// Whether processes inside may make user namespaces.
    #[serde(default)]
    pub nested: bool,
    /// The agent by name; what starts it is found out at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentRecord>,
    /// The agent as program and arguments; of one with a name, as its last start found it out.
    pub command: Vec<String>,
    /// Setup steps, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Programs beside the agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Worktrees, each with a session of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worktrees: Vec<WorktreeRecord>,
    /// When the agent is started again.
    pub restart: RestartPolicy,
    /// What happens when it will not be.
    pub on_agent_exit: OnAgentExit,
    /// Remove the sandbox once it has ended.
    pub remove: bool,
    /// What it may use.
    pub limits: Limits,
    /// What its machine is made of, where it has one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub machine: MachineWishes,
    /// What its container is made of and by, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerRecord>,
    /// When its work in progress is kept.
    #[serde(default)]
    pub snapshots: SnapshotPolicy,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

impl Record {
    /// A sandbox with defaults for everything but these.
    pub fn new(name: Name, project: PathBuf, now: SystemTime) -> Self {
        Self {
            version: RECORD_VERSION,
            name,
            project,
            isolation: Isolation::default(),
            environment: Environment::default(),
            workspace: Workspace::default(),
            cloned: None,
            sync: SyncMode::default(),
            sync_idle_s: DEFAULT_SYNC_IDLE_S,
            network: NetworkChoice::default(),
            mounts: Vec::new(),
            secrets: Vec::new(),
            env: BTreeMap::new(),
            store: Store::default(),
            nested: false,
            agent: None,
            command: Vec::new(),
            steps: Vec::new(),
            services: Vec::new(),
            worktrees: Vec::new(),
            restart: RestartPolicy::default(),
            on_agent_exit: OnAgentExit::default(),
            remove: false,
            limits: Limits::default(),
            machine: MachineWishes::default(),
            container: None,
            snapshots: SnapshotPolicy::default(),
            created_at: humantime::format_rfc3339_millis(now).to_string(),
        }
    }

    /// What starts the agent once more, for other work: without the first prompt, which was for the first.
    pub fn command_without_prompt(&self) -> Vec<String> {
        let prompt = self.agent.as_ref().map_or(0, |agent| agent.prompt_arguments);
        self.command[..self.command.len().saturating_sub(prompt)].to_vec()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
