//! From a record to a plan: everything a start will do, decided and not yet done.

use std::{
    env,
    error::Error,
    fs::File,
    io,
    io::{Seek, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use agent_protocol::spec::{Control, InitSpec, Limits as InitLimits, Listen, TokenSource, User};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{
    Sandbox, address, channel, init_binary,
    paths::DataDir,
    record::{Record, Workspace},
    spec::{self, CONTROL_FD},
    start::{Cause, Failure, Occasion},
    tools,
};
use crate::{
    env::{EnvError, spec::EnvId},
    isolation::{
        Access, Caller, ErrorKind, Handles, IsolationError, LaunchPlan, Launched, Layer, PromisedFd, Reach,
        Request, Secret, UserMount,
        engine::EngineError,
        limits,
        plan::{HOME, USER, USER_ID},
    },
    requirement::Requirement,
};

/// The descriptor under which init finds its spec.
const SPEC_FD: i32 = 4;

/// The descriptor under which a layer that makes machines finds init's token.
const TOKEN_FD: i32 = 5;

const CONTROL: &str = "control";
const SPEC: &str = "spec";
const TOKEN: &str = "token";

/// Where a machine's init finds its token: its layer has put it there.
const TOKEN_IN_MACHINE: &str = "/agent/token";

/// A start that was decided.
pub(crate) struct Prepared {
    pub(crate) layer: Box<dyn Layer>,
    pub(crate) plan: LaunchPlan,
    pub(crate) spec: InitSpec,
}

/// Why what was decided cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("{doing}")]
    Step { doing: &'static str, source: io::Error },
    #[error(transparent)]
    Isolation(#[from] IsolationError),
}

/// Why a start cannot be decided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("cannot find agent-init")]
    NoInit(#[source] io::Error),
    #[error("cannot read the host's tools")]
    Environment(#[source] io::Error),
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    #[error("the agent cannot be described to init: {0}")]
    Spec(String),
    #[error("its environment {0} is not there any more")]
    NotBuilt(EnvId),
    #[error(transparent)]
    Nix(#[from] EnvError),
    #[error("looking at the sandbox's folder")]
    Folder(#[source] io::Error),
    #[error("finding an id for the sandbox")]
    Caller(#[source] io::Error),
}

/// What a layer takes over for init, by how that is reached.
fn promised(reach: Reach) -> Vec<PromisedFd> {
    let spec = PromisedFd { name: SPEC, number: SPEC_FD };
    match reach {
        Reach::InheritedListener => vec![PromisedFd { name: CONTROL, number: CONTROL_FD }, spec],
        Reach::Machine { .. } => vec![spec, PromisedFd { name: TOKEN, number: TOKEN_FD }],
    }
}

impl Prepared {
    /// Starts it. What the folder says from here on is how this init is reached; what the layer and init print goes to `log`.
    pub(crate) fn launch(&self, folder: &Path, log: File) -> Result<Launched, LaunchError> {
        let doing = |doing: &'static str| move |source: io::Error| LaunchError::Step { doing, source };
        address::forget(folder).map_err(doing("forgetting the start before"))?;
        let spec = serde_json::to_vec(&self.spec).map_err(io::Error::from);
        let spec = spec.and_then(|spec| in_memory(&spec)).map_err(doing("writing the spec"))?;
        let mut promised = vec![(SPEC, spec)];
        match self.layer.capabilities().reach {
            Reach::InheritedListener => {
                let listener = channel::listen_in(folder).map_err(doing("binding the control socket"))?;
                promised.push((CONTROL, listener));
            }
            Reach::Machine { .. } => {
                let token = address::new_token().map_err(doing("making a token"))?;
                promised.push((TOKEN, in_memory(&token.0).map_err(doing("writing the token"))?));
                if let Some(address) = self.layer.address(&self.plan) {
                    address::write(folder, &address, &token).map_err(doing("writing how init is reached"))?;
                }
            }
        }
        let stdout = log.try_clone().map_err(doing("opening init's log"))?;
        let handles = Handles { promised, stdout: OwnedFd::from(stdout), stderr: OwnedFd::from(log) };
        Ok(self.layer.launch(&self.plan, handles)?)
    }
}

impl LaunchError {
    /// What to tell the person.
    pub(crate) fn to_failure(&self) -> Failure {
        match self {
            Self::Isolation(error) => of_isolation(error),
            Self::Step { .. } => Failure { cause: Cause::Other, messages: chain(self), hint: None },
        }
    }
}

/// Finds what runs a sandbox.
pub(crate) fn layer_for(record: &Record) -> Result<Box<dyn Layer>, IsolationError> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    record.isolation.find(record.container_maker(), &path)
}

/// What appears at `/workspace`.
fn workspace(sandbox: &Sandbox, record: &Record) -> PathBuf {
    match record.workspace {
        Workspace::Bind => record.project.clone(),
        Workspace::Clone => sandbox.folder().join("work"),
    }
}

/// Whether init takes it for the name of a terminal type.
fn is_terminal_type(term: &str) -> bool {
    (1..=63).contains(&term.len()) && term.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Decides a start. Looks at the host, changes nothing.
pub(crate) fn prepare(
    data: &DataDir,
    sandbox: &Sandbox,
    record: &Record,
    occasion: &Occasion,
) -> Result<Prepared, PrepareError> {
    let layer = layer_for(record)?;
    let reach = layer.capabilities().reach;
    let environment = tools::find(data, record, occasion.need)?;
    let variables = environment.variables.clone();
    let init = init_binary::find().map_err(PrepareError::NoInit)?;
    let of_agent = record.agent.iter().flat_map(|agent| &agent.mounts);
    let request = Request {
        name: record.name.to_string(),
        // Root opens nothing through a link; the way to the data folder can have one, and that is the person's own.
        folder: sandbox.folder().canonicalize().map_err(PrepareError::Folder)?,
        workspace: workspace(sandbox, record),
        objects: record.cloned.as_ref().map(|cloned| cloned.shared.clone()).unwrap_or_default(),
        environment,
        mounts: of_agent.chain(&record.mounts).map(user_mount).collect(),
        secrets: record
            .secrets
            .iter()
            .map(|secret| Secret { name: secret.name.clone(), source: secret.file.clone() })
            .collect(),
        hidden: vec![data.path().to_owned()],
        network: record.network.on(layer.capabilities())?,
        nested_namespaces: record.nested,
        limits: record.limits,
        git: init_binary::git_beside(&init).map_err(PrepareError::NoInit)?,
        init,
        init_args: match reach {
            Reach::InheritedListener => vec!["--spec-fd".to_owned(), SPEC_FD.to_string()],
            Reach::Machine { .. } => Vec::new(),
        },
        init_env: Vec::new(),
        fds: promised(reach),
        machine: record.machine.clone(),
        caller: Caller::detect(sandbox.folder()).map_err(PrepareError::Caller)?,
        dies_with_parent: false,
    };
    let plan = layer.plan(&request)?;
    let variables = tools::on_top_of_image(&plan, variables);
    // Only who starts an agent to look at it has told us of a terminal.
    let term = occasion.size.and_then(|_| env::var("TERM").ok()).filter(|term| is_terminal_type(term));
    let mut spec =
        spec::spec_for(record, &variables, occasion, term.as_deref(), plan.limits.init_max_processes);
    spec.readable.clone_from(&plan.readable);
    spec.machine = layer.machine(&plan);
    if let Reach::Machine { port } = reach {
        let token = Some(TokenSource::File(TOKEN_IN_MACHINE.to_owned()));
        spec.control = Some(Control { listen: Listen::VsockPort(port), token });
        // Init is root of the machine. Nobody else is.
        spec.user = Some(User {
            uid: USER_ID,
            gid: USER_ID,
            groups: Vec::new(),
            home: Some(HOME.to_owned()),
            name: Some(USER.to_owned()),
        });
    }
    tell_limits(&mut spec.limits, record, &plan);
    spec.validate().map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        PrepareError::Spec(problems.join("; "))
    })?;
    Ok(Prepared { layer, plan, spec })
}

/// Bounds of memory and processor time that init is to know of, beside that on processes. Where a cgroup of the host's
/// keeps them init only tells; the init of a machine keeps them itself, and all memory of the machine is there for it to divide.
fn tell_limits(limits: &mut InitLimits, record: &Record, plan: &LaunchPlan) {
    limits.cpus_milli = record.limits.milli_cpus.map(u64::from);
    limits.memory_files = limits::memory_files(&plan.fds);
    limits.memory_bytes = record.limits.memory_bytes.filter(|_| limits.memory_files.is_some());
}

impl PrepareError {
    /// What to tell the person.
    pub(crate) fn to_failure(&self) -> Failure {
        let failure = |cause, hint| Failure { cause, messages: chain(self), hint };
        match self {
            Self::Isolation(error) => of_isolation(error),
            Self::NoInit(_) => failure(Cause::Requirement, Some(Requirement::AgentInitMissing.hint())),
            Self::Spec(_) => failure(Cause::Request, None),
            Self::NotBuilt(_) => {
                failure(Cause::Other, Some("start it again, and it is built again".to_owned()))
            }
            Self::Nix(error) => failure(Cause::Other, error.hint()),
            Self::Environment(_) | Self::Folder(_) | Self::Caller(_) => failure(Cause::Other, None),
        }
    }
}

/// What a layer says, for the person.
pub(crate) fn of_isolation(error: &IsolationError) -> Failure {
    let cause = match error.kind() {
        ErrorKind::Requirement => Cause::Requirement,
        ErrorKind::Usage => Cause::Request,
        ErrorKind::Internal => Cause::Other,
    };
    Failure { cause, messages: chain(error), hint: error.hint() }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        of_isolation(&error.into())
    }
}

/// An error and its causes, each a message.
pub(crate) fn chain(error: &dyn Error) -> Vec<String> {
    let mut messages = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        messages.push(error.to_string());
        next = error.source();
    }
    messages
}

fn user_mount(mount: &super::record::MountRecord) -> UserMount {
    let access = if mount.read_only { Access::ReadOnly } else { Access::ReadWrite };
    UserMount { source: mount.source.clone(), at: mount.at.clone(), access }
}

/// A file without a name. Inherited rather than mounted, it has no path inside.
fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("agent-shim", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}
