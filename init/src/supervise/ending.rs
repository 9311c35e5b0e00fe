//! The end: dependents before those they depend on, then the sweeps, then power off.

use std::time::Duration;

use agent_protocol::spec::Signal;

use super::event::{Action, Cause, Ending, UnitId};
use super::shutdown::{Order, Shutdown};
use super::status::Announcement;
use super::unit::{Input, Unit};
use super::{SetupAnnounced, State, Supervisor};

impl Supervisor {
    pub(super) fn end(&mut self, cause: Cause, within: Option<Duration>, force: bool) {
        let within = within.unwrap_or(self.total).min(self.total);
        let mut shutdown = Shutdown::new(self.now, within, cause);
        self.out.announce(Announcement::ShutdownBegan { cause, force, deadline: shutdown.deadline });
        let order = if force { shutdown.force(self.now) } else { None };
        self.state = State::Ending(shutdown);
        self.tell_all(&Input::Last);
        if let Some(order) = order {
            self.obey(order);
        }
    }

    /// Stops whom nothing depends on any more, and goes on to the sweeps when it is time.
    pub(super) fn advance_end(&mut self) {
        self.halt_the_free();
        let units_down = self.units.iter().all(Unit::is_down);
        if let State::Ending(shutdown) = &mut self.state
            && let Some(order) = shutdown.advance(self.now, units_down)
        {
            self.obey(order);
        }
    }

    fn halt_the_free(&mut self) {
        let (steps, rest) = self.units.split_at_mut(self.steps);
        let (services, agents) = rest.split_at_mut(self.after.len());
        for unit in steps.iter_mut().chain(agents.iter_mut()) {
            unit.handle(self.now, Input::Halt, &mut self.out);
        }
        let agents_are_down = agents.iter().all(Unit::is_down);
        for i in 0..services.len() {
            let needs_it = |(j, after): (usize, &Vec<usize>)| after.contains(&i) && !services[j].is_down();
            if agents_are_down && !self.after.iter().enumerate().any(needs_it) {
                services[i].handle(self.now, Input::Halt, &mut self.out);
            }
        }
    }

    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Sweep(signal) => {
                self.out.announce(Announcement::Sweep { signal });
                self.sweep(signal);
            }
            Order::PowerOff => self.power_off(),
        }
    }

    pub(super) fn sweep(&mut self, signal: Signal) {
        self.out.push(Action::KillEverything(signal));
        self.tell_all(&Input::Swept(signal));
    }

    fn power_off(&mut self) {
        let State::Ending(shutdown) = &self.state else { return };
        let cause = shutdown.cause;
        let agent = self.unit(UnitId::Agent);
        let code = match agent {
            // It did not even die of SIGKILL, or nobody could tell us.
            Some(agent) if !agent.is_down() => 137,
            Some(agent) if agent.was_started() => {
                agent.last_exit().map_or(0, |record| record.ended.shell_code())
            }
            Some(_) | None => u8::from(matches!(self.setup_announced, SetupAnnounced::Failed(_))),
        };
        let agent = agent.and_then(Unit::last_exit).cloned();
        self.out.push(Action::PowerOff(Ending { code, agent, cause }));
        self.state = State::Off;
    }
}
