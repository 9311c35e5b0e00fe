//! How long to wait before the next start, and when to give up.

use std::collections::VecDeque;
use std::time::Duration;

use agent_protocol::spec::{Backoff, Restart};

use super::event::Instant;

/// What to do about a run that is over and is to be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start again after this long.
    Wait(Duration),
    /// Give up: so many exits in so short a time.
    GiveUp { exits: u32, within: Duration },
}

/// The failures of one unit since it last was well.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    /// How many restarts in a row.
    failures: u32,
    /// When the last `fast_fail.count` runs ended.
    exits: VecDeque<Instant>,
}

impl Ladder {
    /// A run of `ran` ended `now`, and the policy asks for another.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        ran: Duration,
        restart: &Restart,
        random: &mut Random,
    ) -> Verdict {
        if ran >= Duration::from_millis(restart.stable_ms) {
            self.forget();
        }
        let count = restart.fast_fail.count;
        if count > 0 {
            self.exits.push_back(now);
            while self.exits.len() > count as usize {
                self.exits.pop_front();
            }
            let within = self.exits.front().map_or(Duration::ZERO, |first| now.since(*first));
            if self.exits.len() == count as usize
                && within <= Duration::from_millis(restart.fast_fail.within_ms)
            {
                return Verdict::GiveUp { exits: count, within };
            }
        }
        let wait = delay(&restart.backoff, self.failures, random);
        self.failures = self.failures.saturating_add(1);
        Verdict::Wait(wait)
    }

    /// The unit was well, or a person wants it: the past no longer counts.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// How many restarts in a row it has been.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

/// Microseconds in a millisecond: whole milliseconds would make short jitters all the same.
const MICROS: u64 = 1000;

/// The wait before restart number `failures` (from 0): between its full length and that less the jitter.
fn delay(backoff: &Backoff, failures: u32, random: &mut Random) -> Duration {
    let growth = u64::from(backoff.factor).saturating_pow(failures);
    let longest = backoff.initial_ms.saturating_mul(growth).min(backoff.max_ms).saturating_mul(MICROS);
    let jitter = random.up_to(longest / 100 * u64::from(backoff.jitter_percent.min(100)));
    Duration::from_micros(longest - jitter)
}

/// A small generator (SplitMix64). Jitter needs no better, and a seed must give the same sequence for ever.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `most`, both included.
    pub(super) fn up_to(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(count) => self.next() % count,
            None => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_protocol::spec::FastFail;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_only_shortens() {
        let restart = Restart { fast_fail: FastFail { count: 0, within_ms: 0 }, ..Restart::default() };
        for seed in 0..200 {
            let (mut ladder, mut random) = (Ladder::default(), Random::new(seed));
            for full in [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
                let Verdict::Wait(wait) = ladder.ended(at(0), Duration::ZERO, &restart, &mut random) else {
                    panic!()
                };
                assert!(wait <= Duration::from_millis(full), "{wait:?} > {full}");
                assert!(wait >= Duration::from_millis(full * 9 / 10), "{wait:?} < {full} - 10 %");
            }
        }
    }

    #[test]
    fn jitter_differs_between_seeds() {
        let wait = |seed| delay(&Backoff::default(), 5, &mut Random::new(seed));
        assert_ne!(wait(1), wait(2));
        assert_eq!(wait(1), wait(1));
    }

    #[test]
    fn growth_without_end_stays_at_the_longest() {
        let backoff = Backoff { initial_ms: 100, max_ms: 5000, factor: 100, jitter_percent: 0 };
        assert_eq!(delay(&backoff, u32::MAX, &mut Random::new(0)), Duration::from_secs(5));
    }

    #[test]
    fn three_fast_exits_give_up_and_three_slow_ones_do_not() {
        let restart = Restart { fast_fail: FastFail { count: 3, within_ms: 1000 }, ..Restart::default() };
        let run = |times: [u64; 3]| {
            let (mut ladder, mut random) = (Ladder::default(), Random::new(0));
            times.map(|ms| ladder.ended(at(ms), Duration::ZERO, &restart, &mut random))[2]
        };
        assert_eq!(run([0, 100, 1000]), Verdict::GiveUp { exits: 3, within: Duration::from_secs(1) });
        assert!(matches!(run([0, 100, 1001]), Verdict::Wait(_)));
    }

    #[test]
    fn a_stable_run_forgets_the_failures_before_it() {
        let restart = Restart { stable_ms: 500, ..Restart::default() };
        let (mut ladder, mut random) = (Ladder::default(), Random::new(0));
        ladder.ended(at(0), Duration::ZERO, &restart, &mut random);
        ladder.ended(at(100), Duration::ZERO, &restart, &mut random);
        let Verdict::Wait(wait) = ladder.ended(at(700), Duration::from_millis(500), &restart, &mut random)
        else {
            panic!("parked after a stable run");
        };
        assert!(wait <= Duration::from_millis(100));
        assert_eq!(ladder.failures(), 1);
    }
}
