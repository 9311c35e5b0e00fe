//! A container made by an engine that a person has, podman or docker, from any image.
//!
//! The image's files are the root folder, and our mounts lie on top of them. Init is mounted read-only and made the
//! entrypoint, so that it is the same init as everywhere; the image's own entrypoint becomes the agent. What init
//! inherits on other layers it gets from a launcher of ours, over a socket that is gone before anything else runs.

mod args;
mod error;
mod image;
/// The process that has the engine make the container, and hands over to init.
pub mod launcher;
mod mounts;
mod remains;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::IsolationError;
use super::handover::{self, Passed, c_string, open_record, step};
use super::limits::{LimitError, LimitPlan, Limits};
use super::plan::{Caller, Container, INIT, LaunchPlan, PromisedFd, USER_ID};
use super::process::Process;
use super::{
    Capabilities, Handles, Launched, Layer, NetworkKind, Patience, Reach, Remains, Report, Request, draft,
    ids, record, stage,
};
use crate::programs;
use crate::sys::{self, Program, SpawnError, Step};

pub use error::EngineError;
pub use image::{Image, ensure};
pub use launcher::LAUNCHER;
pub use remains::Leftover;

/// Where init finds the socket over which it gets everything else. Only its folder is left when the agent starts.
const HANDOVER: &str = "/run/agent/handover";

/// The folder of the sandbox in which the launcher works.
const PLACE: &str = "engine";

/// What leads an engine to the person's own images and settings. Nothing else of our environment gets to it.
const VARIABLES: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "CONTAINERS_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_CONNECTION",
    "CONTAINER_HOST",
    "REGISTRY_AUTH_FILE",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
];

const CAPABILITIES: Capabilities = Capabilities {
    name: "oci",
    reach: Reach::InheritedListener,
    passes_descriptors: true,
    shares_kernel: true,
    makes: "container",
    networks: &[NetworkKind::Host, NetworkKind::None, NetworkKind::Nat],
    takes_images: true,
    door: None,
    // An engine does a lot before and after.
    patience: Patience { start: Duration::from_mins(1), answer: Patience::OF_PROCESSES.answer },
};

/// A program that makes containers of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// podman, which has no daemon
    Podman,
    /// docker, by its daemon
    Docker,
}

/// What is not the same on both engines.
struct Differences {
    /// How files of an ordinary person belong to the sandbox's user: podman maps ids, docker's user has the person's id.
    maps_ids: bool,
    /// Its name for the user in the container's /etc/passwd.
    names_user: bool,
    /// What the network behind a device of its own is called; nothing for what it does by itself.
    nat: Option<&'static str>,
    /// How it is told to wait for nothing when it removes a container, and to say nothing about one that is gone.
    remove: &'static [&'static str],
    /// How a cover is told to be empty and to stay so: podman copies what is below into one.
    cover: &'static str,
    /// How it is told to cover the tree of cgroups, where it would show the host's.
    hide_cgroups: Option<&'static str>,
}

impl Engine {
    /// The name of its program, and what a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Podman => "podman",
            Engine::Docker => "docker",
        }
    }

    fn differences(self) -> Differences {
        match self {
            Engine::Podman => Differences {
                maps_ids: true,
                names_user: true,
                // As root that is its bridge, and a program in user space otherwise.
                nat: None,
                remove: &["--force", "--time", "0", "--ignore", "--volumes"],
                cover: "ro,notmpcopyup",
                // On a host without cgroup namespaces an ordinary person's own groups could be written to.
                hide_cgroups: Some("--security-opt=mask=/sys/fs/cgroup"),
            },
            Engine::Docker => Differences {
                maps_ids: false,
                names_user: false,
                nat: Some("bridge"),
                remove: &["--force", "--volumes"],
                cover: "ro",
                hide_cgroups: None,
            },
        }
    }

    /// Looks for its program in a list of folders like `PATH`.
    pub fn find(self, search: &OsStr) -> Result<PathBuf, EngineError> {
        programs::find(self.name(), search).ok_or_else(|| EngineError::Missing {
            engine: self,
            searched: search.to_string_lossy().into_owned(),
        })
    }
}

