//! Decides when work is brought home and when it is kept in a snapshot. Does nothing itself and reads no clock.
//!
//! Two lanes, one for each kind of job, with one job at most under way in each:
//!
//! ```text
//!   at rest --wanted--> under way --well--> at rest, or again if it was wanted meanwhile
//!                                 --badly--> tried again, later and later
//! ```
//!
//! A job looks at what there is when it begins. So what happens while it is under way is a reason for one more, and any
//! number of reasons are one.

use std::time::{Duration, Instant};

use crate::sandbox::record::SyncMode;

/// Before a job that failed is tried again, for the first time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The same after many failures.
const LAST_RETRY: Duration = Duration::from_mins(5);

/// A job is followed by a pause of so many times as it took: whatever happens inside, the host is not kept busy with it.
const PAUSE_FACTOR: u32 = 2;

/// But by none longer than this.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What is done for a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The work is brought home.
    Pull,
    /// The working tree is kept.
    Snapshot,
}

/// What is wanted for this sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) sync: SyncMode,
    /// How often while something is done; never, if absent.
    pub(super) snapshot_every: Option<Duration>,
}

/// Everything that can be a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobEvent {
    /// The agent was started.
    Began,
    /// A monitor goes on for one that was killed: nobody knows what was missed.
    Adopted {
        /// Whether something was done when it was last told.
        active: bool,
    },
    /// Refs inside may have changed.
    RefsChanged,
    /// Nothing is done inside.
    Quiet,
    /// Something is done.
    Active,
    /// The agent has ended; it may be started again.
    AgentEnded,
    /// A job has ended.
    Finished {
        kind: Kind,
        /// Whether it did what it was there for.
        ok: bool,
    },
    /// A time may have come.
    Timer,
    /// The sandbox has ended.
    Over,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobAction {
    /// Begin a job of this kind. Each is answered by one [`JobEvent::Finished`].
    Start(Kind),
}

/// The jobs of one sandbox.
#[derive(Debug)]
pub(super) struct Jobs {
    policy: Policy,
    pull: Lane,
    snapshot: Lane,
    /// The next snapshot while something is done.
    next_snapshot: Option<Instant>,
    /// It became quiet: a snapshot comes first, so that it comes home too.
    pull_behind_snapshot: bool,
    over: bool,
    random: u64,
}

#[derive(Debug)]
struct Lane {
    under_way: Option<Instant>,
    wanted: bool,
    not_before: Option<Instant>,
    failures: u32,
}

impl Jobs {
    /// Nothing is wanted yet. The seed is for the waits, so that many sandboxes with one trouble do not try all at once.
    pub(super) fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            pull: Lane::new(),
            snapshot: Lane::new(),
            next_snapshot: None,
            pull_behind_snapshot: false,
            over: false,
            // The generator stays at 0 once it is there.
            random: seed | 1,
        }
    }

    /// Takes a reason, and says what to begin.
    pub(super) fn handle(&mut self, now: Instant, event: JobEvent) -> Vec<JobAction> {
        self.note(now, event);
        if self.over {
            return Vec::new();
        }
        if self.next_snapshot.is_some_and(|at| at <= now) {
            self.snapshot.wanted = true;
            self.next_snapshot = self.policy.snapshot_every.map(|every| now + every);
        }
        let lanes = [(Kind::Pull, &mut self.pull), (Kind::Snapshot, &mut self.snapshot)];
        lanes
            .into_iter()
            .filter_map(|(kind, lane)| lane.begin(now).then_some(JobAction::Start(kind)))
            .collect()
    }

    /// When to come back with [`JobEvent::Timer`]; never, where nothing is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        [self.pull.due(), self.snapshot.due(), self.next_snapshot].into_iter().flatten().min()
    }

    /// When a job that failed is tried again.
    pub(super) fn next_try(&self, kind: Kind) -> Option<Instant> {
        let lane = self.lane(kind);
        if self.over || lane.failures == 0 { None } else { lane.due() }
    }

    /// How often in a row it has failed.
    pub(super) fn failures(&self, kind: Kind) -> u32 {
        self.lane(kind).failures
    }

    fn lane(&self, kind: Kind) -> &Lane {
        match kind {
            Kind::Pull => &self.pull,
            Kind::Snapshot => &self.snapshot,
        }
    }

    fn note(&mut self, now: Instant, event: JobEvent) {
        let sync = self.policy.sync;
        let snapshots = self.policy.snapshot_every;
        match event {
            JobEvent::Began => {
                self.pull.wanted |= sync == SyncMode::AutoCommit;
                self.next_snapshot = snapshots.map(|every| now + every);
            }
            JobEvent::Adopted { active } => {
                self.pull.wanted |= sync != SyncMode::Manual;
                self.next_snapshot = snapshots.filter(|_| active).map(|every| now + every);
            }
            JobEvent::RefsChanged => self.pull.wanted |= sync == SyncMode::AutoCommit,
            JobEvent::Active => self.next_snapshot = snapshots.map(|every| now + every),
            JobEvent::Quiet => {
                self.next_snapshot = None;
                self.snapshot.wanted |= snapshots.is_some();
                if sync == SyncMode::AutoIdle {
                    // One that is in trouble holds nothing up.
                    if snapshots.is_some() && self.snapshot.failures == 0 {
                        self.pull_behind_snapshot = true;
                    } else {
                        self.pull.wanted = true;
                    }
                }
            }
            JobEvent::AgentEnded => self.snapshot.wanted |= snapshots.is_some(),
            JobEvent::Finished { kind, ok } => {
                let jitter = self.jitter();
                match kind {
                    Kind::Pull => self.pull.finished(now, ok, jitter),
                    Kind::Snapshot => {
                        self.snapshot.finished(now, ok, jitter);
                        // The one that was under way may be older than the quiet; then one more comes first.
                        if !ok || !self.snapshot.wanted {
                            self.pull.wanted |= std::mem::take(&mut self.pull_behind_snapshot);
                        }
                    }
                }
            }
            JobEvent::Timer => {}
            JobEvent::Over => self.over = true,
        }
    }

    /// A part of 256, from a half to the whole (xorshift).
    fn jitter(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        128 + u32::try_from(self.random >> 32 & 127).unwrap_or(0)
    }
}

