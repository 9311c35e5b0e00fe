//! What must hold at every step, judged by a record of its own: nothing here is read off the supervisor except
//! what it shows to everyone.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_protocol::spec::{Agent, InitSpec, OnAgentExit, Restart, RestartPolicy, Signal};

use super::super::super::{
    Action, Announcement, Attempt, Cause, Change, ChildId, Event, Instant, KilledBy, Phase, Status, UnitId,
    UnitState,
};
use super::record::{Record, RunRecord};
use super::world::LATENESS;
use super::{Broken, ensure};

pub(super) struct Laws {
    units: BTreeMap<UnitId, Record>,
    /// What every agent comes after.
    setup: Vec<UnitId>,
    end_with_agent: bool,
    wake_at: Option<Instant>,
    /// When the end must be over at the latest, once it has begun.
    pub(super) end_by: Option<Instant>,
    swept: Option<Signal>,
    pub(super) off: bool,
    last_attempt: u64,
    timers_at_once: (Instant, u32),
    /// How often what was seen, to know that the lives reach everything.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

impl Laws {
    pub(super) fn new(spec: &InitSpec) -> Self {
        let mut units = BTreeMap::new();
        let steps: Vec<_> = (0..spec.steps.len()).map(UnitId::Step).collect();
        for (i, step) in spec.steps.iter().enumerate() {
            let restart = Restart { policy: RestartPolicy::Never, ..Restart::default() };
            let timeout = Some(Duration::from_millis(step.timeout_ms));
            let record =
                Record { once: true, timeout, ..Record::new(&steps[..i], restart, Duration::from_secs(5)) };
            units.insert(UnitId::Step(i), record);
        }
        for (i, service) in spec.services.iter().enumerate() {
            let place = |name: &String| spec.services.iter().position(|other| other.name == *name).unwrap();
            let before = service.after.iter().map(place).map(UnitId::Service);
            let after: Vec<_> = steps.iter().copied().chain(before).collect();
            let grace = Duration::from_millis(service.stop.grace_ms);
            units.insert(UnitId::Service(i), Record::new(&after, service.restart.clone(), grace));
        }
        if let Some(agent) = &spec.agent {
            let after: Vec<_> = units.keys().copied().collect();
            let grace = Duration::from_millis(agent.stop.grace_ms);
            units.insert(UnitId::Agent, Record::new(&after, agent.restart.clone(), grace));
        }
        let setup = (0..spec.services.len()).map(UnitId::Service);
        let setup: Vec<_> = steps.into_iter().chain(setup).collect();
        for (number, agent) in (0..).zip(spec.agents.iter().map(|(_, agent)| agent)) {
            units.insert(UnitId::Further(number), further(&setup, agent));
        }
        Self {
            units,
            setup,
            end_with_agent: spec.on_agent_exit == OnAgentExit::End,
            wake_at: None,
            end_by: None,
            swept: None,
            off: false,
            last_attempt: 0,
            timers_at_once: (Instant::default(), 0),
            seen: BTreeMap::new(),
        }
    }

    /// Judges one call of `handle`: what came in, what went out, and what is shown afterwards.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        event: &Event,
        actions: &[Action],
        before: &Status,
        status: &Status,
    ) -> Result<(), Broken> {
        ensure!(!self.off || actions.iter().all(is_refusal), "something is done after power off");
        ensure!(actions.len() <= 8 + 12 * self.units.len(), "{} actions at once", actions.len());
        let wakes = actions.iter().filter(|action| matches!(action, Action::WakeAt(_))).count();
        ensure!(wakes <= 1, "{wakes} times to wake at");
        let refused = actions.iter().any(is_refusal);
        self.take_event(now, event, refused)?;
        for action in actions {
            self.take_action(now, event, action)?;
        }
        Self::revives(event, refused, actions, before)?;
        let forced = matches!(event, Event::Stop { force: true, .. });
        ensure!(self.off || !forced || self.swept == Some(Signal::KILL), "a forced stop asks first");
        if !self.off {
            self.look(now, status)?;
        }
        Ok(())
    }

