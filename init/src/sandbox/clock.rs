//! The time since init began, and what that is on a calendar.

use std::{cell::Cell, time::Instant as Monotonic};

use crate::{journal::unix_ms, supervise::Instant};

/// How far the clock inside may be from where we think it is before it counts as set anew.
const SET_ANEW_MS: u64 = 500;

/// Reads the clocks, so that nothing that decides has to.
pub(crate) struct Clock {
    began: Monotonic,
    began_unix_ms: Cell<u64>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Monotonic::now(), began_unix_ms: Cell::new(unix_ms()) }
    }

    /// Now, for the supervisor.
    pub(crate) fn now(&self) -> Instant {
        Instant(self.began.elapsed())
    }

    /// For the runtime's timers.
    pub(crate) fn at(&self, instant: Instant) -> tokio::time::Instant {
        (self.began + instant.0).into()
    }

    /// On the calendar of the clock inside, which may be set while we run. The same moment has the same time in
    /// events and in the status, so the two clocks are not compared anew for every millisecond.
    pub(crate) fn unix_ms(&self, instant: Instant) -> u64 {
        let began = unix_ms().saturating_sub(millis(self.now()));
        if began.abs_diff(self.began_unix_ms.get()) > SET_ANEW_MS {
            self.began_unix_ms.set(began);
        }
        self.began_unix_ms.get().saturating_add(millis(instant))
    }
}

fn millis(since_began: Instant) -> u64 {
    u64::try_from(since_began.0.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_one_time() {
        let clock = Clock::start();
        let moment = clock.now();
        let time = clock.unix_ms(moment);
        assert!(time.abs_diff(unix_ms()) < SET_ANEW_MS * 10);
        assert!((0..1000).all(|_| clock.unix_ms(moment) == time));
    }

    #[test]
    fn a_clock_that_was_set_is_believed() {
        let clock = Clock::start();
        clock.began_unix_ms.set(0);
        assert!(clock.unix_ms(clock.now()) > 1_000_000);
    }
}
