//! What people and programs are told about a sandbox: the shape of `list --json` and `status --json`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use agent_protocol::{
    exit::{ExitRecord, How, KilledBy, LimitKind},
    message::{Counts, UnitKind, UnitState, UnitStatus, Usage},
    spec::Signal,
};
use serde::{Deserialize, Serialize};

use super::{
    name::Name,
    record::{ContainerRecord, EnvKind, Isolation, Workspace},
    resources::ResourcesView,
    run::Ended,
    sync::SyncView,
};
use crate::{
    env::spec::EnvId,
    isolation::{Limits, MachineWishes},
};

/// The last moment that RFC 3339 can name; times from inside may be anything.
const LAST_UNIX_MS: u64 = 253_402_300_799_000;

/// Everything that is known about one sandbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SandboxView {
    /// Its name.
    pub name: Name,
    /// What it is doing.
    pub state: State,
    /// Where it is stuck, in words, if it is.
    pub stuck: Option<String>,
    /// Why it is in this state, where that needs saying.
    pub reason: Option<String>,
    /// What runs it.
    pub isolation: Option<Isolation>,
    /// Where its tools come from.
    pub environment: Option<EnvKind>,
    /// Which one, where it is one of Nix.
    pub environment_id: Option<EnvId>,
    /// How the project gets in.
    pub workspace: Option<Workspace>,
    /// How its work comes home, where it has work of its own.
    pub sync: Option<SyncView>,
    /// The project.
    pub project: Option<PathBuf>,
    /// What of the network is reachable: `host`, `nat`, `bridge=NAME` or `none`.
    pub network: Option<String>,
    /// What its machine is made of, as far as it was said, where it has one.
    pub machine: Option<MachineWishes>,
    /// What its container is made of and by, where that was said.
    pub container: Option<ContainerRecord>,
    /// What it may use.
    pub limits: Option<Limits>,
    /// The agent: program and arguments.
    pub command: Vec<String>,
    /// When it was made.
    pub created_at: Option<String>,
    /// When it was started last.
    pub started_at: Option<String>,
    /// How the last start ended.
    pub ended: Option<Ended>,
    /// How often it was started.
    pub starts: u64,
    /// The agent.
    pub agent: AgentView,
    /// Steps and services.
    pub units: Vec<UnitView>,
    /// Sessions beside the agent, each in a worktree.
    pub worktrees: Vec<WorktreeView>,
    /// PID 1, while it answers.
    pub init: Option<InitView>,
    /// What it uses of what it may use, where it was asked for.
    pub resources: Option<ResourcesView>,
    /// Who records what happens.
    pub monitor: MonitorView,
    /// What init could not do as asked.
    pub warnings: Vec<String>,
}

/// What a sandbox is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was never started.
    Created,
    /// It comes up.
    Starting,
    /// Its init answers, or lives and is stuck.
    Running,
    /// Its end has begun.
    Stopping,
    /// Nothing of it lives.
    Stopped,
    /// It cannot be used as it is; the reason says why.
    Error,
}

/// What the agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// Steps and services come first.
    Setup,
    /// It was executed and is not ready.
    Starting,
    /// It is ready.
    Running,
    /// It ended and starts again soon.
    Backoff,
    /// It ended too often.
    Parked,
    /// It does not run.
    Exited,
}

/// The agent, or another unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// What it is doing.
    pub state: AgentState,
    /// Its process id inside, while it runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// When it was started last.
    pub started_at: Option<String>,
    /// Milliseconds until it starts again.
    pub next_start_ms: Option<u64>,
    /// Why it is parked or could not be executed.
    pub reason: Option<String>,
    /// What it said last with `STATUS=`.
    pub status_text: Option<String>,
    /// How it ended last.
    pub last_exit: Option<ExitView>,
}

/// A step or a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnitView {
    /// Its name.
    pub name: String,
    /// `step` or `service`.
    pub kind: &'static str,
    /// The rest is as the agent's.
    #[serde(flatten)]
    pub unit: AgentView,
}

/// The session in a worktree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorktreeView {
    /// The branch that the worktree was made for.
    pub branch: String,
    /// Where it is inside.
    pub path: String,
    /// Its unit's name.
    pub name: String,
    /// The rest is as the agent's.
    #[serde(flatten)]
    pub unit: AgentView,
}