impl Lane {
    const fn new() -> Self {
        Self { under_way: None, wanted: false, not_before: None, failures: 0 }
    }

    fn due(&self) -> Option<Instant> {
        if self.wanted && self.under_way.is_none() { self.not_before } else { None }
    }

    fn begin(&mut self, now: Instant) -> bool {
        if !self.wanted || self.under_way.is_some() || self.not_before.is_some_and(|at| at > now) {
            return false;
        }
        self.wanted = false;
        self.under_way = Some(now);
        true
    }

    fn finished(&mut self, now: Instant, ok: bool, jitter: u32) {
        let Some(began) = self.under_way.take() else { return };
        let took = now.saturating_duration_since(began);
        if ok {
            self.failures = 0;
            self.not_before = Some(now + (took * PAUSE_FACTOR).min(LONGEST_PAUSE));
        } else {
            self.failures = self.failures.saturating_add(1);
            self.wanted = true;
            let doubled = FIRST_RETRY.saturating_mul(1 << (self.failures - 1).min(16));
            self.not_before = Some(now + doubled.min(LAST_RETRY) * jitter / 256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Policy = Policy { sync: SyncMode::AutoCommit, snapshot_every: None };
    const IDLE: Policy = Policy { sync: SyncMode::AutoIdle, snapshot_every: None };
    const EVERY: Duration = Duration::from_mins(1);
    const START_PULL: [JobAction; 1] = [JobAction::Start(Kind::Pull)];
    const START_SNAPSHOT: [JobAction; 1] = [JobAction::Start(Kind::Snapshot)];

    fn done(kind: Kind, ok: bool) -> JobEvent {
        JobEvent::Finished { kind, ok }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_change_is_pulled_at_once_and_any_number_meanwhile_is_one_more() {
        let (mut jobs, now) = (Jobs::new(COMMIT, 1), Instant::now());
        assert_eq!(jobs.handle(now, JobEvent::RefsChanged), START_PULL);
        assert_eq!(jobs.due(), None);
        for _ in 0..100 {
            assert_eq!(jobs.handle(now, JobEvent::RefsChanged), []);
        }
        assert_eq!(jobs.handle(now + ms(50), done(Kind::Pull, true)), []);
        assert_eq!(jobs.due(), Some(now + ms(150)), "a pause of twice its time");
        assert_eq!(jobs.handle(now + ms(150), JobEvent::Timer), START_PULL);
        assert_eq!(jobs.handle(now + ms(160), done(Kind::Pull, true)), []);
        assert_eq!(jobs.due(), None, "nothing is left to do");
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_and_no_more_often_for_new_reasons() {
        let (mut jobs, mut now) = (Jobs::new(COMMIT, 1), Instant::now());
        assert_eq!(jobs.handle(now, JobEvent::RefsChanged), START_PULL);
        for time in 0..20 {
            assert_eq!(jobs.handle(now, done(Kind::Pull, false)), []);
            assert_eq!(jobs.failures(Kind::Pull), time + 1);
            let next = jobs.next_try(Kind::Pull).unwrap();
            let whole = FIRST_RETRY.saturating_mul(1 << time).min(LAST_RETRY);
            assert!((whole / 2..=whole).contains(&(next - now)), "{time}: {:?}", next - now);
            assert_eq!(jobs.handle(now, JobEvent::RefsChanged), []);
            now = next;
            assert_eq!(jobs.handle(now, JobEvent::Timer), START_PULL);
        }
        assert_eq!(jobs.handle(now, done(Kind::Pull, true)), []);
        assert_eq!((jobs.failures(Kind::Pull), jobs.due()), (0, None));
        assert_eq!(jobs.handle(now, JobEvent::RefsChanged), START_PULL);
    }

    #[test]
    fn each_mode_has_its_reasons() {
        let now = Instant::now();
        for (sync, event, pulls) in [
            (SyncMode::Manual, JobEvent::RefsChanged, false),
            (SyncMode::Manual, JobEvent::Quiet, false),
            (SyncMode::Manual, JobEvent::Adopted { active: true }, false),
            (SyncMode::AutoCommit, JobEvent::Began, true),
            (SyncMode::AutoCommit, JobEvent::Quiet, false),
            (SyncMode::AutoCommit, JobEvent::Adopted { active: false }, true),
            (SyncMode::AutoIdle, JobEvent::Began, false),
            (SyncMode::AutoIdle, JobEvent::RefsChanged, false),
            (SyncMode::AutoIdle, JobEvent::Quiet, true),
            (SyncMode::AutoIdle, JobEvent::Adopted { active: true }, true),
        ] {
            let actions = Jobs::new(Policy { sync, snapshot_every: None }, 1).handle(now, event);
            assert_eq!(actions == START_PULL, pulls, "{sync:?} {event:?}");
        }
    }

    #[test]
    fn snapshots_are_taken_while_something_is_done_when_it_is_quiet_and_when_the_agent_ends() {
        let policy = Policy { sync: SyncMode::Manual, snapshot_every: Some(EVERY) };
        let (mut jobs, now) = (Jobs::new(policy, 1), Instant::now());
        assert_eq!(jobs.handle(now, JobEvent::Began), []);
        for time in 1..4 {
            assert_eq!(jobs.due(), Some(now + EVERY * time));
            assert_eq!(jobs.handle(now + EVERY * time, JobEvent::Timer), START_SNAPSHOT);
            assert_eq!(jobs.handle(now + EVERY * time, done(Kind::Snapshot, true)), []);
        }
        let now = now + EVERY * 4;
        assert_eq!(jobs.handle(now, JobEvent::Quiet), START_SNAPSHOT);
        assert_eq!(jobs.handle(now, done(Kind::Snapshot, true)), []);
        assert_eq!(jobs.due(), None, "nothing at rest");
        assert_eq!(jobs.handle(now, JobEvent::Active), []);
        assert_eq!(jobs.due(), Some(now + EVERY));
        assert_eq!(jobs.handle(now, JobEvent::AgentEnded), START_SNAPSHOT);
    }

    #[test]
    fn what_is_kept_when_it_becomes_quiet_comes_home_too() {
        let policy = Policy { snapshot_every: Some(EVERY), ..IDLE };
        let (mut jobs, now) = (Jobs::new(policy, 1), Instant::now());
        assert_eq!(jobs.handle(now, JobEvent::Quiet), START_SNAPSHOT);
        assert_eq!(jobs.handle(now, done(Kind::Snapshot, true)), START_PULL);
        assert_eq!(jobs.handle(now, done(Kind::Pull, true)), []);
        assert_eq!(jobs.handle(now, JobEvent::Quiet), START_SNAPSHOT);
        assert_eq!(jobs.handle(now, done(Kind::Snapshot, false)), START_PULL, "work goes first");
        assert_eq!(jobs.handle(now, done(Kind::Pull, true)), []);
        assert_eq!(jobs.handle(now, JobEvent::Quiet), START_PULL);
    }

    #[test]
    fn nothing_begins_once_it_is_over() {
        let (mut jobs, now) = (Jobs::new(COMMIT, 1), Instant::now());
        assert_eq!(jobs.handle(now, JobEvent::Over), []);
        assert_eq!(jobs.handle(now, JobEvent::RefsChanged), []);
        assert_eq!(jobs.due(), None);
    }

    /// Whatever happens in whichever order: never two of a kind at once; behind each reason there is a job that begins
    /// later and goes well; and then there is nothing left to wait for.
    #[test]
    fn whatever_happens_no_change_is_lost_and_no_two_run_at_once() {
        for seed in 1..5_000_u64 {
            Life::new(seed).run();
        }
    }

    /// One sandbox in virtual time.
    struct Life {
        jobs: Jobs,
        policy: Policy,
        random: u64,
        now: Instant,
        began: Instant,
        /// When those under way will end.
        ends: [Option<Instant>; 2],
        /// Reasons that no job has begun behind yet; and those that a job under way is for.
        unmet: [bool; 2],
        meeting: [bool; 2],
        started: u32,
    }

    impl Life {
        fn new(seed: u64) -> Self {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            random |= 1;
            let sync = match seed % 3 {
                0 => SyncMode::Manual,
                1 => SyncMode::AutoCommit,
                _ => SyncMode::AutoIdle,
            };
            let policy = Policy { sync, snapshot_every: seed.is_multiple_of(2).then_some(EVERY) };
            let now = Instant::now();
            Self {
                jobs: Jobs::new(policy, seed),
                policy,
                random,
                now,
                began: now,
                ends: [None; 2],
                unmet: [false; 2],
                meeting: [false; 2],
                started: 0,
            }
        }

        #[allow(clippy::cast_possible_truncation)] // It is small.
        fn dice(&mut self, sides: u64) -> usize {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            (self.random % sides) as usize
        }

        fn run(mut self) {
            self.tell(JobEvent::Began);
            for _ in 0..60 {
                let pause = ms([0, 1, 10, 300, 20_000, 90_000][self.dice(6)]);
                self.pass(pause, true);
                let event = match self.dice(6) {
                    0 | 1 => JobEvent::RefsChanged,
                    2 => JobEvent::Quiet,
                    3 => JobEvent::Active,
                    4 => JobEvent::AgentEnded,
                    _ => JobEvent::Timer,
                };
                self.tell(event);
            }
            self.tell(JobEvent::Quiet);
            // From here on nothing fails.
            self.pass(Duration::from_hours(1), false);
            assert_eq!(self.unmet, [false; 2], "a change was lost after {:?}", self.now - self.began);
            assert_eq!((self.ends, self.jobs.due()), ([None; 2], None), "something is left");
            let most = 60 * 6 + (self.now - self.began).as_secs() / EVERY.as_secs();
            assert!(u64::from(self.started) <= most, "{} of {most}", self.started);
        }

        /// Lets time pass, and what is due in it happen.
        fn pass(&mut self, time: Duration, may_fail: bool) {
            let end = self.now + time;
            loop {
                let next = self.ends.into_iter().flatten().chain(self.jobs.due()).min();
                let Some(at) = next.filter(|at| *at <= end) else { break };
                self.now = at.max(self.now);
                for kind in [Kind::Pull, Kind::Snapshot] {
                    if self.ends[kind as usize].is_some_and(|end| end <= self.now) {
                        self.ends[kind as usize] = None;
                        let ok = !may_fail || self.dice(3) > 0;
                        let meant = std::mem::take(&mut self.meeting[kind as usize]);
                        self.unmet[kind as usize] |= meant && !ok;
                        self.tell(done(kind, ok));
                    }
                }
                self.tell(JobEvent::Timer);
            }
            self.now = end;
        }

        fn tell(&mut self, event: JobEvent) {
            let sync = self.policy.sync;
            let is_reason = match event {
                JobEvent::RefsChanged => sync == SyncMode::AutoCommit,
                JobEvent::Quiet => sync == SyncMode::AutoIdle,
                _ => false,
            };
            self.unmet[Kind::Pull as usize] |= is_reason;
            let keeps = matches!(event, JobEvent::Quiet | JobEvent::AgentEnded);
            self.unmet[Kind::Snapshot as usize] |= keeps && self.policy.snapshot_every.is_some();
            for JobAction::Start(kind) in self.jobs.handle(self.now, event) {
                assert_eq!(self.ends[kind as usize], None, "two at once");
                assert!(kind != Kind::Pull || sync != SyncMode::Manual);
                self.started += 1;
                let took = ms([1, 40, 3_000, 40_000][self.dice(4)]);
                self.ends[kind as usize] = Some(self.now + took);
                self.meeting[kind as usize] |= std::mem::take(&mut self.unmet[kind as usize]);
            }
        }
    }
}
