//! When memory is short, and what to do then: decided here, without a system call.
//!
//! Where memory runs out, the kernel ends the process that is largest by its own size and by a mark that is inherited. So what
//! an agent starts has the agent's mark, and the agent itself may be the largest. To mark its children they have to be found,
//! and in time. `memory.high` is the trip wire: above it the kernel counts, wakes us, and holds back whoever wants more, until
//! all are marked. Then it is taken away, for a bound that only slows down would be a sandbox that stands still.

use std::time::Duration;

use crate::supervise::Instant;

/// How often is looked at most. Files that are kept in memory are given back at the wire, as often as they are read.
const PAUSE: Duration = Duration::from_millis(250);

/// What the kernel has counted of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How often `memory.high` was reached.
    pub(super) high: u64,
    /// How many processes it has ended for want of memory.
    pub(super) kills: u64,
    /// What is counted as used now.
    pub(super) used_bytes: u64,
    /// What of it can be given back: files that are on a disk as well.
    pub(super) spare_bytes: u64,
}

/// A value of `memory.high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum High {
    /// From here on.
    At(u64),
    /// Nowhere.
    Nowhere,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Mark what the agent has started.
    pub(super) mark: bool,
    /// Set the wire.
    pub(super) high: Option<High>,
}

/// How near the end of memory is.
#[derive(Debug)]
pub(super) struct Pressure {
    max_bytes: u64,
    /// The count when the wire was set; `None` while there is none.
    armed: Option<u64>,
    /// What was counted before us.
    earlier_kills: u64,
    kills: u64,
    last_kill: Option<Instant>,
    quiet_until: Instant,
}

impl Pressure {
    /// The wire is to be set first.
    pub(super) fn new(max_bytes: u64, seen: &Seen) -> Self {
        Self {
            max_bytes,
            armed: Some(seen.high),
            earlier_kills: seen.kills,
            kills: 0,
            last_kill: None,
            quiet_until: Instant::default(),
        }
    }

    /// Where the wire is: a sixteenth below the end. What wants memory gets no further until we have looked, however fast it is.
    pub(super) fn trip_bytes(&self) -> u64 {
        self.max_bytes - self.max_bytes / 16
    }

    /// Below this nothing is short, with what can be given back left out.
    fn short_bytes(&self) -> u64 {
        self.max_bytes - self.max_bytes / 8
    }

    /// Until then news can wait.
    pub(super) fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// When to look without news.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.armed.is_none().then_some(self.quiet_until)
    }

    /// How many were ended since the beginning.
    pub(super) fn kills(&self) -> u64 {
        self.kills
    }

    /// When the last one was seen.
    pub(super) fn last_kill(&self) -> Option<Instant> {
        self.last_kill
    }

    /// Takes note of who was ended.
    pub(super) fn count_kills(&mut self, now: Instant, seen: &Seen) {
        let kills = seen.kills.saturating_sub(self.earlier_kills);
        if kills > self.kills {
            self.kills = kills;
            self.last_kill = Some(now);
        }
    }

    /// Something is new, or it is time.
    pub(super) fn look(&mut self, now: Instant, seen: &Seen) -> Orders {
        self.count_kills(now, seen);
        self.quiet_until = now + PAUSE;
        let is_short = seen.used_bytes.saturating_sub(seen.spare_bytes) >= self.short_bytes();
        match self.armed {
            // Reached by files, and they give way.
            Some(_) if !is_short => {
                self.armed = Some(seen.high);
                Orders::default()
            }
            // News of something else.
            Some(before) if seen.high == before => Orders::default(),
            Some(_) => {
                self.armed = None;
                Orders { mark: true, high: Some(High::Nowhere) }
            }
            // What was started since is not marked yet.
            None if is_short => Orders { mark: true, high: None },
            None => {
                // Set below what is used, the kernel would try to get there at once, and we would wait for it.
                let at = self.trip_bytes().max(seen.used_bytes + self.max_bytes / 64);
                if at >= self.max_bytes - self.max_bytes / 64 {
                    return Orders::default();
                }
                self.armed = Some(seen.high);
                Orders { mark: false, high: Some(High::At(at)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1600;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    fn seen(high: u64, used_bytes: u64, spare_bytes: u64) -> Seen {
        Seen { high, kills: 0, used_bytes, spare_bytes }
    }

    const NOTHING: Orders = Orders { mark: false, high: None };
    const BRACE: Orders = Orders { mark: true, high: Some(High::Nowhere) };

    #[test]
    fn children_are_marked_before_the_kernel_chooses_and_the_wire_is_set_again_afterwards() {
        let mut pressure = Pressure::new(MAX, &Seen::default());
        assert_eq!((pressure.trip_bytes(), pressure.next_look()), (1500, None));
        assert_eq!(pressure.look(at(0), &seen(3, 1500, 0)), BRACE);
        assert_eq!(pressure.next_look(), Some(at(250)), "others may be started meanwhile");
        assert_eq!(pressure.look(at(250), &seen(3, 1550, 0)), Orders { mark: true, high: None });
        // The largest is gone.
        assert_eq!(pressure.look(at(500), &seen(3, 300, 0)).high, Some(High::At(1500)));
        assert_eq!(pressure.next_look(), None);
        assert_eq!(pressure.look(at(900), &seen(4, 1500, 0)), BRACE, "and the next one");
    }

    #[test]
    fn files_that_are_kept_in_memory_are_no_want_of_it() {
        let mut pressure = Pressure::new(MAX, &Seen::default());
        assert_eq!(pressure.look(at(0), &seen(9, 1500, 1200)), NOTHING);
        assert_eq!((pressure.quiet_until(), pressure.next_look()), (at(250), None), "not at every page");
        // The same count, but something else was counted.
        assert_eq!(pressure.look(at(300), &seen(9, 1500, 0)), NOTHING);
        assert_eq!(pressure.look(at(600), &seen(10, 1500, 0)), BRACE);
    }

    #[test]
    fn the_wire_is_never_set_below_what_is_used() {
        let mut pressure = Pressure::new(MAX, &Seen::default());
        pressure.look(at(0), &seen(1, 1500, 0));
        assert_eq!(pressure.look(at(250), &seen(1, 1590, 1000)), NOTHING, "no room for it");
        assert_eq!(pressure.next_look(), Some(at(500)));
        assert_eq!(pressure.look(at(500), &seen(1, 1530, 1000)).high, Some(High::At(1555)));
    }

    #[test]
    fn kills_are_counted_from_the_beginning_on() {
        let mut pressure = Pressure::new(MAX, &Seen { kills: 7, ..Seen::default() });
        pressure.count_kills(at(1), &Seen { kills: 7, ..Seen::default() });
        assert_eq!((pressure.kills(), pressure.last_kill()), (0, None));
        pressure.look(at(2), &Seen { kills: 9, ..Seen::default() });
        assert_eq!((pressure.kills(), pressure.last_kill()), (2, Some(at(2))));
    }
}
