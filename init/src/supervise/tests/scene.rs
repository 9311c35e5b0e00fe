//! A supervisor and a script: events go in, actions come out as short lines.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use agent_protocol::spec::{Agent, InitSpec};

use super::super::{
    Action, Announcement, Attempt, Change, ChildId, Ended, Event, Instant, Notice, Phase, ProbeId,
    SpawnError, SpawnErrorKind, Supervisor, UnitId, UnitState,
};

pub(super) struct Scene {
    supervisor: Supervisor,
    now: Instant,
    attempts: BTreeMap<UnitId, Attempt>,
    probes: BTreeMap<UnitId, ProbeId>,
    announced: Vec<Announcement>,
    children: u64,
}

impl Scene {
    /// Of a spec in JSON, begun at time 0. Jitter is switched off in all of them.
    pub(super) fn new(json: &str) -> Self {
        let mut spec = InitSpec::from_json(json.as_bytes()).unwrap();
        let restarts = spec.services.iter_mut().map(|service| &mut service.restart);
        let agents = spec.agent.iter_mut().chain(spec.agents.iter_mut().map(|(_, agent)| agent));
        for restart in restarts.chain(agents.map(|agent| &mut agent.restart)) {
            restart.backoff.jitter_percent = 0;
        }
        let supervisor = Supervisor::new(&spec, 0);
        let (attempts, probes) = (BTreeMap::new(), BTreeMap::new());
        let mut scene = Self {
            supervisor,
            now: Instant::default(),
            attempts,
            probes,
            announced: Vec::new(),
            children: 0,
        };
        let actions = scene.supervisor.begin(scene.now);
        scene.note(&actions);
        scene
    }

