//! What is known of one unit from the outside, and the laws that concern it alone.

use std::time::Duration;

use agent_protocol::spec::{Restart, RestartPolicy, Signal};

use super::super::super::{Attempt, ChildId, Ended, Event, ExitRecord, Instant, KilledBy, ProbeId, UnitId};
use super::world::LATENESS;
use super::{Broken, ensure};

/// What is known of one unit.
#[allow(clippy::struct_excessive_bools)] // A record of separate facts, no state machine.
pub(super) struct Record {
    pub(super) once: bool,
    pub(super) after: Vec<UnitId>,
    pub(super) restart: Restart,
    pub(super) timeout: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) spawning: Option<Attempt>,
    pub(super) run: Option<RunRecord>,
    pub(super) probe: Option<(ProbeId, bool)>,
    pub(super) starts: u32,
    /// A person asked for the next start.
    pub(super) asked: bool,
    pub(super) parked: bool,
    /// A person asked for it to be no more.
    pub(super) going: bool,
    /// And without its grace.
    pub(super) killed_by: Option<Instant>,
    pub(super) backoff_until: Option<Instant>,
    pub(super) failures: u32,
    pub(super) exits: Vec<Instant>,
    pub(super) been_ready: bool,
    pub(super) succeeded: bool,
    pub(super) last_code: Option<u8>,
    pub(super) last_failed: bool,
}

pub(super) struct RunRecord {
    pub(super) child: ChildId,
    pub(super) since: Instant,
    /// Bits of the signals sent.
    pub(super) signals: u64,
    pub(super) told: Option<(Instant, KilledBy)>,
    /// Somebody outside sent it a signal through us.
    pub(super) forwarded: bool,
}

impl Record {
    pub(super) fn new(after: &[UnitId], restart: Restart, grace: Duration) -> Self {
        Self {
            once: false,
            after: after.to_vec(),
            restart,
            timeout: None,
            grace,
            spawning: None,
            run: None,
            probe: None,
            starts: 0,
            asked: false,
            parked: false,
            going: false,
            killed_by: None,
            backoff_until: None,
            failures: 0,
            exits: Vec::new(),
            been_ready: false,
            succeeded: false,
            last_code: None,
            last_failed: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.run.is_some() || self.spawning.is_some()
    }

    /// It was started, is down for good, and others wait for it.
    pub(super) fn is_an_obstacle(&self) -> bool {
        let done = if self.once { self.succeeded } else { self.been_ready };
        self.starts > 0 && !done && !self.is_up() && self.backoff_until.is_none()
    }

    pub(super) fn exited(&mut self, now: Instant, event: &Event, exit: &ExitRecord) -> Result<(), Broken> {
        let mut ran = Duration::ZERO;
        self.last_failed = !exit.ended.is_success();
        match (event, self.run.take()) {
            (Event::Exited { child, ended, oom }, Some(run)) if *child == run.child => {
                ran = now.since(run.since);
                ensure!(exit.ended == *ended, "another exit than the one that came");
                self.last_failed |= run.told.is_some();
                let why = run.told.map(|told| told.1).or(run.forwarded.then_some(KilledBy::Stop));
                let blame_is_sound = match exit.killed_by {
                    KilledBy::Stop
                    | KilledBy::Restart
                    | KilledBy::Timeout
                    | KilledBy::Watchdog
                    | KilledBy::Health => why == Some(exit.killed_by),
                    KilledBy::Oom => *oom,
                    KilledBy::Limit | KilledBy::Itself | KilledBy::Unknown => true,
                };
                ensure!(blame_is_sound, "{:?} is blamed wrongly", exit.killed_by);
                if let Ended::Signal { signal, .. } = ended {
                    let sent = run.signals & (1 << signal.number()) != 0;
                    ensure!(
                        !sent || Some(exit.killed_by) == why,
                        "we sent {signal}, but {:?}",
                        exit.killed_by
                    );
                }
            }
            (Event::SpawnFailed { .. }, None) => {}
            (other, _) => return Err(format!("an exit out of {other:?}")),
        }
        ensure!(exit.ran == ran, "it ran {ran:?}, not {:?}", exit.ran);
        if ran >= Duration::from_millis(self.restart.stable_ms) {
            self.failures = 0;
            self.exits.clear();
        }
        self.last_code = Some(exit.ended.shell_code());
        Ok(())
    }

    /// The law of backoff: the n-th wait is `initial * factor^(n-1)`, at most `max`, less at most the jitter; and
    /// there is no wait at all once the ladder is full.
    pub(super) fn backs_off(&mut self, now: Instant, delay: Duration, failures: u32) -> Result<(), Broken> {
        let law = &self.restart.backoff;
        self.failures += 1;
        ensure!(failures == self.failures, "failure {failures} should be number {}", self.failures);
        let mut longest = law.initial_ms.min(law.max_ms);
        for _ in 1..failures {
            longest = longest.saturating_mul(u64::from(law.factor)).min(law.max_ms);
        }
        let shortest = longest * 10 * u64::from(100 - law.jitter_percent);
        let (shortest, longest) = (Duration::from_micros(shortest), Duration::from_millis(longest));
        ensure!((shortest..=longest).contains(&delay), "waits {delay:?}, not {shortest:?} to {longest:?}");
        ensure!(!self.ladder_is_full(now), "should be parked");
        self.exits.push(now);
        self.backoff_until = Some(now + delay);
        Ok(())
    }

    /// Whether one more exit, now, is one too many.
    pub(super) fn ladder_is_full(&self, now: Instant) -> bool {
        let ladder = &self.restart.fast_fail;
        let Some(before) = usize::try_from(ladder.count).unwrap().checked_sub(1) else { return false };
        let first = self.exits.len().checked_sub(before).map(|i| self.exits.get(i).copied().unwrap_or(now));
        first.is_some_and(|first| now.since(first) <= Duration::from_millis(ladder.within_ms))
    }

    /// Whether the policy leaves it at its last exit.
    pub(super) fn may_rest(&self) -> bool {
        match self.restart.policy {
            _ if self.once => self.succeeded,
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => !self.last_failed,
            RestartPolicy::Never => true,
        }
    }

    /// What was told to end was killed after its grace, and a step after its time was told.
    pub(super) fn in_time(&self, now: Instant) -> Result<(), Broken> {
        let Some(run) = &self.run else { return Ok(()) };
        if let Some((told, _)) = run.told {
            let killed = run.signals & (1 << Signal::KILL.number()) != 0;
            let by = told + self.grace + LATENESS;
            let by = self.killed_by.map_or(by, |at| by.min(at + LATENESS));
            ensure!(killed || now <= by, "should have been killed by {by}");
        } else if let Some(timeout) = self.timeout {
            let by = run.since + timeout + LATENESS;
            ensure!(now <= by, "should have been told to end by {by}");
        }
        Ok(())
    }
}
