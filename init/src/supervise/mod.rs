//! Decides what runs: setup steps, services, the agent, and their ordered end. Makes no system call and reads no
//! clock.
//!
//! ```text
//! Up --agent exited, on_agent_exit: end--> Lingering --seen, or time--> Ending --> Off
//!  \------------------------- stop -------------------------------------^
//! ```
//! [`Supervisor::handle`] is told an [`Event`] and answers with [`Action`]s. Each unit is a machine of its own
//! (`unit`); `turns` and
//! `ending` decide whose turn it is. That is never remembered, but read off the units' states
//! after each event, so no order of events can lose a turn.

mod backoff;
mod ending;
mod event;
mod exit;
mod outbox;
mod run;
mod shutdown;
mod status;
mod turns;
mod unit;

use std::time::Duration;

use agent_protocol::spec::{Agent, InitSpec, MAX_AGENTS, OnAgentExit};

pub use event::{
    Action, Attempt, Cause, ChildId, Ending, Event, Instant, Notice, ProbeId, ProbeKind, UnitId,
};
pub use exit::{Ended, ExitRecord, KilledBy, SpawnError, SpawnErrorKind};
pub use status::{Announcement, Change, MAX_STATUS_BYTES, Phase, Status, UnitState, UnitStatus};

use outbox::Outbox;
use run::Plan;
use shutdown::Shutdown;
use unit::{Input, Unit};

/// The state of everything that is supervised.
#[derive(Debug)]
pub struct Supervisor {
    /// In this order: steps, services, agent, further agents.
    units: Vec<Unit>,
    steps: usize,
    /// For each service, the services it comes after.
    after: Vec<Vec<usize>>,
    end_with_agent: bool,
    linger: Duration,
    total: Duration,
    state: State,
    now: Instant,
    /// What [`Action::WakeAt`] asked for last, until it came.
    wake_at: Option<Instant>,
    setup_announced: SetupAnnounced,
    out: Outbox,
}

#[derive(Debug)]
enum State {
    Up,
    Lingering { until: Instant },
    Ending(Shutdown),
    Off,
}

/// What was last announced about the setup, so that it is announced once.
#[derive(Debug, PartialEq, Eq)]
enum SetupAnnounced {
    Nothing,
    Failed(String),
    Done,
}

impl Supervisor {
    /// For a valid spec. The seed is for the jitter of waits. Nothing is done before [`Supervisor::begin`].
    pub fn new(spec: &InitSpec, seed: u64) -> Self {
        let mut units = Vec::new();
        units.extend(
            spec.steps.iter().enumerate().map(|(i, step)| Unit::new(UnitId::Step(i), Plan::of_step(step))),
        );
        let services = spec.services.iter().enumerate();
        units.extend(services.map(|(i, service)| Unit::new(UnitId::Service(i), Plan::of_service(service))));
        units.extend(spec.agent.iter().map(|agent| Unit::new(UnitId::Agent, Plan::of_agent("agent", agent))));
        let further = (0..).map(UnitId::Further).zip(&spec.agents);
        units.extend(further.map(|(id, (name, agent))| Unit::new(id, Plan::of_agent(name, agent))));
        let place = |name: &String| spec.services.iter().position(|service| service.name == *name);
        let after = |names: &[String]| names.iter().filter_map(place).collect();
        Self {
            units,
            steps: spec.steps.len(),
            after: spec.services.iter().map(|service| after(&service.after)).collect(),
            end_with_agent: spec.on_agent_exit == OnAgentExit::End,
            linger: Duration::from_millis(spec.linger_ms),
            total: Duration::from_millis(spec.shutdown.total_ms),
            state: State::Up,
            now: Instant::default(),
            wake_at: None,
            setup_announced: SetupAnnounced::Nothing,
            out: Outbox::new(seed),
        }
    }

    /// The first turn.
    pub fn begin(&mut self, now: Instant) -> Vec<Action> {
        self.handle(now, Event::Timer)
    }

