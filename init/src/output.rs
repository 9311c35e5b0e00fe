//! What steps and services wrote: a bounded ring for each, read like the agent's terminal.

use std::{collections::BTreeMap, rc::Rc};

use tokio::sync::Notify;

use crate::session::{ring::Ring, unread::Unread};

/// Output kept for each step and service.
const RING_BYTES: usize = 64 * 1024;

/// The output of all steps and services, by name.
#[derive(Default)]
pub(crate) struct Outputs(BTreeMap<String, Output>);

struct Output {
    ring: Ring,
    unread: Unread,
    changed: Rc<Notify>,
}

impl Outputs {
    /// An empty ring for each of these.
    pub(crate) fn new<'a>(units: impl Iterator<Item = &'a str>) -> Self {
        let output = || Output {
            ring: Ring::new(RING_BYTES),
            unread: Unread::default(),
            changed: Rc::new(Notify::new()),
        };
        Self(units.map(|unit| (unit.to_owned(), output())).collect())
    }

    /// Adds what a unit wrote.
    pub(crate) fn push(&mut self, unit: &str, bytes: &[u8]) {
        if let Some(output) = self.0.get_mut(unit) {
            output.ring.push(bytes);
            output.unread.kept_from(output.ring.start());
            output.changed.notify_waiters();
        }
    }

    /// A unit runs anew: what is written from now on is its own.
    pub(crate) fn begin(&mut self, unit: &str) {
        if let Some(output) = self.0.get_mut(unit) {
            output.unread.begin(output.ring.end());
        }
    }

    /// What readers of a unit's log have of it.
    pub(crate) fn unread(&mut self, unit: &str) -> Option<&mut Unread> {
        self.0.get_mut(unit).map(|output| &mut output.unread)
    }

    /// A unit's ring, and who to wait on for more.
    pub(crate) fn get(&self, unit: &str) -> Option<(&Ring, Rc<Notify>)> {
        self.0.get(unit).map(|output| (&output.ring, Rc::clone(&output.changed)))
    }
}
