//! Whose turn it is: steps one by one, then services by `after`, then the agents.

use super::event::Cause;
use super::event::UnitId;
use super::status::{Announcement, Change};
use super::unit::{Input, Unit};
use super::{SetupAnnounced, State, Supervisor};

impl Supervisor {
    /// Gives everyone a turn whose turn it is.
    pub(super) fn advance(&mut self) {
        self.let_go();
        if let State::Lingering { until } = self.state {
            if !self.agent_has_exited() {
                self.state = State::Up;
            } else if until <= self.now {
                self.end(Cause::AgentExited, None, false);
            }
        }
        if let State::Up | State::Lingering { .. } = self.state {
            self.begin_next();
            self.announce_setup();
        }
        if let State::Up = self.state
            && self.end_with_agent
            && self.agent_has_exited()
        {
            self.linger();
        }
        if let State::Ending(_) = self.state {
            self.advance_end();
        }
    }

    /// Begins every unit that waits for nothing any more.
    fn begin_next(&mut self) {
        let now = self.now;
        let (steps, rest) = self.units.split_at_mut(self.steps);
        if let Some(step) = steps.iter_mut().find(|step| !step.has_exited()) {
            if step.is_waiting() {
                step.handle(now, Input::Begin, &mut self.out);
            }
            return;
        }
        let (services, agents) = rest.split_at_mut(self.after.len());
        for (i, after) in self.after.iter().enumerate() {
            if services[i].is_waiting() && after.iter().all(|&before| services[before].has_been_ready()) {
                services[i].handle(now, Input::Begin, &mut self.out);
            }
        }
        if services.iter().all(Unit::has_been_ready) {
            for agent in agents.iter_mut().filter(|agent| agent.is_waiting()) {
                agent.handle(now, Input::Begin, &mut self.out);
            }
        }
    }

    /// Forgets the agents that were to go and have gone.
    fn let_go(&mut self) {
        let gone = self.units.extract_if(.., |unit| unit.is_going() && unit.is_down());
        for unit in gone {
            self.out.changed(unit.id(), Change::Removed);
        }
    }

    fn announce_setup(&mut self) {
        let state = match self.setup_problem() {
            Some(reason) => SetupAnnounced::Failed(reason),
            None if self.setup_is_done() => SetupAnnounced::Done,
            None => SetupAnnounced::Nothing,
        };
        if state != self.setup_announced {
            match &state {
                SetupAnnounced::Failed(reason) => {
                    self.out.announce(Announcement::SetupFailed { reason: reason.clone() });
                }
                SetupAnnounced::Done => self.out.announce(Announcement::SetupDone),
                SetupAnnounced::Nothing => {}
            }
            self.setup_announced = state;
        }
    }

    fn linger(&mut self) {
        if self.linger.is_zero() {
            self.end(Cause::AgentExited, None, false);
        } else {
            let until = self.now + self.linger;
            self.state = State::Lingering { until };
            self.out.announce(Announcement::Lingering { until });
        }
    }

    /// Why the agent will not be started unless somebody acts.
    pub(super) fn setup_problem(&self) -> Option<String> {
        self.units[..self.steps + self.after.len()].iter().find_map(Unit::obstacle)
    }

    pub(super) fn setup_is_done(&self) -> bool {
        let (steps, rest) = self.units.split_at(self.steps);
        steps.iter().all(Unit::has_exited) && rest[..self.after.len()].iter().all(Unit::has_been_ready)
    }

    pub(super) fn agent_has_exited(&self) -> bool {
        self.unit(UnitId::Agent).is_some_and(Unit::has_exited)
    }
}