/// The layer, with the engine and the image it will use.
#[derive(Clone, Debug)]
pub struct WithEngine {
    engine: Engine,
    program: PathBuf,
    image: String,
}

impl WithEngine {
    /// Looks for the engine in a list of folders like `PATH`.
    pub fn find(engine: Engine, image: &str, search: &OsStr) -> Result<WithEngine, IsolationError> {
        Ok(WithEngine { engine, program: engine.find(search)?, image: image.to_owned() })
    }

    fn container(&self, request: &Request, image: Image) -> Container {
        let folder = ids::fnv1a(request.folder.as_os_str().as_encoded_bytes());
        Container {
            engine: self.engine,
            image: self.image.clone(),
            id: image.id,
            // Two users, or two data folders, can have sandboxes of one name.
            name: format!("agent-shim-{}-{folder:08x}", request.name),
            user: image.user.unwrap_or(USER_ID),
            variables: image.variables,
            limits: request.limits,
        }
    }
}

impl Layer for WithEngine {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn plan(&self, request: &Request) -> Result<LaunchPlan, IsolationError> {
        if let (Caller::Root { .. }, false) = (request.caller, self.engine.differences().maps_ids) {
            return Err(EngineError::RootNeedsPodman.into());
        }
        let image = Image::inspect(self.engine, &self.program, &self.image)?;
        let limits = limits(&request.limits, request.caller, self.engine)?;
        // The tools are the image's. A store of packages can lie on top of it.
        let mut request = request.clone();
        let asked = std::mem::take(&mut request.limits);
        request.environment.mounts.retain(mounts::is_store);
        let mut plan = draft::draft(CAPABILITIES.name, &self.program, &request)?;
        request.limits = asked;
        plan.mounts = mounts::on_top_of_an_image(std::mem::take(&mut plan.mounts));
        plan.limits = limits;
        plan.command =
            vec![INIT.to_owned(), "--handover".to_owned(), format!("{HANDOVER}/{}", launcher::SOCKET)];
        plan.container = Some(self.container(&request, image));
        args::check(&plan)?;
        Ok(plan)
    }

    fn to_shell(&self, plan: &LaunchPlan) -> String {
        args::to_shell(plan)
    }

    fn launch(&self, plan: &LaunchPlan, handles: Handles) -> Result<Launched, IsolationError> {
        let ours = std::env::current_exe().map_err(|source| step("finding our own binary", source))?;
        let container =
            plan.container.as_ref().ok_or_else(|| IsolationError::Plan("no container in it".to_owned()))?;
        // A name of its own for each start: what an earlier one left may not be gone yet.
        let name = format!("{}-{:08x}", container.name, random()?);
        let rendered = args::render(plan, &name);
        let last = plan.fds.iter().map(|fd| fd.number).max().unwrap_or(2).max(2);
        let (job_fd, record_fd) = (last + 1, last + 2);
        let job = launcher::Job {
            program: self.program.clone(),
            args: rendered.args,
            place: plan.folder.join(PLACE),
            name: name.clone(),
            user: host_user(plan.caller),
            numbers: numbers(&plan.fds),
            record_fd,
            dies_with_parent: plan.dies_with_parent,
        };
        let mut passed = Passed::by(plan, handles, None, record_fd)?;
        passed.job(&job, job_fd)?;
        passed.add(open_record(&record_path(&plan.folder))?, record_fd)?;
        let env = variables();
        let env = env.iter().map(|(key, value)| {
            let mut entry = OsString::from(key);
            entry.push("=");
            entry.push(value);
            c_string(entry)
        });
        let env = env.collect::<Result<_, _>>()?;
        let program = Program { env, ..handover::launcher(&ours, LAUNCHER, job_fd)? };
        let leftover = Leftover {
            engine: self.engine,
            program: self.program.clone(),
            name,
            note: plan.folder.join("engine.left"),
        };
        leftover.take_note().map_err(|source| step("noting the container's name", source))?;
        start(plan, &rendered.staged, &passed, &program, leftover)
    }