/// PID 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InitView {
    /// Its process id on the host.
    pub pid: Option<i32>,
    /// Version of its binary.
    pub version: String,
    /// Milliseconds since it began.
    pub uptime_ms: u64,
    /// Open connections, itself included.
    pub connections: u32,
    /// Viewers of the agent's terminal.
    pub viewers: u32,
    /// Commands that run.
    pub execs: u32,
    /// Processes inside.
    pub processes: u32,
    /// Orphans reaped so far.
    pub orphans_reaped: u64,
    /// Memory of all processes inside.
    pub memory_bytes: u64,
    /// CPU time of all processes inside.
    pub cpu_ms: u64,
}

/// The monitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MonitorView {
    /// `running`, `stopped` (by a signal) or `none`.
    pub state: &'static str,
    /// Its process id.
    pub pid: Option<i32>,
}

/// How a process ended, told whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitView {
    /// What a shell would report: the code, or 128 + N for signal N. Absent where nobody knows.
    pub status: Option<u8>,
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<String>,
    /// Whether the kernel wrote a core dump.
    pub core_dumped: bool,
    /// Who or what ended it.
    pub killed_by: String,
    /// Whether the memory limit ended it.
    pub out_of_memory: bool,
    /// The resource limit that ended it, if one did.
    pub limit: Option<String>,
    /// Whether output was thrown away because nobody read it.
    pub output_truncated: bool,
    /// How long it ran.
    pub ran_ms: u64,
    /// When it ended.
    pub at: String,
}

impl SandboxView {
    /// A sandbox of which only the name is known.
    pub(crate) fn unknown(name: Name, state: State, reason: Option<String>) -> Self {
        Self {
            name,
            state,
            stuck: None,
            reason,
            isolation: None,
            environment: None,
            environment_id: None,
            workspace: None,
            sync: None,
            project: None,
            network: None,
            machine: None,
            container: None,
            limits: None,
            command: Vec::new(),
            created_at: None,
            started_at: None,
            ended: None,
            starts: 0,
            agent: AgentView::in_state(AgentState::Exited),
            units: Vec::new(),
            worktrees: Vec::new(),
            init: None,
            resources: None,
            monitor: MonitorView { state: "none", pid: None },
            warnings: Vec::new(),
        }
    }
}

impl AgentView {
    /// An agent of which only the state is known.
    pub(crate) fn in_state(state: AgentState) -> Self {
        Self {
            state,
            pid: None,
            restarts: 0,
            started_at: None,
            next_start_ms: None,
            reason: None,
            status_text: None,
            last_exit: None,
        }
    }

    /// The same agent after its sandbox ended.
    #[must_use]
    pub(crate) fn gone(self) -> Self {
        let state = if self.state == AgentState::Parked { self.state } else { AgentState::Exited };
        Self { state, pid: None, next_start_ms: None, ..self }
    }
}

impl From<&UnitStatus> for AgentView {
    fn from(unit: &UnitStatus) -> Self {
        Self {
            state: match unit.state {
                UnitState::Waiting => AgentState::Setup,
                UnitState::Starting => AgentState::Starting,
                // Whoever asked it to end is told by the sandbox's state; until then it runs.
                UnitState::Running | UnitState::Stopping => AgentState::Running,
                UnitState::Backoff => AgentState::Backoff,
                UnitState::Parked => AgentState::Parked,
                UnitState::Exited => AgentState::Exited,
            },
            pid: unit.pid,
            restarts: unit.restarts,
            started_at: unit.started_at_unix_ms.map(rfc3339),
            next_start_ms: unit.next_start_ms,
            reason: unit.reason.clone(),
            status_text: unit.status_text.clone(),
            last_exit: unit.last_exit.as_ref().map(ExitView::from),
        }
    }
}

impl From<&UnitStatus> for UnitView {
    fn from(unit: &UnitStatus) -> Self {
        Self { name: unit.name.clone(), kind: unit_kind(unit.kind), unit: AgentView::from(unit) }
    }
}

impl InitView {
    pub(crate) fn new(
        pid: Option<i32>,
        version: &str,
        uptime_ms: u64,
        counts: &Counts,
        usage: &Usage,
    ) -> Self {
        Self {
            pid,
            version: version.to_owned(),
            uptime_ms,
            connections: counts.connections,
            viewers: counts.viewers,
            execs: counts.execs,
            processes: counts.processes,
            orphans_reaped: counts.orphans_reaped,
            memory_bytes: usage.memory_bytes,
            cpu_ms: usage.cpu_ms,
        }
    }
}