    fn take_event(&mut self, now: Instant, event: &Event, refused: bool) -> Result<(), Broken> {
        match event {
            Event::Started { unit, attempt, child } => {
                let record = self.units.get_mut(unit).ok_or("a unit that is not there")?;
                ensure!(record.spawning.take() == Some(*attempt), "a start that was not asked for");
                ensure!(record.run.is_none(), "two processes of {unit:?}");
                record.run =
                    Some(RunRecord { child: *child, since: now, signals: 0, told: None, forwarded: false });
            }
            Event::SpawnFailed { unit, attempt, .. } => {
                let record = self.units.get_mut(unit).ok_or("a unit that is not there")?;
                ensure!(record.spawning.take() == Some(*attempt), "a start that was not asked for");
            }
            Event::Timer => {
                self.wake_at = None;
                if self.timers_at_once.0 != now {
                    self.timers_at_once = (now, 0);
                }
                self.timers_at_once.1 += 1;
                // Each unit may owe two things at this very moment, with a grace of 0.
                let most = 4 + 2 * u32::try_from(self.units.len()).unwrap();
                ensure!(
                    self.timers_at_once.1 <= most,
                    "woken {} times at {now}: a busy loop",
                    self.timers_at_once.1
                );
            }
            Event::ProbeResult { unit, probe, .. } => {
                if let Some(record) = self.units.get_mut(unit) {
                    record.probe.take_if(|(id, _)| id == probe);
                }
            }
            Event::Restart { unit } if !refused => self.person_restarts(*unit),
            Event::StopUnit { unit } if !refused => {
                if let Some(record) = self.units.get_mut(unit) {
                    record.asked = false;
                }
            }
            Event::Restart { .. } => self.count("restart refused"),
            Event::Add { number, agent, .. } if !refused => {
                let id = UnitId::Further(*number);
                ensure!(!self.units.contains_key(&id), "{id:?} is there twice");
                self.units.insert(id, further(&self.setup, agent));
                self.count("added");
            }
            Event::Add { .. } => self.count("add refused"),
            Event::Remove { unit, force } if !refused => {
                ensure!(matches!(unit, UnitId::Further(_)), "{unit:?} is removed");
                let record = self.units.get_mut(unit).ok_or("a unit that is not there")?;
                record.going = true;
                record.asked = false;
                // One that is only coming has its grace.
                if *force && record.run.is_some() {
                    record.killed_by = Some(now);
                }
                self.count(if *force { "removed by force" } else { "removed" });
            }
            Event::Stop { force: true, .. } => self.count("force"),
            // Its own record of an exit is closed when the supervisor says so, below.
            Event::Exited { .. }
            | Event::StopUnit { .. }
            | Event::Remove { .. }
            | Event::Stop { .. }
            | Event::Notify { .. }
            | Event::FirstOutput { .. }
            | Event::Forward { .. }
            | Event::AllProcessesGone
            | Event::ViewerSawExit => {}
        }
        Ok(())
    }

    fn person_restarts(&mut self, unit: UnitId) {
        let never_began = self.units.get(&unit).is_some_and(|record| record.starts == 0);
        for (id, record) in &mut self.units {
            // The agent whose turn never came stands for whatever holds it up.
            if *id == unit || (never_began && record.is_an_obstacle()) {
                // What is being started already is the run that was asked for.
                record.asked = record.spawning.is_none();
                record.failures = 0;
                record.exits.clear();
            }
        }
    }

