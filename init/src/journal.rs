//! What happened, in order: a bounded list of numbered events that readers follow at their own pace.

use std::{
    collections::VecDeque,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_protocol::message::{Event, What};
use tokio::sync::Notify;

/// Events kept for readers that come late. A reader that falls further behind sees a gap in the numbers.
pub(crate) const KEPT_EVENTS: usize = 1024;

/// Orphans are told of at most this often, so that a storm of them pushes nothing else out.
const ORPHAN_NEWS_EVERY: Duration = Duration::from_secs(1);

/// The events of one sandbox.
pub(crate) struct Journal {
    kept: VecDeque<Event>,
    next_seq: u64,
    orphans: OrphanNews,
    changed: Rc<Notify>,
}

/// Orphans that were reaped but not told of yet.
#[derive(Default)]
struct OrphanNews {
    untold: u64,
    told_at_ms: Option<u64>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            next_seq: 1,
            orphans: OrphanNews::default(),
            changed: Rc::new(Notify::new()),
        }
    }

    /// Notifies its waiters whenever an event was added.
    pub(crate) fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.changed)
    }

    /// Adds an event, behind the orphans that were not told of yet.
    pub(crate) fn add(&mut self, unix_ms: u64, what: What) {
        self.tell_orphans(unix_ms);
        self.push(unix_ms, what);
    }

    /// Counts reaped orphans, and tells of them unless that was done just now.
    pub(crate) fn add_orphans(&mut self, unix_ms: u64, count: u64) {
        self.orphans.untold += count;
        let pause = u64::try_from(ORPHAN_NEWS_EVERY.as_millis()).unwrap_or(u64::MAX);
        if self.orphans.told_at_ms.is_none_or(|told| unix_ms.abs_diff(told) >= pause) {
            self.tell_orphans(unix_ms);
        }
    }

    /// The first kept event whose number is greater than `seq`.
    pub(crate) fn first_after(&self, seq: u64) -> Option<&Event> {
        let oldest = self.kept.front()?.seq;
        let place = seq.saturating_add(1).saturating_sub(oldest);
        self.kept.get(usize::try_from(place).ok()?)
    }

    fn tell_orphans(&mut self, unix_ms: u64) {
        let count = std::mem::take(&mut self.orphans.untold);
        if count > 0 {
            self.orphans.told_at_ms = Some(unix_ms);
            self.push(unix_ms, What::OrphansReaped { count });
        }
    }

    fn push(&mut self, unix_ms: u64, what: What) {
        if self.kept.len() == KEPT_EVENTS {
            self.kept.pop_front();
        }
        self.kept.push_back(Event { seq: self.next_seq, unix_ms, what });
        self.next_seq += 1;
        self.changed.notify_waiters();
    }
}

/// Milliseconds since the Unix epoch on the clock of this machine.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(text: usize) -> What {
        What::Warning { message: text.to_string() }
    }

    #[test]
    fn readers_find_what_comes_behind_their_number() {
        let mut journal = Journal::new();
        assert_eq!(journal.first_after(0), None);
        journal.add(5, warning(1));
        journal.add(6, warning(2));
        assert_eq!(journal.first_after(0).unwrap().seq, 1);
        assert_eq!(journal.first_after(1).unwrap().what, warning(2));
        assert_eq!(journal.first_after(2), None);
        assert_eq!(journal.first_after(u64::MAX), None);
    }

    #[test]
    fn the_oldest_events_make_room() {
        let mut journal = Journal::new();
        for n in 0..KEPT_EVENTS + 10 {
            journal.add(0, warning(n));
        }
        assert_eq!(journal.kept.len(), KEPT_EVENTS);
        assert_eq!(journal.first_after(3).unwrap().seq, 11, "the gap shows in the number");
    }

    #[test]
    fn a_storm_of_orphans_is_one_event_a_second() {
        let mut journal = Journal::new();
        for at in 0..2_500 {
            journal.add_orphans(10_000 + at, 4);
        }
        journal.add(13_000, warning(0));
        let told: Vec<_> = journal
            .kept
            .iter()
            .filter_map(|event| match event.what {
                What::OrphansReaped { count } => Some(count),
                _ => None,
            })
            .collect();
        assert_eq!(told.len(), 4);
        assert_eq!(told.iter().sum::<u64>(), 10_000);
    }
}
