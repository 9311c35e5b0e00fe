//! What a sandbox is, as its owner asked for it: `sandbox.json`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use agent_protocol::spec::{OnAgentExit, RestartPolicy, Service, Step};
use serde::{Deserialize, Serialize};

use super::{
    StateError,
    atomic::{self, Survives},
    name::Name,
    snapshots::SnapshotPolicy,
};
use crate::{
    agents::{Definition, Provider},
    env::spec::{EnvId, EnvSpec},
    isolation::{Limits, MachineWishes, NetworkChoice, engine},
    worktree::Branch,
};

/// The newest version of the file that this code understands.
pub const RECORD_VERSION: u32 = 1;

pub(super) const RECORD_FILE: &str = "sandbox.json";

/// Longest file read. Environments are the only part that grows, and the kernel bounds those far below this.
const MAX_RECORD_BYTES: u64 = 4 * 1024 * 1024;

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
    #[serde(default = "default_sync_idle")]
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

/// What runs a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces of the host's kernel, by bubblewrap
    #[default]
    Bwrap,
    /// A container of its own, by crun or runc
    Oci,
    /// A machine of its own, by qemu
    Microvm,
}

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
}

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

/// How the project gets into a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workspace {
    /// The folder itself: changes are on the host at once
    #[default]
    Bind,
    /// A clone of its own, for a git repository
    Clone,
}

/// How a repository is cloned into a sandbox: what was asked for, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRecord {
    /// The branch that was asked for; what is checked out, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Whether every branch and tag was asked for.
    #[serde(default)]
    pub all_branches: bool,
    /// How many commits deep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Whether changes that are not committed were asked for.
    #[serde(default)]
    pub include_dirty: bool,
    /// How it gets its objects; the best way for the rest, where nobody said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<CloneObjects>,
    /// The project in the repository, where it is not the whole of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Folders of objects that are mounted into the sandbox, read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<PathBuf>,
    /// What came of it. Nothing is there before: a clone is made once, and whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Cloned>,
}

/// A clone that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloned {
    /// The branch that was checked out in it; none where no branch was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit of the host's that it began with; none where there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The commit on top that holds what was not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<String>,
    /// How it got its objects.
    pub objects: CloneObjects,
}

/// How a clone gets its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CloneObjects {
    /// Copies of those that it reaches, and no others
    #[default]
    Copy,
    /// All of them, without a copy, where the file system can do that
    Reflink,
    /// All of them, mounted read-only
    Share,
}

/// When the agent's work is brought home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// When somebody says `agent-shim pull`
    #[default]
    Manual,
    /// Whenever refs inside change, at once
    AutoCommit,
    /// When the agent has done nothing for a while
    AutoIdle,
}

/// What counts as a while, in seconds.
pub const DEFAULT_SYNC_IDLE_S: u64 = 30;

fn default_sync_idle() -> u64 {
    DEFAULT_SYNC_IDLE_S
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

/// An agent that is known by name, and how it is to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRecord {
    /// Its name.
    pub name: String,
    /// Further arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Whose models it uses, if that was said.
    #[serde(default)]
    pub provider: Option<String>,
    /// What it is to do first.
    #[serde(default)]
    pub prompt: Option<String>,
    /// How many of the command's last arguments are the first prompt of its last start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompt_arguments: usize,
    /// Whether it keeps its own permission prompts.
    #[serde(default)]
    pub ask: bool,
    /// What of the person's configuration of it gets in.
    #[serde(default)]
    pub config: AgentConfig,
    /// What was configured about it, on top of what is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
    /// What was configured about providers, on top of what is built in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, Provider>,
    /// Variables it got at its last start, keys excepted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The names of the keys it got; their values are nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What of the person's configuration was mounted, as it was found at its last start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountRecord>,
}

/// What of a person's configuration of an agent enters a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AgentConfig {
    /// Nothing: the agent has its own, kept in the sandbox's home
    #[default]
    Own,
    /// A copy, made when the sandbox is new
    Copy,
    /// The files themselves, read-only; a copy of those that the agent must replace
    ReadOnly,
}

/// A worktree, whose folder is called as its branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorktreeRecord {
    /// The branch that it was made for. The agent may have checked out another since.
    pub branch: Branch,
    /// What runs there; the sandbox's agent where nothing else was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