    fn take_action(&mut self, now: Instant, event: &Event, action: &Action) -> Result<(), Broken> {
        match action {
            Action::Start { unit, attempt } => self.start(now, *unit, *attempt),
            Action::Signal { child, signal, .. } => {
                let run = self.run_of(*child);
                let run = run.ok_or_else(|| format!("{signal} to {child:?}, which is not there"))?;
                run.signals |= 1 << signal.number();
                run.forwarded |= matches!(event, Event::Forward { .. });
                Ok(())
            }
            Action::StartProbe { unit, probe, .. } => {
                ensure!(self.end_by.is_none(), "a probe of {unit:?} during the end");
                let record = self.units.get_mut(unit).ok_or("a unit that is not there")?;
                ensure!(record.run.is_some(), "a probe of {unit:?}, which does not run");
                ensure!(record.probe.is_none(), "a second probe of {unit:?}");
                record.probe = Some((*probe, false));
                Ok(())
            }
            Action::KillProbe { unit, probe } => {
                let record = self.units.get_mut(unit).ok_or("a unit that is not there")?;
                ensure!(
                    record.probe == Some((*probe, false)),
                    "{probe:?} is not there or was killed already"
                );
                record.probe = Some((*probe, true));
                Ok(())
            }
            Action::WakeAt(at) => {
                self.wake_at = Some(*at);
                Ok(())
            }
            Action::Announce(announcement) => self.announced(now, event, announcement),
            Action::Refuse { reason } => {
                ensure!(!reason.is_empty(), "refused without a reason");
                Ok(())
            }
            Action::KillEverything(signal) => {
                ensure!(self.end_by.is_some(), "a sweep without an end");
                ensure!(self.swept != Some(Signal::KILL) || *signal == Signal::KILL, "SIGTERM after SIGKILL");
                self.swept = Some(*signal);
                for run in self.units.values_mut().filter_map(|record| record.run.as_mut()) {
                    run.signals |= 1 << signal.number();
                    run.told.get_or_insert((now, KilledBy::Stop));
                }
                Ok(())
            }
            Action::PowerOff(ending) => {
                ensure!(self.swept.is_some(), "power off without a sweep");
                let agent = self.units.get(&UnitId::Agent);
                if let Some(code) = agent.and_then(|agent| agent.last_code)
                    && agent.is_some_and(|agent| agent.run.is_none() && agent.spawning.is_none())
                {
                    ensure!(
                        ending.code == code,
                        "power off with {}, but the agent's was {code}",
                        ending.code
                    );
                }
                self.off = true;
                self.count("power off");
                Ok(())
            }
        }
    }

    fn start(&mut self, now: Instant, unit: UnitId, attempt: Attempt) -> Result<(), Broken> {
        ensure!(self.end_by.is_none(), "{unit:?} starts after a stop");
        ensure!(attempt.0 > self.last_attempt, "{attempt:?} is used again");
        self.last_attempt = attempt.0;
        let record = &self.units[&unit];
        ensure!(record.run.is_none() && record.spawning.is_none(), "two processes of {unit:?}");
        for before in &record.after {
            let done = &self.units[before];
            let done = if done.once { done.succeeded } else { done.been_ready };
            ensure!(done, "{unit:?} starts before {before:?} is there");
        }
        let record = self.units.get_mut(&unit).ok_or("a unit that is not there")?;
        ensure!(!record.succeeded, "{unit:?} starts after it succeeded");
        ensure!(!record.going, "{unit:?} starts although it is to be no more");
        if record.starts > 0 && !record.asked {
            let until = record.backoff_until.ok_or_else(|| format!("{unit:?} starts again for no reason"))?;
            ensure!(until <= now, "{unit:?} starts at {now}, before its backoff ends at {until}");
            ensure!(record.restart.policy != RestartPolicy::Never, "{unit:?} restarts against its policy");
        }
        if record.asked {
            record.failures = 0;
            record.exits.clear();
        }
        record.starts += 1;
        record.asked = false;
        record.parked = false;
        record.backoff_until = None;
        record.spawning = Some(attempt);
        Ok(())
    }

    fn announced(&mut self, now: Instant, event: &Event, announcement: &Announcement) -> Result<(), Broken> {
        match announcement {
            Announcement::Unit { unit, change } => self.changed(now, event, *unit, change),
            Announcement::SetupFailed { reason } => {
                ensure!(!reason.is_empty(), "the setup failed without a reason");
                self.count("setup failed");
                Ok(())
            }
            Announcement::Lingering { until } => {
                ensure!(self.end_with_agent && *until > now, "lingers for nothing");
                self.count("lingering");
                Ok(())
            }
            Announcement::ShutdownBegan { cause, deadline, .. } => {
                ensure!(self.end_by.is_none(), "the end begins twice");
                ensure!(*cause == Cause::Requested || self.end_with_agent, "ends by itself");
                // Each of its three waits may be woken late.
                self.end_by = Some(*deadline + LATENESS * 3);
                Ok(())
            }
            Announcement::SetupDone | Announcement::Sweep { .. } => Ok(()),
        }
    }

