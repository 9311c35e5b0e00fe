//! Chance, from one seed.

use std::time::Duration;

use super::super::super::backoff::Random;

pub(super) struct Dice(Random);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    /// From 0 to `most`, both included.
    pub(super) fn up_to(&mut self, most: u64) -> u64 {
        self.0.up_to(most)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.up_to(n - 1) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let last = u64::try_from(choices.len() - 1).unwrap();
        choices[usize::try_from(self.up_to(last)).unwrap()]
    }

    /// A time of any order of magnitude up to `most`: most things happen at once, some late.
    pub(super) fn time(&mut self, most_ms: u64) -> Duration {
        let limit = self.pick(&[1, 10, 100, 1_000, u64::MAX]).min(most_ms);
        Duration::from_micros(self.up_to(limit * 1000))
    }
}
