//! What init is told to do: one JSON document, the same for every isolation layer.
//!
//! A missing field means its default, an unknown field is refused: a misspelt `restart` must not
//! silently become "never". `docs/init-spec.md` describes every field for the person who writes one.

mod check;
mod control;
mod limits;
mod machine;
mod named;
mod signal;
mod unit;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use check::{MAX_AGENTS, MAX_READABLE, MAX_UNITS, Problem};
pub use control::{Control, Listen, TokenSource};
pub use limits::{Limits, MemoryFiles};
pub use machine::{Interface, Machine, MachineMount, Share, ShareKind};
pub use signal::Signal;
pub use unit::{
    Agent, Backoff, FastFail, Health, Readiness, ReadyCommand, Restart, RestartPolicy, Service, Step, Stop,
    Terminal,
};

/// The newest version of the document this code understands.
pub const VERSION: u32 = 1;

/// Largest document read. Environments of build shells reach 200 kB; ten times that is still no burden.
pub const MAX_SPEC_BYTES: usize = 4 * 1024 * 1024;

/// Everything one init does, from its first step to its last exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitSpec {
    /// Version of this document; see [`VERSION`].
    pub version: u32,
    /// The sandbox's name, and its host name where it has one of its own.
    pub name: String,
    /// What goes to init's log.
    pub log_level: LogLevel,
    /// How the host reaches init. Absent: nobody does, init only supervises.
    pub control: Option<Control>,
    /// What init closes before anything else runs.
    pub hardening: Hardening,
    /// Paths of one folder, such as a store of packages: nothing else in it can be read or executed inside.
    /// Empty: whatever is mounted can be.
    // Not written where there are none: an init that does not know it yet would refuse the document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readable: Vec<String>,
    /// The whole environment of everything init starts; units add to it. Nothing else is inherited.
    pub env: BTreeMap<String, String>,
    /// Where units start that do not say otherwise. Absent: where init was started.
    pub workdir: Option<String>,
    /// Who everything runs as, when init itself is root. Absent: as init.
    pub user: Option<User>,
    /// The program the sandbox exists for. Absent: only steps, services and one-off commands.
    pub agent: Option<Agent>,
    /// Further agents by their units' names, each on a terminal of its own. They come and go while the sandbox lives.
    #[serde(with = "named", skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<(String, Agent)>,
    /// What happens when the agent has exited and will not be restarted.
    pub on_agent_exit: OnAgentExit,
    /// With `on_agent_exit: end`, how long the exit waits for a viewer to read it.
    pub linger_ms: u64,
    /// Run once each, in order, before anything else. One that fails stops the setup.
    pub steps: Vec<Step>,
    /// Programs that run beside the agent and are up before it starts.
    pub services: Vec<Service>,
    /// Bounds for everything inside together.
    pub limits: Limits,
    /// The ordered end.
    pub shutdown: Shutdown,
    /// What of the agent's doings is told as events. Absent: nothing of it is looked at.
    // Not written where it is absent: an init that does not know it yet would refuse the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// The machine that init boots, where it is the first process of one. Absent: somebody else has made the world it finds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

impl Default for InitSpec {
    fn default() -> Self {
        Self {
            version: VERSION,
            name: "sandbox".to_owned(),
            log_level: LogLevel::default(),
            control: None,
            hardening: Hardening::default(),
            readable: Vec::new(),
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            agent: None,
            agents: Vec::new(),
            on_agent_exit: OnAgentExit::default(),
            linger_ms: 5_000,
            steps: Vec::new(),
            services: Vec::new(),
            limits: Limits::default(),
            shutdown: Shutdown::default(),
            watch: None,
            machine: None,
        }
    }
}

impl InitSpec {
    /// Reads and validates a document.
    ///
    /// The version is looked at before anything else, so that a document of a later version is called
    /// that and not "unknown field".
    pub fn from_json(json: &[u8]) -> Result<Self, SpecError> {
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(default = "current_version")]
            version: u32,
        }
        if json.len() > MAX_SPEC_BYTES {
            return Err(SpecError::TooLarge { bytes: json.len() });
        }
        if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(SpecError::NoObject);
        }
        let Versioned { version } = serde_json::from_slice(json)?;
        if version == 0 || version > VERSION {
            return Err(SpecError::Version { found: version });
        }
        let spec: Self = serde_json::from_slice(json)?;
        spec.validate().map_err(|problems| SpecError::Invalid { problems })?;
        Ok(spec)
    }

    /// The document as indented JSON, for a file that people read.
    #[must_use]
    #[allow(clippy::missing_panics_doc)] // Only keys that are not strings could make it fail, and there are none.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a spec has only string keys")
    }

    /// Everything that is wrong with it, not only the first.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        check::validate(self)
    }
}

