//! Medians, quantiles, and ratios that a drifting machine cannot bend.

/// What one contender did: samples, round by round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(Vec<Vec<f64>>);

/// Which number of many stands for them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quantile(pub(crate) f64);

impl Quantile {
    pub(crate) const MEDIAN: Self = Self(0.5);
    pub(crate) const P99: Self = Self(0.99);

    /// `p50`, `p99`.
    pub(crate) fn name(self) -> String {
        if self == Self::MEDIAN { "median".to_owned() } else { format!("p{}", (self.0 * 100.0).round()) }
    }
}

impl Samples {
    /// Adds what one round brought.
    pub(crate) fn add_round(&mut self, round: Vec<f64>) {
        self.0.push(round);
    }

    /// Over all rounds together.
    pub(crate) fn quantile(&self, quantile: Quantile) -> Option<f64> {
        of(self.0.iter().flatten().copied().collect(), quantile)
    }

    /// The highest of all.
    pub(crate) fn highest(&self) -> Option<f64> {
        self.quantile(Quantile(1.0))
    }

    /// The lowest of all.
    pub(crate) fn lowest(&self) -> Option<f64> {
        self.quantile(Quantile(0.0))
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Ours divided by theirs: the median of the rounds' ratios. Rounds are close in time, so a machine that is
    /// slower for a minute slows both sides of each ratio.
    pub(crate) fn ratio(&self, theirs: &Self, quantile: Quantile) -> Option<f64> {
        let ratios = self.in_rounds(theirs, quantile).filter(|(_, theirs)| *theirs > 0.0);
        of(ratios.map(|(ours, theirs)| ours / theirs).collect(), Quantile::MEDIAN)
    }

    /// Ours less theirs: the median of the rounds' differences.
    pub(crate) fn beyond(&self, theirs: &Self, quantile: Quantile) -> Option<f64> {
        of(self.in_rounds(theirs, quantile).map(|(ours, theirs)| ours - theirs).collect(), Quantile::MEDIAN)
    }

    fn in_rounds(&self, theirs: &Self, quantile: Quantile) -> impl Iterator<Item = (f64, f64)> {
        let rounds = self.0.iter().zip(&theirs.0);
        rounds.filter_map(move |(ours, theirs)| {
            Some((of(ours.clone(), quantile)?, of(theirs.clone(), quantile)?))
        })
    }
}

/// The value below which this part of the values lies, interpolated between neighbours.
fn of(mut values: Vec<f64>, Quantile(part): Quantile) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    #[allow(clippy::cast_precision_loss)] // Nobody takes 2^52 samples.
    let place = part.clamp(0.0, 1.0) * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 0 and `last`.
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(values[below] + (values[above] - values[below]) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rounds: &[&[f64]]) -> Samples {
        Samples(rounds.iter().map(|round| round.to_vec()).collect())
    }

    fn close(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() < 1e-9)
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let some = samples(&[&[4.0, 1.0], &[3.0, 2.0]]);
        assert!(close(some.quantile(Quantile::MEDIAN), 2.5));
        assert!(close(some.lowest(), 1.0) && close(some.highest(), 4.0));
        assert!(close(some.quantile(Quantile(0.25)), 1.75));
        assert_eq!(some.count(), 4);
    }

    #[test]
    fn nothing_has_no_quantile_and_what_is_no_number_does_not_count() {
        assert_eq!(Samples::default().quantile(Quantile::MEDIAN), None);
        assert_eq!(samples(&[&[]]).ratio(&samples(&[&[1.0]]), Quantile::MEDIAN), None);
        assert!(close(samples(&[&[f64::NAN, 2.0]]).quantile(Quantile::P99), 2.0));
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The machine became ten times slower after the first round, for both alike.
        let ours = samples(&[&[1.0, 1.0], &[10.0, 10.0], &[10.0]]);
        let theirs = samples(&[&[2.0], &[20.0, 20.0], &[20.0]]);
        assert!(close(ours.ratio(&theirs, Quantile::MEDIAN), 0.5));
        assert_eq!(ours.ratio(&samples(&[&[0.0]]), Quantile::MEDIAN), None, "nothing is divided by zero");
    }

    #[test]
    fn quantiles_have_names() {
        assert_eq!([Quantile::MEDIAN.name(), Quantile::P99.name()], ["median", "p99"]);
    }
}
