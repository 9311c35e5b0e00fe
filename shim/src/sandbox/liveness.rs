//! What a sandbox is doing, decided from what its files say, what its init says and what the kernel says.
//!
//! The decision does no I/O. Files can be late and init can be mute; the kernel is the truth: whoever
//! connects to the control socket talks to a living init, and a refused connection means that it is gone.

use agent_protocol::message::{Phase, Status, UnitKind};

use super::{
    probe::Answer,
    process::Condition,
    record::Record,
    run::{Ended, Run, Stage},
    view::{AgentState, AgentView, InitView, MonitorView, SandboxView, State, UnitView, WorktreeView},
};
use crate::{
    isolation::{MachineWishes, ProcessId},
    worktree::Branch,
};

/// All that is known about one sandbox at one moment.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) record: Record,
    pub(crate) run: Option<Run>,
    pub(crate) answer: Answer,
    /// Whether a monitor holds its lock.
    pub(crate) monitored: bool,
    pub(crate) monitor: Seen,
    pub(crate) supervisor: Seen,
    pub(crate) init: Seen,
    /// What else the layer has started, by name.
    pub(crate) parts: Vec<(String, ProcessId, Condition)>,
    /// What the layer makes, as people call it.
    pub(crate) makes: &'static str,
    /// What of the network it reaches, as people write it.
    pub(crate) network: String,
    /// What its machine is made of, where it has one.
    pub(crate) machine: Option<MachineWishes>,
    /// Whether init is a process of the host, and not a machine.
    pub(crate) shares_kernel: bool,
    /// The agent as a process of the host.
    pub(crate) agent: Seen,
}

/// A recorded process and its condition; `None` where nothing is recorded.
pub(crate) type Seen = Option<(ProcessId, Condition)>;

/// Decides.
pub(crate) fn decide(facts: &Facts) -> SandboxView {
    let record = &facts.record;
    let run = facts.run.as_ref();
    let (state, reason) = state_of(facts);
    let mut view = SandboxView::unknown(record.name.clone(), state, reason);
    view.stuck = stuck(facts, state);
    view.isolation = Some(record.isolation);
    view.environment = Some(record.environment.kind());
    view.environment_id = record.environment.id().cloned();
    view.workspace = Some(record.workspace);
    view.project = Some(record.project.clone());
    view.network = Some(facts.network.clone());
    view.machine.clone_from(&facts.machine);
    view.container.clone_from(&record.container);
    view.limits = Some(record.limits);
    view.command.clone_from(&record.command);
    view.created_at = Some(record.created_at.clone());
    view.started_at = run.map(|run| run.started_at.clone());
    view.starts = run.map_or(0, |run| run.number);
    view.ended = run.and_then(|run| run.ended.clone()).filter(|_| !lives(&facts.answer));
    view.monitor = monitor_of(facts);
    let recorded = run.and_then(|run| run.agent.clone());
    match &facts.answer {
        Answer::Status(status) => tell_status(&mut view, status, facts),
        Answer::Dead => {
            view.agent = recorded.map_or(AgentView::in_state(AgentState::Exited), AgentView::gone);
        }
        Answer::Silent | Answer::Broken(_) => {
            view.agent = recorded.unwrap_or(AgentView::in_state(AgentState::Setup));
        }
    }
    view.worktrees = worktrees(record, &facts.answer);
    if view.state == State::Stopped && view.ended.is_none() {
        view.ended = run.map(|_| Ended {
            at: String::new(),
            code: None,
            reason: "it ended while nobody watched".to_owned(),
        });
        if let Some(ended) = &mut view.ended {
            // When it ended is not known, and an empty text would not be a time.
            ended.at.clone_from(view.started_at.as_ref().unwrap_or(&record.created_at));
        }
    }
    view
}

/// Every worktree that was asked for; without a session it has exited.
fn worktrees(record: &Record, answer: &Answer) -> Vec<WorktreeView> {
    let (units, otherwise) = match answer {
        Answer::Status(status) => (status.units.as_slice(), AgentState::Exited),
        Answer::Dead => (&[][..], AgentState::Exited),
        // Nobody knows.
        Answer::Silent | Answer::Broken(_) => (&[][..], AgentState::Setup),
    };
    let view = |branch: &Branch| {
        let unit = units.iter().find(|unit| unit.name == branch.unit());
        WorktreeView {
            branch: branch.to_string(),
            path: branch.path(),
            name: branch.unit(),
            unit: unit.map_or(AgentView::in_state(otherwise), AgentView::from),
        }
    };
    record.worktrees.iter().map(|worktree| view(&worktree.branch)).collect()
}

