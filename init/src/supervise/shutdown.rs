//! The ordered end, and its deadlines. Whatever refuses to die, the last of them is the end.
//!
//! ```text
//! Units --all down, or time--> Term --gone, or time--> Kill --gone, or time--> power off
//! ```

use std::time::Duration;

use agent_protocol::spec::Signal;

use super::event::{Cause, Instant};

/// Longest wait after SIGTERM, and after SIGKILL, to everything that is left. What cares about its end is a unit
/// and had its grace.
const SWEEP: Duration = Duration::from_millis(500);

/// An end that has begun.
#[derive(Debug)]
pub(super) struct Shutdown {
    pub(super) cause: Cause,
    pub(super) deadline: Instant,
    sweep: Duration,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Units stop, dependents first.
    Units,
    /// Everything left got SIGTERM.
    Term { until: Instant },
    /// Everything left got SIGKILL.
    Kill { until: Instant },
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Signal everything that is left.
    Sweep(Signal),
    /// It is over.
    PowerOff,
}

impl Shutdown {
    /// An end that takes at most `within`.
    pub(super) fn new(now: Instant, within: Duration, cause: Cause) -> Self {
        let mut shutdown = Self { cause, deadline: now + within, sweep: SWEEP, stage: Stage::Units };
        shutdown.share(now);
        shutdown
    }

    /// A second request: it can only make the end come earlier.
    pub(super) fn hurry(&mut self, now: Instant, within: Duration) {
        let deadline = now + within;
        if deadline < self.deadline {
            self.deadline = deadline;
            self.share(now);
            match &mut self.stage {
                Stage::Units => {}
                Stage::Term { until } => *until = (*until).min(now + self.sweep),
                Stage::Kill { until } => *until = (*until).min(deadline),
            }
        }
    }

    /// Without asking anyone. `None` if that has been ordered already.
    pub(super) fn force(&mut self, now: Instant) -> Option<Order> {
        match self.stage {
            Stage::Units | Stage::Term { .. } => Some(self.kill(now)),
            Stage::Kill { .. } => None,
        }
    }

    /// What the time, or the units being down, calls for.
    pub(super) fn advance(&mut self, now: Instant, units_down: bool) -> Option<Order> {
        match self.stage {
            Stage::Units if units_down || self.units_until() <= now => {
                // Woken late, what follows is shortened: the deadline is a promise.
                self.stage = Stage::Term { until: (now + self.sweep).min(self.deadline) };
                Some(Order::Sweep(Signal::TERM))
            }
            Stage::Term { until } if until <= now => Some(self.kill(now)),
            Stage::Kill { until } if until <= now => Some(Order::PowerOff),
            Stage::Units | Stage::Term { .. } | Stage::Kill { .. } => None,
        }
    }

    /// Nothing is left but init.
    pub(super) fn all_gone(&self) -> Option<Order> {
        match self.stage {
            // The units' own exits are still to be reported, and a sweep will ask again.
            Stage::Units => None,
            Stage::Term { .. } | Stage::Kill { .. } => Some(Order::PowerOff),
        }
    }

    /// The signal that everything has been sent, and that latecomers are to get too.
    pub(super) fn swept_with(&self) -> Option<Signal> {
        match self.stage {
            Stage::Units => None,
            Stage::Term { .. } => Some(Signal::TERM),
            Stage::Kill { .. } => Some(Signal::KILL),
        }
    }

    pub(super) fn next_wake(&self) -> Instant {
        match self.stage {
            Stage::Units => self.units_until(),
            Stage::Term { until } | Stage::Kill { until } => until,
        }
    }

    fn kill(&mut self, now: Instant) -> Order {
        self.stage = Stage::Kill { until: (now + self.sweep).min(self.deadline) };
        Order::Sweep(Signal::KILL)
    }

    /// Both sweeps keep their time, so that a unit that takes all of it cannot take theirs.
    fn units_until(&self) -> Instant {
        Instant(self.deadline.0.saturating_sub(self.sweep * 2))
    }

    /// Of a short end the units get half and each sweep a quarter.
    fn share(&mut self, now: Instant) {
        self.sweep = SWEEP.min(self.deadline.since(now) / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    fn ending(within_ms: u64) -> Shutdown {
        Shutdown::new(at(0), Duration::from_millis(within_ms), Cause::Requested)
    }

    #[test]
    fn an_end_that_nothing_helps_is_over_at_its_deadline() {
        for within in [1, 4, 100, 1999, 2000, 20_000] {
            let mut end = ending(within);
            let mut orders = Vec::new();
            for _ in 0..3 {
                let now = end.next_wake();
                assert!(now <= at(within), "{now} is after {within} ms");
                orders.extend(end.advance(now, false));
            }
            let expected = [Order::Sweep(Signal::TERM), Order::Sweep(Signal::KILL), Order::PowerOff];
            assert_eq!(orders, expected, "within {within} ms");
        }
    }

    #[test]
    fn it_waits_for_nobody_once_everything_is_gone() {
        let mut end = ending(20_000);
        assert_eq!(end.all_gone(), None);
        assert_eq!(end.advance(at(10), true), Some(Order::Sweep(Signal::TERM)));
        assert_eq!(end.all_gone(), Some(Order::PowerOff));
    }

    #[test]
    fn force_kills_at_once_and_only_once() {
        let mut end = ending(20_000);
        assert_eq!(end.force(at(5)), Some(Order::Sweep(Signal::KILL)));
        assert_eq!(end.force(at(6)), None);
        assert_eq!(end.advance(at(504), false), None);
        assert_eq!(end.advance(at(505), false), Some(Order::PowerOff));
    }

    #[test]
    fn a_second_request_can_shorten_but_not_lengthen() {
        let mut end = ending(10_000);
        end.hurry(at(1000), Duration::from_mins(1));
        assert_eq!(end.deadline, at(10_000));
        end.hurry(at(1000), Duration::from_millis(400));
        assert_eq!(end.deadline, at(1400));
        assert_eq!(end.next_wake(), at(1200));
    }
}