    fn changed(&mut self, now: Instant, event: &Event, id: UnitId, change: &Change) -> Result<(), Broken> {
        // A sweep regards nobody.
        let in_order = self.end_by.is_some() && self.swept.is_none();
        if let (Change::Stopping { why: KilledBy::Stop }, true) = (change, in_order) {
            let needs_it = |(other, record): (&UnitId, &Record)| {
                let up = record.run.is_some() || record.spawning.is_some();
                record.after.contains(&id) && up && *other != id
            };
            let dependent = self.units.iter().find(|unit| needs_it(*unit));
            ensure!(
                dependent.is_none(),
                "{id:?} is stopped before {:?}, which needs it",
                dependent.map(|unit| unit.0)
            );
        }
        let record = self.units.get_mut(&id).ok_or("a unit that is not there")?;
        match change {
            Change::Exited(exit) => record.exited(now, event, exit)?,
            Change::Stopping { why } => {
                let run =
                    record.run.as_mut().ok_or_else(|| format!("{id:?} is told to end, but does not run"))?;
                ensure!(run.told.is_none(), "{id:?} is told to end twice");
                run.told = Some((now, *why));
            }
            Change::BackingOff { delay, failures } => record.backs_off(now, *delay, *failures)?,
            Change::Parked { reason } => {
                ensure!(!reason.is_empty(), "{id:?} is parked without a reason");
                ensure!(!record.parked, "{id:?} is parked twice");
                ensure!(
                    !reason.starts_with("exited") || record.ladder_is_full(now),
                    "{id:?} is parked too early"
                );
                record.parked = true;
                record.backoff_until = None;
            }
            Change::Ready => {
                ensure!(record.run.is_some(), "{id:?} is ready, but does not run");
                record.been_ready = true;
            }
            Change::Done => record.succeeded = true,
            Change::Removed => {
                ensure!(record.going, "{id:?} is gone, and nobody asked for it");
                ensure!(!record.is_up(), "{id:?} is gone, but not its process");
                self.units.remove(&id);
            }
            Change::Starting { .. }
            | Change::Started { .. }
            | Change::Status { .. }
            | Change::Leaving
            | Change::Unhealthy { .. }
            | Change::Stuck => {}
        }
        self.count(match change {
            Change::Exited(exit) => match exit.killed_by {
                KilledBy::Stop => "killed by stop",
                KilledBy::Restart => "killed by restart",
                KilledBy::Timeout => "killed by timeout",
                KilledBy::Watchdog => "killed by watchdog",
                KilledBy::Health => "killed by health",
                KilledBy::Limit => "killed by limit",
                KilledBy::Oom => "killed by oom",
                KilledBy::Itself => "killed by itself",
                KilledBy::Unknown => "killed by unknown",
            },
            Change::Parked { reason } if reason.starts_with("exited") => "parked by the ladder",
            Change::Parked { .. } => "parked",
            Change::BackingOff { .. } => "backoff",
            Change::Stuck => "stuck",
            Change::Done => "step done",
            Change::Ready => "ready",
            Change::Stopping { .. } => "stopping",
            Change::Removed => "gone",
            Change::Starting { .. } => "starting",
            Change::Started { .. } => "started",
            Change::Status { .. } | Change::Leaving | Change::Unhealthy { .. } => "said",
        });
        Ok(())
    }

    /// A person's restart of what is down starts it in the same breath.
    fn revives(event: &Event, refused: bool, actions: &[Action], before: &Status) -> Result<(), Broken> {
        let Event::Restart { unit } = event else { return Ok(()) };
        let Some(was) = before.units.iter().find(|status| status.unit == *unit) else {
            ensure!(refused, "a restart of nothing was accepted");
            return Ok(());
        };
        let down =
            matches!(was.state, UnitState::Parked { .. } | UnitState::Backoff { .. } | UnitState::Exited);
        let starts =
            actions.iter().any(|action| matches!(action, Action::Start { unit: of, .. } if of == unit));
        ensure!(!down || starts || refused, "a restart of {unit:?} was accepted and did nothing");
        Ok(())
    }

