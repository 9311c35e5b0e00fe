//! What is supervised: the agent, the setup steps, the services, and the policies they share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Signal;

/// The program the sandbox exists for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// Program and arguments; found through `PATH` of its own environment.
    pub argv: Vec<String>,
    /// Added to the base environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts. Absent: the base folder.
    pub workdir: Option<String>,
    /// When it is started again.
    pub restart: Restart,
    /// When it counts as ready. `READY=1` counts in every case.
    pub readiness: Readiness,
    /// Killed and restarted if not ready by then. 0: never, since nothing waits for the agent.
    pub ready_timeout_ms: u64,
    /// A command that asks whether it still works.
    pub health: Option<Health>,
    /// `WATCHDOG=1` is expected at least this often. 0: not expected.
    pub watchdog_ms: u64,
    /// How it is told to stop.
    pub stop: Stop,
    /// Gives it a terminal of its own. Absent: it has init's own standard input and outputs, as an entry
    /// point's command must.
    pub terminal: Option<Terminal>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            argv: Vec::new(),
            env: BTreeMap::new(),
            workdir: None,
            restart: Restart::default(),
            readiness: Readiness::FirstOutput,
            ready_timeout_ms: 0,
            health: None,
            watchdog_ms: 0,
            stop: Stop::default(),
            terminal: None,
        }
    }
}

/// One command of the setup. It succeeds by exit code 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// Unique among steps and services.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the base environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts. Absent: the base folder.
    pub workdir: Option<String>,
    /// Killed, and failed, after this long. Long enough for a cold build; a wait needs some end.
    pub timeout_ms: u64,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            name: String::new(),
            argv: Vec::new(),
            env: BTreeMap::new(),
            workdir: None,
            timeout_ms: 30 * 60 * 1000,
        }
    }
}

/// A program that runs beside the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Unique among steps and services.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the base environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts. Absent: the base folder.
    pub workdir: Option<String>,
    /// Services that must have been ready once before this one starts; it stops before they do.
    pub after: Vec<String>,
    /// When it is started again.
    pub restart: Restart,
    /// When it counts as ready. `READY=1` counts in every case.
    pub readiness: Readiness,
    /// Killed, and failed, if not ready by then, since others wait for it. 0: never.
    pub ready_timeout_ms: u64,
    /// A command that asks whether it still works.
    pub health: Option<Health>,
    /// `WATCHDOG=1` is expected at least this often. 0: not expected.
    pub watchdog_ms: u64,
    /// How it is told to stop.
    pub stop: Stop,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            name: String::new(),
            argv: Vec::new(),
            env: BTreeMap::new(),
            workdir: None,
            after: Vec::new(),
            restart: Restart::default(),
            readiness: Readiness::None,
            ready_timeout_ms: 60_000,
            health: None,
            watchdog_ms: 0,
            stop: Stop::default(),
        }
    }
}

/// When a unit that exited is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// After which exits.
    pub policy: RestartPolicy,
    /// How long to wait before.
    pub backoff: Backoff,
    /// A run at least this long forgets the failures before it: backoff and ladder start anew.
    pub stable_ms: u64,
    /// When to give up.
    pub fast_fail: FastFail,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::default(),
            backoff: Backoff::default(),
            stable_ms: 10_000,
            fast_fail: FastFail::default(),
        }
    }
}

/// After which exits a unit is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// After every one.
    Always,
    /// After a code other than 0, a signal, or a failure to start.
    #[default]
    OnFailure,
    /// After none; a person still can.
    Never,
}

/// Waits between an exit and the next start: `initial`, then `factor` times longer each time, at most `max`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The first wait. Short: most first exits are accidents.
    pub initial_ms: u64,
    /// The longest wait.
    pub max_ms: u64,
    /// Growth from one wait to the next.
    pub factor: u32,
    /// Each wait is shortened by up to this share, by chance, so that many sandboxes that failed together do
    /// not come back together. It never lengthens, so `max_ms` stays what it says.
    pub jitter_percent: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial_ms: 100, max_ms: 30_000, factor: 2, jitter_percent: 10 }
    }
}

/// Gives up on a unit that exits `count` times in a row within `within_ms`: it is parked, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FastFail {
    /// How many exits in a row. 0: never give up.
    pub count: u32,
    /// In how long, from the first of them to the last.
    pub within_ms: u64,
}

impl Default for FastFail {
    fn default() -> Self {
        Self { count: 3, within_ms: 10_000 }
    }
}

/// When a unit that was started counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Readiness {
    /// As soon as it was executed.
    None,
    /// When it wrote something.
    FirstOutput,
    /// When it sent `READY=1` to `NOTIFY_SOCKET`.
    Notify,
    /// When it has run this many milliseconds.
    #[serde(rename = "delay_ms")]
    DelayMs(u64),
    /// When this command succeeds.
    Command(ReadyCommand),
}

/// A command that is repeated until it exits with 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadyCommand {
    /// Program and arguments; environment and folder are the unit's.
    pub argv: Vec<String>,
    /// From one result to the next try.
    pub interval_ms: u64,
    /// A try that takes longer is killed and failed.
    pub timeout_ms: u64,
}

impl Default for ReadyCommand {
    fn default() -> Self {
        Self { argv: Vec::new(), interval_ms: 250, timeout_ms: 5_000 }
    }
}

/// A command that asks a ready unit whether it still works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Program and arguments; environment and folder are the unit's.
    pub argv: Vec<String>,
    /// From one result to the next try.
    pub interval_ms: u64,
    /// A try that takes longer is killed and failed.
    pub timeout_ms: u64,
    /// So many failures in a row, and the unit is killed as a failed run.
    pub retries: u32,
    /// From ready to the first try.
    pub start_delay_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self { argv: Vec::new(), interval_ms: 30_000, timeout_ms: 5_000, retries: 3, start_delay_ms: 0 }
    }
}

/// How a unit is told to stop. What is still alive after the grace gets SIGKILL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// The signal its process group gets first.
    pub signal: Signal,
    /// SIGHUP too, for shells, which ignore SIGTERM on a terminal. Absent: if the unit has a terminal.
    pub hangup: Option<bool>,
    /// How long it may take.
    pub grace_ms: u64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: Signal::TERM, hangup: None, grace_ms: 10_000 }
    }
}

/// The terminal an agent starts on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terminal {
    /// Width until a viewer says otherwise.
    pub cols: u16,
    /// Height until a viewer says otherwise.
    pub rows: u16,
    /// Becomes `TERM`.
    pub term: String,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { cols: 80, rows: 24, term: "xterm-256color".to_owned() }
    }
}
