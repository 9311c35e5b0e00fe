//! A world that obeys the supervisor's actions, more or less promptly, as real processes would.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use agent_protocol::spec::Signal;

use super::super::super::{
    Action, Attempt, ChildId, Ended, Event, Instant, Notice, ProbeId, SpawnError, SpawnErrorKind, UnitId,
};
use super::dice::Dice;
use super::specs::{FURTHER, further};

/// How late a timer may come; the laws allow as much.
pub(super) const LATENESS: Duration = Duration::from_millis(20);

pub(super) struct World {
    pub(super) dice: Dice,
    units: Vec<UnitId>,
    /// The number of the next agent to be added.
    number: u32,
    /// What will happen, by time; the number keeps what happens at the same time in order.
    agenda: BTreeMap<(Instant, u64), Happening>,
    wake_at: Option<Instant>,
    numbers: u64,
    children: BTreeMap<ChildId, Child>,
    swept: bool,
}

#[allow(clippy::struct_excessive_bools)] // Habits and facts, each by itself.
struct Child {
    alive: bool,
    /// It will end by itself or by a signal, whichever comes first.
    dying: bool,
    ignores_term: bool,
    /// It hangs in the kernel.
    unkillable: bool,
}

enum Happening {
    Spawn { unit: UnitId, attempt: Attempt },
    Death { child: ChildId, ended: Ended, oom: bool },
    Tell(Event),
    Watchdog { child: ChildId, every: Duration },
    Gone,
    Timer { asked: Instant },
}

impl World {
    pub(super) fn new(dice: Dice, units: Vec<UnitId>) -> Self {
        let (agenda, children) = (BTreeMap::new(), BTreeMap::new());
        let number = units.iter().filter(|unit| matches!(unit, UnitId::Further(_))).count();
        let number = u32::try_from(number).unwrap();
        Self { dice, units, number, agenda, wake_at: None, numbers: 0, children, swept: false }
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.agenda.first_key_value().map(|(key, _)| key.0)
    }

    /// Lets the next thing happen; not all of it is noticed.
    pub(super) fn happen(&mut self) -> Option<Event> {
        let ((now, _), happening) = self.agenda.pop_first()?;
        match happening {
            Happening::Spawn { unit, attempt } => Some(self.spawn(now, unit, attempt)),
            Happening::Death { child, ended, oom } => {
                let was_alive = std::mem::take(&mut self.children.get_mut(&child)?.alive);
                if self.swept && was_alive {
                    self.look_for_survivors(now);
                }
                was_alive.then_some(Event::Exited { child, ended, oom })
            }
            Happening::Tell(event) => Some(event),
            Happening::Watchdog { child, every } => {
                if !self.children.get(&child)?.alive || self.dice.one_in(10) {
                    return None;
                }
                self.plan(now + every, Happening::Watchdog { child, every });
                Some(Event::Notify { child, notice: Notice::Watchdog })
            }
            Happening::Gone => {
                self.children.values().all(|child| !child.alive).then_some(Event::AllProcessesGone)
            }
            Happening::Timer { asked } => (self.wake_at == Some(asked)).then(|| {
                self.wake_at = None;
                Event::Timer
            }),
        }
    }

    pub(super) fn obey(&mut self, now: Instant, action: &Action) {
        match action {
            Action::Start { unit, attempt } => {
                // Rarely the answer never comes.
                if !self.dice.one_in(300) {
                    let after = if self.dice.one_in(3) { self.dice.time(2_000) } else { Duration::ZERO };
                    self.plan(now + after, Happening::Spawn { unit: *unit, attempt: *attempt });
                }
            }
            Action::Signal { child, signal, .. } => self.signal(now, *child, *signal),
            Action::StartProbe { unit, probe, .. } => {
                let ok = !self.dice.one_in(3);
                // Some hang until they are killed.
                let after = if self.dice.one_in(5) { Duration::from_hours(1) } else { self.dice.time(300) };
                self.plan_result(now + after, *unit, *probe, ok);
            }
            Action::KillProbe { unit, probe } => {
                // And some even then.
                if !self.dice.one_in(50) {
                    let after = self.dice.time(50);
                    self.plan_result(now + after, *unit, *probe, false);
                }
            }
            Action::WakeAt(at) => {
                self.wake_at = Some(*at);
                // A timer in the past comes at once.
                let late = if self.dice.one_in(5) { self.dice.time(20) } else { Duration::ZERO };
                self.plan((*at).max(now) + late, Happening::Timer { asked: *at });
            }
            Action::KillEverything(signal) => {
                self.swept = true;
                let children: Vec<_> = self.children.keys().copied().collect();
                for child in children {
                    self.signal(now, child, *signal);
                }
                self.look_for_survivors(now);
            }
            Action::Announce(_) | Action::Refuse { .. } | Action::PowerOff(_) => {}
        }
    }