impl From<&ExitRecord> for ExitView {
    fn from(exit: &ExitRecord) -> Self {
        let (code, signal) = match exit.how {
            How::Code(code) => (Some(code), None),
            How::Signal(number) => (None, Some(signal_name(number))),
        };
        Self {
            status: Some(exit.how.shell_code()),
            code,
            signal,
            core_dumped: exit.core_dumped,
            killed_by: killed_by(exit.killed_by).to_owned(),
            out_of_memory: exit.killed_by == KilledBy::OutOfMemory || exit.limit == Some(LimitKind::Memory),
            limit: exit.limit.map(|limit| limit_name(limit).to_owned()),
            output_truncated: exit.output_truncated,
            ran_ms: exit.ran_ms,
            at: rfc3339(exit.at_unix_ms),
        }
    }
}

impl ExitView {
    /// One line for people: `exited with 3`, `killed by SIGKILL (out of memory), core dumped`.
    pub fn describe(&self) -> String {
        let mut text = match (&self.signal, self.code) {
            (Some(signal), _) => format!("killed by {signal}"),
            (None, Some(code)) => format!("exited with {code}"),
            (None, None) => "ended, nobody knows how".to_owned(),
        };
        if self.killed_by != killed_by(KilledBy::Itself) {
            text.extend([" (", &self.killed_by.replace('-', " "), ")"]);
        }
        for (holds, words) in
            [(self.core_dumped, ", core dumped"), (self.output_truncated, ", some output lost")]
        {
            if holds {
                text.push_str(words);
            }
        }
        text
    }
}

/// A moment as RFC 3339, in milliseconds, UTC.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_UNIX_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn signal_name(number: i32) -> String {
    Signal::from_number(number).map_or_else(|| number.to_string(), |signal| signal.to_string())
}

pub(crate) fn unit_kind(kind: UnitKind) -> &'static str {
    match kind {
        UnitKind::Agent => "agent",
        UnitKind::Step => "step",
        UnitKind::Service => "service",
    }
}

fn killed_by(who: KilledBy) -> &'static str {
    match who {
        KilledBy::Itself => "itself",
        KilledBy::Stop => "stop",
        KilledBy::Restart => "restart",
        KilledBy::Timeout => "timeout",
        KilledBy::Watchdog => "watchdog",
        KilledBy::Health => "health",
        KilledBy::Limit => "limit",
        KilledBy::OutOfMemory => "out-of-memory",
        KilledBy::Disconnect => "disconnect",
        KilledBy::Client => "client",
        KilledBy::Unknown => "unknown",
    }
}

fn limit_name(limit: LimitKind) -> &'static str {
    match limit {
        LimitKind::Memory => "memory",
        LimitKind::CpuTime => "cpu-time",
        LimitKind::FileSize => "file-size",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(how: How) -> ExitRecord {
        ExitRecord {
            how,
            core_dumped: false,
            killed_by: KilledBy::Itself,
            limit: None,
            output_truncated: false,
            ran_ms: 5,
            at_unix_ms: 0,
        }
    }

    #[test]
    fn an_exit_is_told_whole() {
        let exit = ExitRecord {
            core_dumped: true,
            killed_by: KilledBy::OutOfMemory,
            limit: Some(LimitKind::Memory),
            output_truncated: true,
            ..exit(How::Signal(9))
        };
        let json = serde_json::to_value(ExitView::from(&exit)).unwrap();
        let expected = serde_json::json!({
            "status": 137, "code": null, "signal": "SIGKILL", "core_dumped": true,
            "killed_by": "out-of-memory", "out_of_memory": true, "limit": "memory",
            "output_truncated": true, "ran_ms": 5, "at": "1970-01-01T00:00:00.000Z",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn exits_read_as_sentences() {
        assert_eq!(ExitView::from(&exit(How::Code(3))).describe(), "exited with 3");
        let killed = ExitRecord { killed_by: KilledBy::Stop, core_dumped: true, ..exit(How::Signal(15)) };
        assert_eq!(ExitView::from(&killed).describe(), "killed by SIGTERM (stop), core dumped");
    }

    #[test]
    fn absurd_times_from_inside_are_times() {
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
        assert_eq!(rfc3339(1), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn the_promised_fields_are_there() {
        let name: Name = "web".parse().unwrap();
        let json = serde_json::to_value(SandboxView::unknown(name, State::Created, None)).unwrap();
        for field in ["name", "state", "isolation", "project", "created_at", "started_at", "agent"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        for field in ["state", "pid", "restarts", "last_exit"] {
            assert!(json["agent"].get(field).is_some(), "agent.{field}");
        }
        assert_eq!(json["state"], "created");
    }
}