fn lives(answer: &Answer) -> bool {
    !matches!(answer, Answer::Dead)
}

fn state_of(facts: &Facts) -> (State, Option<String>) {
    let stage = facts.run.as_ref().map(|run| run.stage);
    let reason = || facts.run.as_ref()?.ended.as_ref().map(|ended| ended.reason.clone());
    match (&facts.answer, stage) {
        (Answer::Status(status), _) => match status.phase {
            Phase::Setup => (State::Starting, None),
            Phase::SetupFailed => (State::Error, Some("the setup failed; the agent was not started".into())),
            Phase::Running if stage == Some(Stage::Stopping) => (State::Stopping, None),
            Phase::Running => (State::Running, None),
            Phase::Stopping => (State::Stopping, None),
        },
        // Its device may take calls for a moment longer.
        (Answer::Broken(_) | Answer::Silent, Some(Stage::Running | Stage::Stopping)) if is_broken(facts) => {
            (State::Stopping, None)
        }
        (Answer::Broken(problem), _) => (State::Error, Some(problem.clone())),
        (Answer::Silent, Some(Stage::Starting)) => (State::Starting, None),
        (Answer::Silent, Some(Stage::Stopping)) => (State::Stopping, None),
        (Answer::Silent, _) => (State::Running, None),
        (Answer::Dead, None) => (State::Created, None),
        // The socket appears a moment after the first record of a start; a machine's, once its devices are there.
        (Answer::Dead, Some(Stage::Starting)) if is_coming(facts) => (State::Starting, None),
        (Answer::Dead, Some(Stage::Failed)) => (State::Error, reason()),
        // What is left of it still ends, and how it ended is not written down yet.
        (Answer::Dead, Some(Stage::Running | Stage::Stopping)) if is_going(facts) => (State::Stopping, None),
        (Answer::Dead, Some(_)) => (State::Stopped, reason()),
    }
}

fn is_coming(facts: &Facts) -> bool {
    let layer_lives = facts.supervisor.is_none_or(|(_, condition)| condition != Condition::Gone);
    facts.monitored && layer_lives && facts.run.as_ref().is_some_and(Run::is_of_this_boot)
}

fn is_going(facts: &Facts) -> bool {
    let layer_lives = matches!(facts.supervisor, Some((_, Condition::Alive | Condition::Stopped)));
    facts.monitored && layer_lives && facts.run.as_ref().is_some_and(Run::is_of_this_boot)
}

/// Whether something is gone that a machine cannot do without: what is left of it ends as well.
fn is_broken(facts: &Facts) -> bool {
    let mut carriers = facts.parts.iter().map(|(.., condition)| *condition);
    let gone = |seen: &Seen| matches!(seen, Some((_, Condition::Gone)));
    !facts.shares_kernel
        && (gone(&facts.init) || gone(&facts.supervisor) || carriers.any(|one| one == Condition::Gone))
}

fn tell_status(view: &mut SandboxView, status: &Status, facts: &Facts) {
    if let Some(agent) = status.units.iter().find(|unit| unit.kind == UnitKind::Agent) {
        view.agent = AgentView::from(agent);
    }
    view.units =
        status.units.iter().filter(|unit| unit.kind != UnitKind::Agent).map(UnitView::from).collect();
    let pid = facts.init.map(|(id, _)| id.pid);
    view.init =
        Some(InitView::new(pid, &status.init_version, status.uptime_ms, &status.counts, &status.usage));
    view.warnings = facts.run.iter().flat_map(|run| &run.warnings).chain(&status.warnings).cloned().collect();
}

fn monitor_of(facts: &Facts) -> MonitorView {
    let pid = facts.monitor.map(|(id, _)| id.pid);
    match facts.monitor {
        _ if !facts.monitored => MonitorView { state: "none", pid: None },
        Some((_, Condition::Stopped)) => MonitorView { state: "stopped", pid },
        Some((_, Condition::Alive)) => MonitorView { state: "running", pid },
        // One that adopts has not written itself down yet.
        Some((_, Condition::Gone)) | None => MonitorView { state: "running", pid: None },
    }
}

