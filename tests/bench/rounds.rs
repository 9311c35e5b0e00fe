//! Contenders take turns: A B C, A B C, so that whatever else the machine does hits all of them.

use anyhow::{Context, bail};

use super::{
    stats::Samples,
    table::{Outcome, Series},
};

/// One who takes part.
pub(crate) struct Contender<'a> {
    who: &'static str,
    turn: Turn<'a>,
}

type Measure<'a> = Box<dyn FnMut() -> anyhow::Result<Vec<f64>> + 'a>;

enum Turn<'a> {
    Ready(Measure<'a>),
    Absent(String),
}

impl<'a> Contender<'a> {
    /// One whose turn brings these samples.
    pub(crate) fn new(who: &'static str, turn: impl FnMut() -> anyhow::Result<Vec<f64>> + 'a) -> Self {
        Self { who, turn: Turn::Ready(Box::new(turn)) }
    }

    /// One whose turn repeats this a number of times, each a sample.
    pub(crate) fn repeated(
        who: &'static str,
        times: usize,
        mut once: impl FnMut() -> anyhow::Result<f64> + 'a,
    ) -> Self {
        Self::new(who, move || (0..times).map(|_| once()).collect())
    }

    /// One that cannot take part.
    pub(crate) fn absent(who: &'static str, why: impl Into<String>) -> Self {
        Self { who, turn: Turn::Absent(why.into()) }
    }

    /// One that takes part if what it needs is there.
    pub(crate) fn if_there<T>(
        who: &'static str,
        needs: &'a anyhow::Result<T>,
        make: impl FnOnce(&'a T) -> Self,
    ) -> Self {
        match needs {
            Ok(there) => make(there),
            Err(error) => Self::absent(who, format!("{error:#}")),
        }
    }
}

/// Lets everybody have a turn in each round, after one to warm up that does not count.
///
/// A peer that fails drops out and the table says why. Ours, the first, must not fail.
pub(crate) fn in_turn(rounds: usize, mut contenders: Vec<Contender<'_>>) -> anyhow::Result<Vec<Series>> {
    let mut all: Vec<Samples> = contenders.iter().map(|_| Samples::default()).collect();
    for round in 0..=rounds {
        for (index, contender) in contenders.iter_mut().enumerate() {
            let Turn::Ready(turn) = &mut contender.turn else { continue };
            match turn() {
                Ok(_) if round == 0 => {}
                Ok(found) => all[index].add_round(found),
                Err(error) if index == 0 => {
                    return Err(error).with_context(|| format!("measuring {}", contender.who));
                }
                Err(error) => contender.turn = Turn::Absent(format!("failed: {error:#}")),
            }
        }
    }
    let series = contenders.into_iter().zip(all).map(|(contender, samples)| Series {
        who: contender.who.to_owned(),
        outcome: match contender.turn {
            Turn::Ready(_) => Outcome::Measured(samples),
            Turn::Absent(why) => Outcome::Missing(why),
        },
    });
    Ok(series.collect())
}

/// A series of one number that was found without rounds.
pub(crate) fn single(who: &str, found: anyhow::Result<f64>) -> anyhow::Result<Series> {
    let outcome = match found {
        Ok(value) if value.is_finite() => {
            let mut samples = Samples::default();
            samples.add_round(vec![value]);
            Outcome::Measured(samples)
        }
        Ok(value) => bail!("{who} brought {value}"),
        Err(error) => Outcome::Missing(format!("{error:#}")),
    };
    Ok(Series { who: who.to_owned(), outcome })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::stats::Quantile;

    #[test]
    fn everybody_has_a_turn_in_each_round() {
        let order = RefCell::new(String::new());
        let turn = |name: &'static str| {
            let order = &order;
            Contender::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(vec![1.0])
            })
        };
        let series = in_turn(2, vec![turn("a"), turn("b"), Contender::absent("c", "not installed")]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert!(matches!(&series[1].outcome, Outcome::Measured(samples) if samples.count() == 2));
        assert!(matches!(&series[2].outcome, Outcome::Missing(why) if why == "not installed"));
    }

    #[test]
    fn the_first_round_does_not_count() {
        let mut first = true;
        let turn =
            Contender::repeated("a", 1, move || Ok(if std::mem::take(&mut first) { 9.0 } else { 1.0 }));
        let series = in_turn(3, vec![turn]).unwrap();
        let Outcome::Measured(samples) = &series[0].outcome else { panic!() };
        assert_eq!(samples.quantile(Quantile(1.0)), Some(1.0));
    }

    #[test]
    fn a_peer_that_fails_drops_out_and_ours_does_not() {
        let mut turns = 0;
        let peer = Contender::new("peer", || {
            turns += 1;
            bail!("broken")
        });
        let series = in_turn(3, vec![Contender::new("us", || Ok(vec![1.0])), peer]).unwrap();
        assert!(matches!(&series[1].outcome, Outcome::Missing(why) if why == "failed: broken"));
        assert_eq!(turns, 1);
        assert!(in_turn(1, vec![Contender::new("us", || bail!("broken"))]).is_err());
    }
}