    /// With one agent whose spec is `{"argv": ["a"], ...}`.
    pub(super) fn of_agent(fields: &str) -> Self {
        Self::new(&format!(r#"{{"agent": {{"argv": ["a"], "readiness": "none"{fields}}}}}"#))
    }

    /// Time passes, and nothing is told.
    pub(super) fn wait(&mut self, ms: u64) -> &mut Self {
        self.now = self.now + Duration::from_millis(ms);
        self
    }

    /// Without announcements and times to wake at, which have tests of their own.
    pub(super) fn tell(&mut self, event: Event) -> Vec<String> {
        let mut lines = self.tell_all(event);
        lines.retain(|line| !line.starts_with("wake "));
        lines
    }

    pub(super) fn tell_all(&mut self, event: Event) -> Vec<String> {
        let actions = self.supervisor.handle(self.now, event);
        self.note(&actions);
        actions.iter().filter_map(line).collect()
    }

    /// The last start of the unit succeeds; children are numbered from 1.
    pub(super) fn started(&mut self, unit: UnitId) -> Vec<String> {
        self.children += 1;
        self.tell(Event::Started { unit, attempt: self.attempts[&unit], child: ChildId(self.children) })
    }

    pub(super) fn spawn_failed(&mut self, unit: UnitId, kind: SpawnErrorKind) -> Vec<String> {
        let error = SpawnError { kind, message: "a".to_owned() };
        self.tell(Event::SpawnFailed { unit, attempt: self.attempts[&unit], error })
    }

    pub(super) fn exited(&mut self, child: u64, code: u8) -> Vec<String> {
        self.tell(Event::Exited { child: ChildId(child), ended: Ended::Code(code), oom: false })
    }

    pub(super) fn killed(&mut self, child: u64, signal: &str) -> Vec<String> {
        let ended = Ended::Signal { signal: signal.parse().unwrap(), core_dumped: false };
        self.tell(Event::Exited { child: ChildId(child), ended, oom: false })
    }

    pub(super) fn notify(&mut self, child: u64, notice: Notice) -> Vec<String> {
        self.tell(Event::Notify { child: ChildId(child), notice })
    }

    pub(super) fn probed(&mut self, unit: UnitId, ok: bool) -> Vec<String> {
        self.tell(Event::ProbeResult { unit, probe: self.probes[&unit], ok })
    }

    pub(super) fn timer(&mut self) -> Vec<String> {
        self.tell(Event::Timer)
    }

    pub(super) fn restart(&mut self, unit: UnitId) -> Vec<String> {
        self.tell(Event::Restart { unit })
    }

    /// One more agent.
    pub(super) fn add(&mut self, number: u32, name: &str) -> Vec<String> {
        let agent: Agent =
            serde_json::from_str(r#"{"argv": ["a"], "readiness": "none", "terminal": {}}"#).unwrap();
        self.tell(Event::Add { number, name: name.to_owned(), agent: Rc::new(agent) })
    }

    pub(super) fn remove(&mut self, unit: UnitId, force: bool) -> Vec<String> {
        self.tell(Event::Remove { unit, force })
    }

    /// Whether there is such a unit.
    pub(super) fn has(&self, unit: UnitId) -> bool {
        self.supervisor.status().units.iter().any(|status| status.unit == unit)
    }

    pub(super) fn stop(&mut self) -> Vec<String> {
        self.tell(Event::Stop { within: None, force: false })
    }

    pub(super) fn force(&mut self) -> Vec<String> {
        self.tell(Event::Stop { within: None, force: true })
    }

    pub(super) fn phase(&self) -> Phase {
        self.supervisor.status().phase
    }

    pub(super) fn status(&self, unit: UnitId) -> super::super::UnitStatus {
        self.supervisor.status().units.into_iter().find(|status| status.unit == unit).unwrap()
    }

    pub(super) fn state(&self, unit: UnitId) -> UnitState {
        self.status(unit).state
    }

    pub(super) fn parked(&self, unit: UnitId) -> String {
        match self.state(unit) {
            UnitState::Parked { reason } => reason,
            other => panic!("{unit:?} is not parked but {other:?}"),
        }
    }

    /// What was announced since the last time this was asked.
    pub(super) fn announced(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.announced)
    }

    pub(super) fn changes(&mut self) -> Vec<Change> {
        let change = |announcement| match announcement {
            Announcement::Unit { change, .. } => Some(change),
            Announcement::SetupDone
            | Announcement::SetupFailed { .. }
            | Announcement::Lingering { .. }
            | Announcement::ShutdownBegan { .. }
            | Announcement::Sweep { .. } => None,
        };
        self.announced().into_iter().filter_map(change).collect()
    }

    fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Start { unit, attempt } => drop(self.attempts.insert(*unit, *attempt)),
                Action::StartProbe { unit, probe, .. } => drop(self.probes.insert(*unit, *probe)),
                Action::Announce(announcement) => self.announced.push(announcement.clone()),
                Action::Signal { .. }
                | Action::KillProbe { .. }
                | Action::WakeAt(_)
                | Action::Refuse { .. }
                | Action::KillEverything(_)
                | Action::PowerOff(_) => {}
            }
        }
    }
}

/// An action in a few words; announcements are left out.
pub(super) fn line(action: &Action) -> Option<String> {
    Some(match action {
        Action::Start { unit, .. } => format!("start {unit:?}"),
        Action::Signal { child, signal, group: true } => format!("{signal} -> {}", child.0),
        Action::Signal { child, signal, group: false } => format!("{signal} -> {} alone", child.0),
        Action::StartProbe { unit, kind, .. } => format!("probe {kind:?} of {unit:?}"),
        Action::KillProbe { unit, .. } => format!("kill probe of {unit:?}"),
        Action::WakeAt(at) => format!("wake {at}"),
        Action::Announce(_) => return None,
        Action::Refuse { reason } => format!("refused: {reason}"),
        Action::KillEverything(signal) => format!("{signal} -> everything"),
        Action::PowerOff(ending) => format!("power off {}", ending.code),
    })
}
