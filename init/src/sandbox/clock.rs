//! The time since init began, and what that is on a calendar.

use std::time::Instant as Monotonic;

use crate::{journal::unix_ms, supervise::Instant};

/// Reads the clocks, so that nothing that decides has to.
pub(crate) struct Clock {
    began: Monotonic,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Monotonic::now() }
    }

    /// Now, for the supervisor.
    pub(crate) fn now(&self) -> Instant {
        Instant(self.began.elapsed())
    }

    /// For the runtime's timers.
    pub(crate) fn at(&self, instant: Instant) -> tokio::time::Instant {
        (self.began + instant.0).into()
    }

    /// On the calendar of the clock inside, as it stands now: it may be set while we run.
    pub(crate) fn unix_ms(&self, instant: Instant) -> u64 {
        let ago = self.now().since(instant);
        unix_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
    }
}