    fn report(&self, folder: &Path) -> io::Result<Report> {
        record::read(&record_path(folder))
    }

    fn explain(&self, printed: &str) -> IsolationError {
        error::explain(printed, self.engine, &self.image)
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("engine.status")
}

/// The numbers of what is handed over. The spec's comes last: that is how init knows it.
fn numbers(fds: &[PromisedFd]) -> Vec<i32> {
    let (spec, others): (Vec<&PromisedFd>, Vec<&PromisedFd>) = fds.iter().partition(|fd| fd.name == "spec");
    [1, 2].into_iter().chain(others.into_iter().chain(spec).map(|fd| fd.number)).collect()
}

/// What of our environment an engine gets.
fn variables() -> Vec<(&'static str, OsString)> {
    VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect()
}

/// The names of the variables that lead to the person's engines, for processes of ours that call one later.
pub(crate) fn variable_names() -> &'static [&'static str] {
    &VARIABLES
}

/// The id on the host of what runs inside.
fn host_user(caller: Caller) -> u32 {
    match caller {
        Caller::Ordinary => rustix::process::geteuid().as_raw(),
        Caller::Root { runs_as } => runs_as,
    }
}

fn random() -> Result<u32, IsolationError> {
    let mut bytes = [0; 4];
    let read = File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(|source| step("reading /dev/urandom", source))?;
    Ok(u32::from_ne_bytes(bytes))
}

/// How limits are kept. The engine does it, but podman of an ordinary user drops them on a machine without cgroup v2.
fn limits(asked: &Limits, caller: Caller, engine: Engine) -> Result<LimitPlan, IsolationError> {
    let plan = LimitPlan { cgroup: None, init_max_processes: asked.pids };
    if caller != Caller::Ordinary || engine != Engine::Podman || is_one_tree() {
        return Ok(plan);
    }
    for (option, is_asked) in
        [("--memory", asked.memory_bytes.is_some()), ("--cpus", asked.milli_cpus.is_some())]
    {
        if is_asked {
            let why =
                "podman of an ordinary user bounds nothing where cgroup v2 is not all there is".to_owned();
            return Err(LimitError::NotHere { option, why }.into());
        }
    }
    Ok(plan)
}

/// Whether cgroup v2 is all there is.
fn is_one_tree() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Starts the launcher; for root in a mount namespace in which what the caller gave shows the sandbox's id as its owner.
fn start(
    plan: &LaunchPlan,
    staged: &[super::sources::Staged<'_>],
    passed: &Passed,
    program: &Program,
    leftover: Leftover,
) -> Result<Launched, IsolationError> {
    let place = plan.folder.join(PLACE);
    handover::folder(&place)?;
    let mut steps = vec![Step::NewSession];
    let detached = match plan.caller {
        Caller::Ordinary => Vec::new(),
        Caller::Root { runs_as } => stage::detach(staged, runs_as)?,
    };
    if let Caller::Root { .. } = plan.caller {
        steps.extend(stage::steps(&place, staged, &detached)?);
    }
    steps.extend(passed.steps());
    let child = sys::spawn(&steps, program).map_err(|error| match error {
        SpawnError::Clone(source) => step("making a process", source),
        SpawnError::Exec(source) => step("executing our launcher", source),
        SpawnError::Step(at, source) => step(format!("preparing our launcher ({:?})", steps[at]), source),
    })?;
    let supervisor = Process::holding(child.pid.as_raw_nonzero().get(), child.pidfd)
        .map_err(|source| step("looking at the layer's process", source))?;
    Ok(Launched { supervisor, remains: Remains { container: Some(leftover), ..Remains::default() } })
}