/// Says where it is stuck. The process nearest to the agent comes first: what it holds up is seen first.
fn stuck(facts: &Facts, state: State) -> Option<String> {
    if matches!(state, State::Created | State::Stopped) {
        return None;
    }
    let stopped = |seen: Seen, what: &str, effect: &str| match seen {
        Some((id, Condition::Stopped)) => {
            Some(format!("{what} (process {}) is stopped by a signal{effect}", id.pid))
        }
        _ => None,
    };
    let silent = matches!(facts.answer, Answer::Silent);
    // A machine's init is no process here; the machine is.
    let init = if facts.shares_kernel { "init" } else { "the machine" };
    let part = || {
        let (name, id, _) = facts.parts.iter().find(|(.., condition)| *condition == Condition::Stopped)?;
        let (made, pid) = (facts.makes, id.pid);
        Some(format!(
            "the {made}'s {name} (process {pid}) is stopped by a signal: nothing that needs it goes on"
        ))
    };
    stopped(facts.init, init, ": nothing inside can be reached")
        .or_else(part)
        .or_else(|| {
            let comes_up = silent && state == State::Starting;
            let effect = if comes_up { ": the sandbox cannot come up" } else { ": the sandbox runs on" };
            stopped(facts.supervisor, "the isolation layer", effect)
        })
        .or_else(|| {
            (silent && state != State::Starting).then(|| match facts.init {
                Some((id, _)) => format!("{init} (process {}) lives and does not answer", id.pid),
                None => format!("{init} lives and does not answer"),
            })
        })
        .or_else(|| stopped(facts.agent, "the agent", ""))
        .or_else(|| stopped(facts.monitor, "the monitor", ": events and logs are recorded later"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::record::WorktreeRecord;
    use agent_protocol::message::{AgentStatus, Counts, UnitState, UnitStatus, Usage};
    use std::time::SystemTime;

    const ID: ProcessId = ProcessId { pid: 7, start_ticks: 1 };

    fn facts(stage: Option<Stage>, answer: Answer) -> Facts {
        let mut run = Run::beginning(1, "2026-01-01T00:00:00.000Z".to_owned(), None);
        let run = stage.map(|stage| {
            run.stage = stage;
            run
        });
        Facts {
            record: Record::new("web".parse().unwrap(), "/src/web".into(), SystemTime::UNIX_EPOCH),
            run,
            answer,
            monitored: true,
            monitor: Some((ID, Condition::Alive)),
            supervisor: Some((ID, Condition::Alive)),
            init: Some((ID, Condition::Alive)),
            parts: Vec::new(),
            makes: "machine",
            shares_kernel: true,
            network: "nat".to_owned(),
            machine: None,
            agent: None,
        }
    }

    fn status(phase: Phase) -> Answer {
        Answer::Status(Box::new(Status {
            init_version: "1".to_owned(),
            uptime_ms: 1,
            phase,
            units: Vec::new(),
            agent: AgentStatus { session: None, output_bytes: 0, lease: None },
            counts: Counts::default(),
            usage: Usage::default(),
            warnings: Vec::new(),
        }))
    }

    fn state(stage: Option<Stage>, answer: Answer) -> State {
        decide(&facts(stage, answer)).state
    }

    #[test]
    fn what_init_says_outweighs_the_files() {
        for stage in [None, Some(Stage::Starting), Some(Stage::Ended), Some(Stage::Failed)] {
            assert_eq!(state(stage, status(Phase::Running)), State::Running, "{stage:?}");
        }
        assert_eq!(state(Some(Stage::Running), status(Phase::Setup)), State::Starting);
        assert_eq!(state(Some(Stage::Running), status(Phase::Stopping)), State::Stopping);
        assert_eq!(state(Some(Stage::Running), status(Phase::SetupFailed)), State::Error);
    }

    #[test]
    fn a_refused_connection_outweighs_the_files() {
        assert_eq!(state(None, Answer::Dead), State::Created);
        for stage in [Stage::Starting, Stage::Running, Stage::Stopping, Stage::Ended] {
            let mut facts = facts(Some(stage), Answer::Dead);
            facts.monitored = false;
            assert_eq!(decide(&facts).state, State::Stopped, "{stage:?}");
        }
        assert_eq!(state(Some(Stage::Failed), Answer::Dead), State::Error);
    }

    #[test]
    fn what_is_not_gone_to_its_end_is_stopping() {
        let mut facts = facts(Some(Stage::Running), Answer::Dead);
        assert_eq!(decide(&facts).state, State::Stopping);
        facts.supervisor = Some((ID, Condition::Gone));
        assert_eq!(decide(&facts).state, State::Stopped);
    }

    #[test]
    fn a_machine_of_which_a_part_is_gone_is_stopping() {
        let mut facts = facts(Some(Stage::Running), Answer::Silent);
        facts.init = Some((ID, Condition::Gone));
        assert_eq!(decide(&facts).state, State::Running);
        facts.shares_kernel = false;
        assert_eq!(decide(&facts).state, State::Stopping);
        facts.init = Some((ID, Condition::Alive));
        assert_eq!(decide(&facts).state, State::Running);
        facts.parts = vec![("virtiofsd".to_owned(), ID, Condition::Gone)];
        assert_eq!(decide(&facts).state, State::Stopping);
    }

    #[test]
    fn a_start_without_a_socket_is_a_start() {
        assert_eq!(state(Some(Stage::Starting), Answer::Dead), State::Starting);
    }

    #[test]
    fn a_silent_init_is_running_and_stuck() {
        let mut facts = facts(Some(Stage::Running), Answer::Silent);
        assert_eq!(decide(&facts).state, State::Running);
        assert!(decide(&facts).stuck.unwrap().contains("does not answer"));
        facts.init = Some((ID, Condition::Stopped));
        let stuck = decide(&facts).stuck.unwrap();
        assert!(stuck.contains("init (process 7) is stopped by a signal"), "{stuck}");
    }

    #[test]
    fn a_stopped_process_is_named() {
        let stopped = Some((ID, Condition::Stopped));
        for (part, name) in [(0, "the isolation layer"), (1, "the agent"), (2, "the monitor")] {
            let mut facts = facts(Some(Stage::Running), status(Phase::Running));
            *[&mut facts.supervisor, &mut facts.agent, &mut facts.monitor][part] = stopped;
            let view = decide(&facts);
            assert_eq!(view.state, State::Running);
            assert!(view.stuck.unwrap().starts_with(name), "{name}");
        }
    }

    #[test]
    fn a_stopped_part_is_named_with_what_it_belongs_to() {
        let mut facts = facts(Some(Stage::Running), Answer::Silent);
        facts.shares_kernel = false;
        assert!(decide(&facts).stuck.unwrap().starts_with("the machine (process 7) lives and does not"));
        facts.parts = vec![
            ("passt".to_owned(), ID, Condition::Alive),
            ("virtiofsd".to_owned(), ProcessId { pid: 9, start_ticks: 1 }, Condition::Stopped),
        ];
        let stuck = decide(&facts).stuck.unwrap();
        assert!(stuck.starts_with("the machine's virtiofsd (process 9) is stopped by a signal"), "{stuck}");
    }

    #[test]
    fn a_machine_whose_devices_are_not_there_yet_comes_up() {
        let mut facts = facts(Some(Stage::Starting), Answer::Dead);
        assert_eq!(decide(&facts).state, State::Starting);
        facts.supervisor = Some((ID, Condition::Gone));
        assert_eq!(decide(&facts).state, State::Stopped);
    }

    #[test]
    fn every_worktree_is_shown_with_or_without_its_session() {
        let unit = |name: &str| UnitStatus {
            name: name.to_owned(),
            kind: UnitKind::Agent,
            state: UnitState::Running,
            pid: Some(9),
            restarts: 1,
            started_at_unix_ms: None,
            next_start_ms: None,
            reason: None,
            status_text: None,
            last_exit: None,
        };
        let Answer::Status(mut status) = status(Phase::Running) else { panic!() };
        status.units = vec![unit("agent"), unit("worktree.a..b"), unit("worktree.evil")];
        let mut facts = facts(Some(Stage::Running), Answer::Status(status));
        facts.record.worktrees = ["a/b", "lost"]
            .map(|branch| WorktreeRecord { branch: branch.parse().unwrap(), command: None })
            .to_vec();
        let view = decide(&facts);
        let shown: Vec<_> = view.worktrees.iter().map(|one| (one.branch.as_str(), one.unit.state)).collect();
        assert_eq!(shown, [("a/b", AgentState::Running), ("lost", AgentState::Exited)]);
        assert!(view.units.is_empty());
        facts.answer = Answer::Dead;
        assert!(decide(&facts).worktrees.iter().all(|one| one.unit.state == AgentState::Exited));
    }

    #[test]
    fn an_end_that_nobody_saw_is_said_to_be_unknown() {
        let mut facts = facts(Some(Stage::Running), Answer::Dead);
        facts.monitored = false;
        let view = decide(&facts);
        assert_eq!(view.ended.unwrap().code, None);
        assert_eq!(view.agent.state, AgentState::Exited);
        assert_eq!(view.monitor.state, "none");
    }
}