    /// Takes in what happened and says what to do about it, in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        // A clock that went back would make deadlines come twice.
        self.now = self.now.max(now);
        self.take(event);
        self.advance();
        self.ask_for_wake();
        std::mem::take(&mut self.out.actions)
    }

    /// The unit of that name; the agent's is `agent`.
    pub fn find(&self, name: &str) -> Option<UnitId> {
        self.units.iter().find(|unit| unit.name() == name).map(Unit::id)
    }

    /// Everything at this moment.
    #[inline(never)] // Asked for in several places, never often.
    pub fn status(&self) -> Status {
        let phase = match &self.state {
            State::Up => match self.setup_problem() {
                Some(reason) => Phase::SetupFailed { reason },
                None if self.setup_is_done() => Phase::Up,
                None => Phase::Setup,
            },
            State::Lingering { until } => Phase::Lingering { until: *until },
            State::Ending(shutdown) => Phase::Stopping { deadline: shutdown.deadline },
            State::Off => Phase::Off,
        };
        Status { phase, units: self.units.iter().map(Unit::status).collect() }
    }

    fn take(&mut self, event: Event) {
        match (&mut self.state, event) {
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::Timer) => {
                // Whether early or late: what was asked for has come.
                self.wake_at = None;
                self.tell_all(&Input::Timer);
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::Started { unit, attempt, child }) => {
                self.tell(unit, Input::Started { attempt, child });
                // It came after the sweep, so it has not been swept.
                if let State::Ending(shutdown) = &self.state
                    && let Some(signal) = shutdown.swept_with()
                {
                    self.sweep(signal);
                }
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::SpawnFailed { unit, attempt, error }) => {
                self.tell(unit, Input::SpawnFailed { attempt, error });
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::Exited { child, ended, oom }) => {
                self.tell_owner(child, Input::Exited { child, ended, oom });
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::Notify { child, notice }) => {
                self.tell_owner(child, Input::Notice { child, notice });
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::FirstOutput { child }) => {
                self.tell_owner(child, Input::FirstOutput { child });
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::ProbeResult { unit, probe, ok }) => {
                self.tell(unit, Input::ProbeResult { probe, ok });
            }
            (State::Up | State::Lingering { .. } | State::Ending(_), Event::Forward { signal, group }) => {
                self.tell(UnitId::Agent, Input::Forward { signal, group });
            }
            (State::Up | State::Lingering { .. }, Event::Restart { unit }) => self.restart(unit),
            (State::Up | State::Lingering { .. }, Event::StopUnit { unit }) => self.stop_unit(unit),
            (State::Up | State::Lingering { .. }, Event::Add { number, name, agent }) => {
                self.add(number, &name, &agent);
            }
            (State::Up | State::Lingering { .. }, Event::Remove { unit, force }) => self.remove(unit, force),
            (
                State::Ending(_) | State::Off,
                Event::Restart { .. } | Event::StopUnit { .. } | Event::Add { .. } | Event::Remove { .. },
            ) => self.out.refuse("the sandbox is stopping"),
            (State::Up | State::Lingering { .. }, Event::Stop { within, force }) => {
                self.end(Cause::Requested, within, force);
            }
            (State::Ending(shutdown), Event::Stop { within, force }) => {
                shutdown.hurry(self.now, within.unwrap_or(self.total));
                if force && let Some(order) = shutdown.force(self.now) {
                    self.obey(order);
                }
            }
            (State::Ending(shutdown), Event::AllProcessesGone) => {
                if let Some(order) = shutdown.all_gone() {
                    self.obey(order);
                }
            }
            (State::Lingering { .. }, Event::ViewerSawExit) => self.end(Cause::AgentExited, None, false),

            // It is of no interest that nothing runs, or that an exit was seen, while nothing waits for that.
            (State::Up | State::Lingering { .. }, Event::AllProcessesGone)
            | (State::Up | State::Ending(_), Event::ViewerSawExit)
            // It is over.
            | (
                State::Off,
                Event::Started { .. } | Event::SpawnFailed { .. } | Event::Exited { .. } | Event::Timer
                | Event::Notify { .. } | Event::FirstOutput { .. } | Event::ProbeResult { .. } | Event::Stop { .. }
                | Event::Forward { .. } | Event::AllProcessesGone | Event::ViewerSawExit,
            ) => {}
        }
    }

    fn restart(&mut self, id: UnitId) {
        let setup_failed = self.setup_problem().is_some();
        let Some(unit) = self.unit(id) else { return self.out.refuse("there is no such unit") };
        let name = unit.name().to_owned();
        match id {
            // The agent's turn never came because something failed: that is what is to be tried again.
            UnitId::Agent | UnitId::Further(_) if unit.is_waiting() && setup_failed => {
                for unit in self.units.iter_mut().filter(|unit| unit.obstacle().is_some()) {
                    unit.handle(self.now, Input::Again, &mut self.out);
                }
            }
            UnitId::Step(_) if unit.has_exited() => {
                self.out.refuse(format!("`{name}` has already succeeded"));
            }
            UnitId::Step(_) if !unit.is_down() => self.out.refuse(format!("`{name}` is running")),
            UnitId::Agent | UnitId::Further(_) | UnitId::Service(_) | UnitId::Step(_)
                if unit.is_waiting() =>
            {
                self.out.refuse(format!("`{name}` waits for the setup"));
            }
            UnitId::Agent | UnitId::Further(_) if unit.is_going() => {
                self.out.refuse(format!("`{name}` is being removed"));
            }
            UnitId::Agent | UnitId::Further(_) | UnitId::Service(_) | UnitId::Step(_) => {
                self.tell(id, Input::Again);
            }
        }
    }

    fn stop_unit(&mut self, id: UnitId) {
        let Some(unit) = self.unit(id) else { return self.out.refuse("there is no such unit") };
        let name = unit.name().to_owned();
        if unit.is_waiting() || unit.has_exited() {
            self.out.refuse(format!("`{name}` is not running"));
        } else {
            self.tell(id, Input::Hold);
        }
    }

    fn add(&mut self, number: u32, name: &str, agent: &Agent) {
        let id = UnitId::Further(number);
        let further = self.units.iter().filter(|unit| matches!(unit.id(), UnitId::Further(_))).count();
        if self.find(name).is_some() || self.unit(id).is_some() {
            self.out.refuse(format!("there is a unit `{name}` already"));
        } else if further >= MAX_AGENTS {
            self.out.refuse(format!("there are {MAX_AGENTS} further agents already"));
        } else {
            // Its turn comes as that of the others, at once where the setup is done.
            self.units.push(Unit::new(id, Plan::of_agent(name, agent)));
        }
    }

    fn remove(&mut self, id: UnitId, force: bool) {
        match self.unit(id) {
            Some(_) if matches!(id, UnitId::Further(_)) => self.tell(id, Input::Leave { force }),
            Some(unit) => {
                let name = unit.name().to_owned();
                self.out.refuse(format!("`{name}` cannot be removed"));
            }
            None => self.out.refuse("there is no such unit"),
        }
    }

    /// Asks to be woken at the earliest time that something is due, if that has changed.
    fn ask_for_wake(&mut self) {
        let own = match &self.state {
            State::Up => None,
            State::Lingering { until } => Some(*until),
            State::Ending(shutdown) => Some(shutdown.next_wake()),
            State::Off => return,
        };
        let wake_at = self.units.iter().filter_map(Unit::next_wake).chain(own).min();
        // When nothing is due any more the last request stands: being woken once for nothing is cheaper than
        // another action that every caller must know.
        if let Some(at) = wake_at
            && self.wake_at != Some(at)
        {
            self.wake_at = Some(at);
            self.out.push(Action::WakeAt(at));
        }
    }

    fn place(&self, id: UnitId) -> Option<usize> {
        let services = self.after.len();
        match id {
            UnitId::Step(i) => (i < self.steps).then_some(i),
            UnitId::Service(i) => (i < services).then_some(self.steps + i),
            UnitId::Agent | UnitId::Further(_) => {
                let first = self.steps + services;
                self.units[first..].iter().position(|unit| unit.id() == id).map(|place| first + place)
            }
        }
    }

    fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.place(id).map(|place| &self.units[place])
    }

    fn tell(&mut self, id: UnitId, input: Input) {
        if let Some(place) = self.place(id) {
            self.units[place].handle(self.now, input, &mut self.out);
        }
    }

    /// For a child that is a unit's present one; all others are orphans, commands, or of an earlier run.
    fn tell_owner(&mut self, child: ChildId, input: Input) {
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.child() == Some(child)) {
            unit.handle(self.now, input, &mut self.out);
        }
    }

    fn tell_all(&mut self, input: &Input) {
        for unit in &mut self.units {
            unit.handle(self.now, input.clone(), &mut self.out);
        }
    }
}

#[cfg(test)]
mod tests;
