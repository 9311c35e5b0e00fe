//! Decides when it is quiet. Makes no system call and reads no clock.
//!
//! ```text
//!   Resting --output, a command--> Woken --told--> Active --nothing for long enough, little processor time--> Resting
//! ```
//!
//! Output and commands tell themselves. Processor time has to be measured, so it is measured twice: some time after the last
//! output, and at the end of the wait. At rest there is no timer: who computes without a word goes unnoticed until it says
//! something.

use std::time::Duration;

use crate::supervise::Instant;

/// More than this part of one processor is work.
const NOTABLE_PART: u32 = 20;

/// What the clock of processor times cannot tell apart from nothing.
const TICKS: Duration = Duration::from_millis(20);

/// The part of the wait that has to pass before processor time is looked at: while output comes all the time it never is.
const FIRST_LOOK: u32 = 4;

/// Whether it is quiet.
#[derive(Debug)]
pub(crate) struct Quiet {
    after: Duration,
    state: State,
    commands: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resting,
    /// Something began, and nobody was told yet.
    Woken {
        last: Instant,
    },
    Active {
        last: Instant,
        base: Option<Base>,
    },
}

/// The processor time used up to a moment. The agent may have none, when it does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base {
    at: Instant,
    used: Option<Duration>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Say that something is done again.
    TellActive,
    /// Measure processor time, and say so with [`Quiet::measured`].
    Measure,
}

impl Quiet {
    /// It counts as active from the start: something is about to be started.
    pub(crate) fn new(after: Duration, now: Instant) -> Self {
        Self { after, state: State::Woken { last: now }, commands: 0 }
    }

    /// The terminal wrote something, or a command began or ended. Returns whether there is something to do.
    pub(crate) fn stir(&mut self, now: Instant) -> bool {
        match self.state {
            State::Resting => {
                self.state = State::Woken { last: now };
                true
            }
            State::Woken { .. } => {
                self.state = State::Woken { last: now };
                false
            }
            State::Active { .. } => {
                self.state = State::Active { last: now, base: None };
                false
            }
        }
    }

    /// A command began. Until it ends it is not quiet.
    pub(crate) fn command_began(&mut self, now: Instant) -> bool {
        self.commands += 1;
        self.stir(now)
    }

    /// A command ended. There may be a time to wait for again.
    pub(crate) fn command_ended(&mut self, now: Instant) -> bool {
        self.commands = self.commands.saturating_sub(1);
        self.stir(now);
        true
    }

    /// What there is to do, if anything.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Action> {
        match self.state {
            State::Resting => None,
            State::Woken { last } => {
                self.state = State::Active { last, base: None };
                Some(Action::TellActive)
            }
            State::Active { .. } => self.due().is_some_and(|due| due <= now).then_some(Action::Measure),
        }
    }

    /// When to look again; never while a command runs, and never at rest.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Active { last, base } if self.commands == 0 => {
                Some(last + if base.is_some() { self.after } else { self.after / FIRST_LOOK })
            }
            State::Resting | State::Woken { .. } | State::Active { .. } => None,
        }
    }

    /// The processor time that the agent has used so far. Returns for how long it was quiet, if it has become that.
    pub(crate) fn measured(&mut self, now: Instant, used: Option<Duration>) -> Option<Duration> {
        let State::Active { last, base } = self.state else { return None };
        // Something happened while it was measured.
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let here = Base { at: now, used };
        match base {
            None => {
                self.state = State::Active { last, base: Some(here) };
                None
            }
            Some(base) if is_work(base, here) => {
                self.state = State::Active { last: now, base: Some(here) };
                None
            }
            Some(_) => {
                self.state = State::Resting;
                Some(now.since(last))
            }
        }
    }
}