impl Agent {
    /// Reads and validates one further agent, as it comes while a sandbox runs.
    ///
    /// With `main` it is that one once more: its program where the text names none, its variables below those that the
    /// text names.
    pub fn further(name: &str, json: &str, main: Option<&Self>) -> Result<Self, SpecError> {
        // From bytes, as the spec is: the same code reads both, and init has it once.
        let mut agent: Self = serde_json::from_slice(json.as_bytes())?;
        if let Some(main) = main {
            if agent.argv.is_empty() {
                agent.argv.clone_from(&main.argv);
            }
            for (variable, value) in &main.env {
                agent.env.entry(variable.clone()).or_insert_with(|| value.clone());
            }
        }
        check::further(name, &agent).map_err(|problems| SpecError::Invalid { problems })?;
        Ok(agent)
    }
}

fn current_version() -> u32 {
    VERSION
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Larger than [`MAX_SPEC_BYTES`].
    #[error("the spec has {bytes} bytes, more than the {MAX_SPEC_BYTES} that are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Written for a later init.
    #[error("the spec has version {found}, this init understands versions 1 to {VERSION}")]
    Version {
        /// The version it claims.
        found: u32,
    },
    /// Not JSON, a wrong type, or an unknown field.
    #[error("the spec cannot be read: {0}")]
    Syntax(String),
    /// JSON, but no object: serde would take a list for the fields in their order.
    #[error("the spec cannot be read: it is not a JSON object")]
    NoObject,
    /// Well formed, but not something that could be done.
    #[error("the spec is not valid: {}", check::join(problems))]
    Invalid {
        /// Each thing that is wrong.
        problems: Vec<Problem>,
    },
}

impl From<serde_json::Error> for SpecError {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// How much init logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed for good.
    Error,
    /// And what was retried.
    Warn,
    /// And what changed.
    #[default]
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

/// What init closes before the first child. The defaults are those of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // Independent switches, each named by what it closes.
pub struct Hardening {
    /// Whether processes inside may make user namespaces, as agents that sandbox their own tools must.
    pub nested_user_namespaces: bool,
    /// No new privileges and an empty capability bounding set for everything that is started.
    pub no_new_privileges: bool,
    /// The seccomp filter that keeps children from changing init's limits and priorities, and from typing
    /// into terminals.
    pub seccomp: bool,
    /// Landlock scopes around abstract sockets and signals, where the kernel has them.
    pub landlock_scope: bool,
    /// Signals sent to init from inside are ignored.
    pub ignore_inside_signals: bool,
}

impl Default for Hardening {
    fn default() -> Self {
        Self {
            nested_user_namespaces: false,
            no_new_privileges: true,
            seccomp: true,
            landlock_scope: true,
            ignore_inside_signals: true,
        }
    }
}

impl Hardening {
    /// Nothing closed: for init as a plain container entry point, where the engine does the isolating and
    /// programs such as `sudo` must go on working.
    pub const OFF: Self = Self {
        nested_user_namespaces: true,
        no_new_privileges: false,
        seccomp: false,
        landlock_scope: false,
        ignore_inside_signals: false,
    };
}

/// Who everything runs as. Numbers only: a static init must not need the name service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further group ids.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// Becomes `HOME` where the environment has none.
    #[serde(default)]
    pub home: Option<String>,
    /// Becomes `USER` and `LOGNAME` where the environment has none.
    #[serde(default)]
    pub name: Option<String>,
}

/// What happens when the agent has exited and will not be restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnAgentExit {
    /// The sandbox stays, for inspection and for `restart`.
    #[default]
    Stay,
    /// The sandbox shuts down and ends with the agent's exit code.
    End,
}

/// What of the agent's doings is told as events, for those who bring its work home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// The folder whose git repository's refs are watched. It need not be there yet.
    pub repository: Option<String>,
    /// No terminal output, no command and no notable processor time for this long is quiet.
    pub quiet_ms: Option<u64>,
}

/// The ordered end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// From the request to power off, whatever refuses to die. A request may ask for less.
    pub total_ms: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { total_ms: 20_000 }
    }
}

#[cfg(test)]
mod tests;