    /// What is shown agrees with what is known, and whatever waits will be woken.
    fn look(&self, now: Instant, status: &Status) -> Result<(), Broken> {
        let wake_by = |due: Instant, what: &str| match self.wake_at {
            Some(at) if at <= due => Ok(()),
            other => Err(format!("{what} waits until {due}, to be woken at {other:?}")),
        };
        match &status.phase {
            Phase::Lingering { until } => wake_by(*until, "the lingering")?,
            Phase::Stopping { deadline } => {
                ensure!(self.end_by.is_some(), "stopping, but no end has begun");
                wake_by(*deadline, "the end")?;
            }
            Phase::SetupFailed { reason } => ensure!(!reason.is_empty(), "the setup failed without a reason"),
            Phase::Setup | Phase::Up | Phase::Off => {}
        }
        ensure!(
            self.end_by.is_some() == matches!(status.phase, Phase::Stopping { .. }),
            "the end is not shown"
        );
        if let Some(end_by) = self.end_by {
            ensure!(now <= end_by, "the end should be over by {end_by}");
        }
        let agent_is_up = self.units.get(&UnitId::Agent).is_some_and(Record::is_up);
        ensure!(status.units.len() == self.units.len(), "{} units are shown", status.units.len());
        for shown in &status.units {
            let id = shown.unit;
            let record = &self.units[&id];
            ensure!(record.is_up() || !record.going, "{id:?} should be gone");
            let child = record.run.as_ref().map(|run| run.child);
            ensure!(shown.child == child, "{id:?} is shown with {:?}, but has {child:?}", shown.child);
            match &shown.state {
                UnitState::Backoff { until } => wake_by(*until, "a backoff")?,
                UnitState::Parked { reason } => {
                    ensure!(record.parked && !reason.is_empty(), "{id:?} is parked without a reason");
                }
                UnitState::Starting => {
                    ensure!(record.spawning.is_some(), "{id:?} starts, but was not asked to");
                }
                UnitState::Running | UnitState::Stopping { .. } => {
                    ensure!(child.is_some(), "{id:?} is up without a process");
                }
                UnitState::Waiting => ensure!(record.starts == 0, "{id:?} has lost its turn"),
                UnitState::Exited => {
                    ensure!(
                        self.end_by.is_some() || record.may_rest(),
                        "{id:?} should not be left at this exit"
                    );
                }
            }
            if let (Some(swept), Some(run)) = (self.swept, &record.run) {
                ensure!(run.signals & (1 << swept.number()) != 0, "{id:?} came late and was not swept");
            } else if let Some((probe, false)) = record.probe {
                let told = record.run.as_ref().is_none_or(|run| run.told.is_some());
                ensure!(!told, "{probe:?} outlives what it asks about");
            }
            if self.swept.is_none() {
                let free = !agent_is_up
                    && !self.units.values().any(|other| other.after.contains(&id) && other.is_up());
                let told = record.run.as_ref().is_none_or(|run| run.told.is_some());
                ensure!(
                    self.end_by.is_none() || !free || told,
                    "nothing needs {id:?}, and it is not told to end"
                );
                record.in_time(now).map_err(|what| format!("{id:?} {what}"))?;
            }
        }
        Ok(())
    }

    fn run_of(&mut self, child: ChildId) -> Option<&mut RunRecord> {
        self.units.values_mut().filter_map(|record| record.run.as_mut()).find(|run| run.child == child)
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }
}

fn further(setup: &[UnitId], agent: &Agent) -> Record {
    Record::new(setup, agent.restart.clone(), Duration::from_millis(agent.stop.grace_ms))
}

fn is_refusal(action: &Action) -> bool {
    matches!(action, Action::Refuse { .. })
}
