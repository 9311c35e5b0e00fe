//! Where one `handle` collects what it asks for, and the numbers that must never repeat.

use agent_protocol::spec::Signal;

use super::backoff::Random;
use super::event::{Action, Attempt, ChildId, ProbeId, UnitId};
use super::status::{Announcement, Change};

/// Handed through everything that decides.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) actions: Vec<Action>,
    pub(super) random: Random,
    attempts: u64,
    probes: u64,
}

impl Outbox {
    pub(super) fn new(seed: u64) -> Self {
        Self { actions: Vec::new(), random: Random::new(seed), attempts: 0, probes: 0 }
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn announce(&mut self, announcement: Announcement) {
        self.push(Action::Announce(announcement));
    }

    pub(super) fn changed(&mut self, unit: UnitId, change: Change) {
        self.announce(Announcement::Unit { unit, change });
    }

    pub(super) fn refuse(&mut self, reason: impl Into<String>) {
        self.push(Action::Refuse { reason: reason.into() });
    }

    pub(super) fn signal(&mut self, child: ChildId, signal: Signal, group: bool) {
        self.push(Action::Signal { child, signal, group });
    }

    pub(super) fn new_attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }

    pub(super) fn new_probe(&mut self) -> ProbeId {
        self.probes += 1;
        ProbeId(self.probes)
    }
}
