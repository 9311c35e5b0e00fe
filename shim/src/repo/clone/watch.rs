use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{CLONE_WITHIN, error::CloneError};
use crate::{
    client::signals::SignalWatch,
    env::progress::Report,
    repo::host_git::{GitError, Running},
};

/// Signals that call a clone off.
const CANCELLING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How often a clone looks up from its work.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// A clone that is over before needs no telling how far it is.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// Watches one clone: tells how far it is, and ends it when it is called off or takes too long.
pub struct Watch<'a> {
    signals: SignalWatch,
    report: &'a mut dyn Report,
    started: Instant,
}

impl<'a> Watch<'a> {
    /// Begins. Signals that end this process are held back until it is dropped.
    pub fn new(report: &'a mut dyn Report) -> Result<Self, CloneError> {
        let signals = SignalWatch::new(&CANCELLING)
            .map_err(|error| CloneError::io("blocking signals")(error.into()))?;
        Ok(Self { signals, report, started: Instant::now() })
    }

    /// When it has taken too long.
    pub(crate) fn until(&self) -> Instant {
        self.started + CLONE_WITHIN
    }

    /// Waits for git, and tells what it says about how far it is.
    pub(crate) fn wait(&mut self, running: &mut Running) -> Result<(), CloneError> {
        running.wait_watched(TICK, |said| self.look(said))
    }

    /// Tells how far it is, and fails if it was called off.
    pub(crate) fn look(&mut self, said: &str) -> Result<(), CloneError> {
        if let Some(signal) = self.signals.next() {
            return Err(CloneError::Cancelled(signal));
        }
        let now = Instant::now();
        if now >= self.until() {
            return Err(GitError::Deadline { what: "clone" }.into());
        }
        if now.saturating_duration_since(self.started) >= QUIET_FOR && !said.is_empty() {
            self.report.show(&format!("cloning: {said}"), now);
        }
        Ok(())
    }

    /// It is over.
    pub(crate) fn done(&mut self) {
        self.report.done();
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.report.done();
    }
}