/// `--mount SRC:DST[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRecord {
    /// Path on the host, without symbolic links in it.
    pub source: PathBuf,
    /// Absolute path inside.
    pub at: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// `--secret NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRecord {
    /// Name of the file inside.
    pub name: String,
    /// The file on the host.
    pub file: PathBuf,
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
    /// The engine and the image that its container is made of, where one is.
    pub fn engine(&self) -> Option<(engine::Engine, &str)> {
        self.container.as_ref().filter(|_| self.isolation == Isolation::Oci)?.made_by()
    }

    /// The runtime that its container was to be made by, where one without an engine was named.
    pub fn runtime(&self) -> Option<&'static str> {
        match self.container.as_ref()?.engine? {
            Engine::Crun => Some("crun"),
            Engine::Runc => Some("runc"),
            Engine::Podman | Engine::Docker => None,
        }
    }

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

    /// When its work is brought home. Where it works in the project itself there is nothing to bring.
    pub fn effective_sync(&self) -> SyncMode {
        match self.workspace {
            Workspace::Bind => SyncMode::Manual,
            Workspace::Clone => self.sync,
        }
    }

    /// Reads the record in the folder of a sandbox.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(RECORD_FILE);
        let bytes = match read_bounded(&path, MAX_RECORD_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Unfinished { folder: folder.to_owned() });
            }
            Err(source) => {
                return Err(StateError::Io { doing: format!("reading {}", path.display()), source });
            }
        };
        let record = Self::parse(&bytes, &path)?;
        // A folder that was copied or renamed by hand would share another sandbox's identity.
        match folder.file_name() {
            Some(folder_name) if folder_name == record.name.as_str() => Ok(record),
            _ => Err(StateError::Damaged { path, problem: format!("it is the record of `{}`", record.name) }),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |problem: String| StateError::Damaged { path: path.to_owned(), problem };
        // The version first: a later one may mean anything by the rest.
        let Versioned { version } =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        match version {
            RECORD_VERSION => serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string())),
            0 => Err(damaged("it has version 0".to_owned())),
            found => Err(StateError::Newer { path: path.to_owned(), found, known: RECORD_VERSION }),
        }
    }

    /// Writes the record into the folder of a sandbox, to stay even through a power cut.
    pub fn write(&self, folder: &Path) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        json.and_then(|json| atomic::replace(folder, RECORD_FILE, &json, Survives::PowerCut)).map_err(
            |source| StateError::Io {
                doing: format!("writing {}", folder.join(RECORD_FILE).display()),
                source,
            },
        )
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference to the field.
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Reads a file of ours. It may be damaged, so its size is not trusted.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    fn sample() -> Record {
        let mut record = Record::new("web".parse().unwrap(), "/src/web".into(), SystemTime::UNIX_EPOCH);
        record.command = vec!["bash".to_owned()];
        record.secrets = vec![SecretRecord { name: "key".to_owned(), file: "/keys/k".into() }];
        record
    }

    fn folder(temp: &TempDir) -> PathBuf {
        let folder = temp.path().join("web");
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_record_survives_a_round_trip() {
        let temp = TempDir::new();
        let folder = folder(&temp);
        sample().write(&folder).unwrap();
        assert_eq!(Record::read(&folder).unwrap(), sample());
        assert_eq!(sample().created_at, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_record_from_before_a_field_was_added_is_still_read() {
        let mut old = serde_json::to_value(sample()).unwrap();
        let added = [
            "store",
            "nested",
            "agent",
            "steps",
            "services",
            "cloned",
            "snapshots",
            "sync",
            "sync_idle_s",
            "worktrees",
        ];
        for added in added {
            old.as_object_mut().unwrap().remove(added);
        }
        old.as_object_mut().unwrap().remove("container");
        old.as_object_mut().unwrap().remove("machine");
        let read =
            |old: &serde_json::Value| Record::parse(old.to_string().as_bytes(), Path::new("/x")).unwrap();
        old["network"] = true.into();
        assert_eq!(read(&old), sample());
        old["network"] = false.into();
        assert!(read(&old).network.is_none());
    }

    #[test]
    fn all_that_can_be_asked_for_survives_too() {
        let mut record = sample();
        record.steps =
            vec![Step { name: "install".to_owned(), argv: vec!["true".to_owned()], ..Step::default() }];
        record.services =
            vec![Service { name: "db".to_owned(), argv: vec!["db".to_owned()], ..Service::default() }];
        record.agent = Some(AgentRecord {
            name: "mine".to_owned(),
            definition: Some(Definition { package: Some("mine".to_owned()), ..Definition::default() }),
            config: AgentConfig::ReadOnly,
            ..AgentRecord::default()
        });
        record.store = Store::Closure;
        record.network = "bridge=br0".parse().unwrap();
        record.machine = MachineWishes {
            vcpus: Some(4),
            kernel: Some("/boot/vmlinuz".into()),
            share: Some(agent_protocol::spec::ShareKind::Plan9),
            accelerator: crate::isolation::Accelerator::Tcg,
            no_nested: true,
        };
        record.container =
            Some(ContainerRecord { engine: Some(Engine::Podman), image: Some("debian:12".to_owned()) });
        record.cloned = Some(CloneRecord {
            branch: Some("main".to_owned()),
            depth: Some(1),
            objects: Some(CloneObjects::Share),
            shared: vec!["/src/.git/objects".into()],
            made: Some(Cloned { commit: Some("1".repeat(40)), ..Cloned::default() }),
            ..CloneRecord::default()
        });
        record.worktrees = vec![
            WorktreeRecord { branch: "a/b".parse().unwrap(), command: None },
            WorktreeRecord { branch: "x".parse().unwrap(), command: Some(vec!["sh".to_owned()]) },
        ];
        let json = serde_json::to_vec(&record).unwrap();
        assert_eq!(Record::parse(&json, Path::new("/x")).unwrap(), record);
    }

    #[test]
    fn a_later_version_is_called_that() {
        let error = Record::parse(br#"{"version": 2, "hologram": 1}"#, Path::new("/x")).unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn damage_names_the_file() {
        let whole = serde_json::to_vec(&sample()).unwrap();
        for damaged in [&b""[..], b"{", b"\0\0\0\0", b"{}", br#"{"version": 0}"#, &whole[..whole.len() / 2]] {
            let error = Record::parse(damaged, Path::new("/data/sandbox.json")).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("/data/sandbox.json"), "{error}");
        }
    }

    #[test]
    fn a_folder_under_another_name_is_not_taken_for_the_sandbox() {
        let temp = TempDir::new();
        let copy = temp.path().join("copy");
        fs::create_dir(&copy).unwrap();
        sample().write(&copy).unwrap();
        assert!(matches!(Record::read(&copy), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn a_folder_without_a_record_is_unfinished() {
        let temp = TempDir::new();
        assert!(matches!(Record::read(&folder(&temp)), Err(StateError::Unfinished { .. })));
    }
}