/// Whether notable time was used in between. Less than before means that something ended which had used some.
fn is_work(base: Base, here: Base) -> bool {
    match (base.used, here.used) {
        (Some(before), Some(after)) => after
            .checked_sub(before)
            .is_none_or(|used| used > TICKS && used > here.at.since(base.at) / NOTABLE_PART),
        // It began or ended.
        (None, Some(_)) | (Some(_), None) => true,
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Instant {
        Instant(Duration::from_secs(seconds))
    }

    /// A life in virtual time: what the agent does at which second, and what is told at which.
    struct World {
        quiet: Quiet,
        used: Option<Duration>,
        told: Vec<(u64, bool)>,
        looks: u32,
    }

    impl World {
        fn new() -> Self {
            Self { quiet: Quiet::new(AFTER, at(0)), used: Some(Duration::ZERO), told: Vec::new(), looks: 0 }
        }

        /// Lets time pass, second by second; the task wakes up when it is due.
        fn pass(&mut self, seconds: std::ops::Range<u64>, per_second: Duration) {
            for second in seconds {
                self.used = self.used.map(|used| used + per_second);
                self.turn(second);
            }
        }

        fn turn(&mut self, second: u64) {
            while let Some(action) = self.quiet.next(at(second)) {
                match action {
                    Action::TellActive => self.told.push((second, true)),
                    Action::Measure => {
                        self.looks += 1;
                        if self.quiet.measured(at(second), self.used).is_some() {
                            self.told.push((second, false));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn it_is_quiet_once_nothing_was_done_for_long_enough() {
        let mut world = World::new();
        world.pass(0..10, Duration::ZERO);
        world.quiet.stir(at(10));
        world.pass(10..200, Duration::from_millis(5));
        assert_eq!(world.told, [(0, true), (40, false)]);
        assert_eq!(world.quiet.due(), None, "no timer at rest");
        assert!(world.quiet.stir(at(200)));
        world.pass(200..300, Duration::ZERO);
        assert_eq!(world.told[2..], [(200, true), (230, false)]);
    }

    #[test]
    fn work_without_a_word_is_not_quiet() {
        let mut world = World::new();
        world.pass(0..100, Duration::from_millis(300));
        assert_eq!(world.told, [(0, true)]);
        world.pass(100..200, Duration::ZERO);
        assert_eq!(world.told.len(), 2, "{:?}", world.told);
    }

    #[test]
    fn a_command_that_runs_is_not_quiet_and_needs_no_timer() {
        let mut world = World::new();
        world.pass(0..100, Duration::ZERO);
        assert!(world.quiet.command_began(at(100)));
        world.pass(100..500, Duration::ZERO);
        assert_eq!(world.quiet.due(), None);
        assert!(world.quiet.command_ended(at(500)));
        world.pass(500..600, Duration::ZERO);
        assert_eq!(world.told, [(0, true), (30, false), (100, true), (530, false)]);
    }

    #[test]
    fn output_all_the_time_costs_a_few_looks_at_the_clock_and_no_measurement() {
        let mut world = World::new();
        for second in 0..3600 {
            world.quiet.stir(at(second));
            world.turn(second);
        }
        assert_eq!((world.told.len(), world.looks), (1, 0));
    }

    #[test]
    fn an_agent_that_ends_or_begins_is_a_doing() {
        let mut world = World::new();
        world.pass(0..20, Duration::ZERO);
        world.used = None;
        world.pass(20..50, Duration::ZERO);
        assert_eq!(world.told.len(), 1);
        world.pass(50..100, Duration::ZERO);
        assert_eq!(world.told.len(), 2);
    }

    /// Whatever is done in whichever order: between two words there is the other one, quiet is told only when nothing was
    /// done for that long, and it is told in the end.
    #[test]
    fn ten_thousand_lives() {
        for seed in 1..10_000_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut dice = |sides: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % sides
            };
            let mut world = World::new();
            world.turn(0);
            let (mut last, mut running, mut second) = (0, 0, 0);
            for _ in 0..20 {
                for _ in 0..dice(45) {
                    second += 1;
                    world.turn(second);
                }
                match dice(4) {
                    0 => drop(world.quiet.stir(at(second))),
                    1 => {
                        running += 1;
                        world.quiet.command_began(at(second));
                    }
                    2 if running > 0 => {
                        running -= 1;
                        world.quiet.command_ended(at(second));
                    }
                    _ => continue,
                }
                last = second;
                let before = world.told.len();
                world.turn(second);
                assert!(world.told[before..].iter().all(|(_, active)| *active), "seed {seed}");
            }
            for _ in 0..running {
                last = second;
                world.quiet.command_ended(at(second));
            }
            world.pass(second..second + 100, Duration::ZERO);
            for (first, then) in world.told.iter().zip(&world.told[1..]) {
                assert_ne!(first.1, then.1, "seed {seed}: {:?}", world.told);
                assert!(then.1 || then.0 - first.0 >= 30, "seed {seed}: {:?}", world.told);
            }
            let end = world.told.last().unwrap();
            assert!(!end.1 && end.0 >= last, "seed {seed}: {:?}", world.told);
            assert_eq!(world.quiet.due(), None, "seed {seed}");
        }
    }
}