    /// What a person, an orphan or a stale message may do at any time.
    pub(super) fn interfere(&mut self) -> Event {
        let unit = if self.units.is_empty() { UnitId::Agent } else { self.dice.pick(&self.units.clone()) };
        let newest = u64::try_from(self.children.len()).unwrap();
        let child = ChildId(self.dice.up_to(newest + 1));
        match self.dice.up_to(37) {
            0..=7 => Event::Restart { unit },
            8..=10 => Event::StopUnit { unit },
            11 => Event::Stop { within: Some(self.dice.time(30_000)), force: self.dice.one_in(3) },
            12 => Event::Stop { within: None, force: self.dice.one_in(3) },
            13..=15 => Event::Timer,
            16..=18 => Event::ViewerSawExit,
            19 | 20 => Event::Notify { child, notice: Notice::Ready },
            21 => Event::Notify { child, notice: Notice::WatchdogTrigger },
            22 | 23 => Event::Notify { child, notice: Notice::Status("x".to_owned()) },
            24 => Event::ProbeResult { unit, probe: ProbeId(self.dice.up_to(3)), ok: false },
            25..=27 => self.outsider_kills(child),
            28 => Event::Forward { signal: Signal::TERM, group: self.dice.one_in(2) },
            32 | 33 => self.add(),
            34..=36 => Event::Remove { unit, force: self.dice.one_in(3) },
            // True only of an end, and then the world says so itself.
            29 if !self.swept => Event::AllProcessesGone,
            _orphan => Event::Exited { child: ChildId(1_000_000), ended: Ended::Code(0), oom: false },
        }
    }

    fn add(&mut self) -> Event {
        let number = self.number;
        self.number += 1;
        self.units.push(UnitId::Further(number));
        let name = self.dice.pick(&FURTHER).to_owned();
        Event::Add { number, name, agent: Rc::new(further(&mut self.dice)) }
    }

    fn spawn(&mut self, now: Instant, unit: UnitId, attempt: Attempt) -> Event {
        if self.dice.one_in(15) {
            let kind = self.dice.pick(&[
                SpawnErrorKind::NotFound,
                SpawnErrorKind::NotExecutable,
                SpawnErrorKind::Limit,
            ]);
            return Event::SpawnFailed { unit, attempt, error: SpawnError { kind, message: String::new() } };
        }
        self.numbers += 1;
        let child = ChildId(u64::try_from(self.children.len()).unwrap() + 1);
        let (ignores_term, unkillable) = (self.dice.one_in(6), self.dice.one_in(15));
        self.children.insert(child, Child { alive: true, dying: false, ignores_term, unkillable });
        let is_step = matches!(unit, UnitId::Step(_));
        // Most lives are short, to see many of them.
        let life = match self.dice.up_to(3) {
            _step if is_step => self.dice.time(1_000),
            0 => self.dice.time(50),
            1 | 2 => self.dice.time(20_000),
            _long => Duration::from_hours(1),
        };
        // Most setups succeed, or there would be few agents.
        let (ended, oom) =
            if is_step && !self.dice.one_in(8) { (Ended::Code(0), false) } else { self.natural_end() };
        self.plan(now + life, Happening::Death { child, ended, oom });
        for notice in [Notice::Ready, Notice::Status("hello".to_owned()), Notice::Stopping] {
            if self.dice.one_in(2) {
                let after = self.dice.time(4_000);
                self.plan(now + after, Happening::Tell(Event::Notify { child, notice }));
            }
        }
        if self.dice.one_in(2) {
            let after = self.dice.time(4_000);
            self.plan(now + after, Happening::Tell(Event::FirstOutput { child }));
        }
        if self.dice.one_in(3) {
            let every = Duration::from_millis(600);
            self.plan(now + every, Happening::Watchdog { child, every });
        }
        Event::Started { unit, attempt, child }
    }

    fn natural_end(&mut self) -> (Ended, bool) {
        match self.dice.up_to(9) {
            0..=3 => (Ended::Code(0), false),
            4..=6 => (Ended::Code(1), false),
            7 => (by(Signal::KILL), true),
            8 => (by("SEGV".parse().unwrap()), false),
            _limit => (by("XCPU".parse().unwrap()), false),
        }
    }

    fn signal(&mut self, now: Instant, id: ChildId, signal: Signal) {
        let Some(child) = self.children.get_mut(&id).filter(|child| child.alive) else { return };
        let (after, ended) = if signal == Signal::KILL {
            if child.unkillable {
                return;
            }
            (self.dice.time(5), by(signal))
        } else {
            if signal == Signal::CONT || child.ignores_term || std::mem::replace(&mut child.dying, true) {
                return;
            }
            // Around the grace: some make it, some do not.
            (self.dice.time(6_000), if self.dice.one_in(2) { by(signal) } else { Ended::Code(0) })
        };
        self.plan(now + after, Happening::Death { child: id, ended, oom: false });
    }

    fn outsider_kills(&mut self, child: ChildId) -> Event {
        match self.children.get_mut(&child) {
            Some(victim) if victim.alive && !self.swept => {
                victim.alive = false;
                Event::Exited { child, ended: by(Signal::KILL), oom: false }
            }
            // It is no more, or never was: an exit of something else is all that can be seen.
            Some(_) | None => {
                Event::Exited { child: ChildId(2_000_000), ended: by(Signal::KILL), oom: false }
            }
        }
    }

    fn look_for_survivors(&mut self, now: Instant) {
        self.plan(now, Happening::Gone);
    }

    fn plan_result(&mut self, at: Instant, unit: UnitId, probe: ProbeId, ok: bool) {
        self.plan(at, Happening::Tell(Event::ProbeResult { unit, probe, ok }));
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        self.numbers += 1;
        self.agenda.insert((at, self.numbers), happening);
    }
}

fn by(signal: Signal) -> Ended {
    Ended::Signal { signal, core_dumped: false }
}
