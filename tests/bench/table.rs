//! Rows, what they have to reach, and how they are printed.

use serde_json::{Value, json};

use super::stats::{Quantile, Samples};

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    MegabytesPerSecond,
    Kilobytes,
    Count,
}

/// What one contender did.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) who: String,
    pub(crate) outcome: Outcome,
}

/// Numbers, or why there are none.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Measured(Samples),
    Missing(String),
}

/// What is to be reached.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) ours: &'static str,
    pub(crate) against: Against,
    pub(crate) at: Quantile,
    pub(crate) limit: f64,
}

/// What ours is held against.
#[derive(Clone, Debug)]
pub(crate) enum Against {
    /// Another contender of the same row: the limit is a factor.
    Peer(&'static str),
    /// Ours less the first, in parts of the second: what we add to it.
    Added { without: &'static str, parts_of: &'static str },
    /// Another contender of the same row, which ours may take this much longer than, in the row's unit.
    Beyond(&'static str),
    /// Nobody: the limit is in the row's unit.
    Nobody,
}

/// One line of the specification, measured.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) series: Vec<Series>,
    pub(crate) targets: Vec<Target>,
}

/// A target, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) found: Option<f64>,
    pub(crate) met: Option<bool>,
}

impl Unit {
    fn is_speed(self) -> bool {
        self == Self::MegabytesPerSecond
    }

    /// A low quantile means the better part of the samples: of speeds, the high ones.
    fn toward_best(self, Quantile(part): Quantile) -> Quantile {
        if self.is_speed() { Quantile(1.0 - part) } else { Quantile(part) }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Microseconds if value < 10.0 => format!("{value:.2} us"),
            Self::Microseconds => format!("{value:.0} us"),
            Self::MegabytesPerSecond => format!("{value:.0} MB/s"),
            Self::Kilobytes => format!("{value:.0} kB"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

impl Row {
    fn samples(&self, who: &str) -> Option<&Samples> {
        self.series.iter().find(|series| series.who == who).and_then(|series| match &series.outcome {
            Outcome::Measured(samples) => Some(samples),
            Outcome::Missing(_) => None,
        })
    }

    /// Whether a target is met; unknown where somebody is missing.
    pub(crate) fn verdict(&self, target: &Target, typical: Quantile) -> Verdict {
        let at = if target.at == Quantile::MEDIAN { self.unit.toward_best(typical) } else { target.at };
        let found = self.samples(target.ours).and_then(|ours| match target.against {
            Against::Nobody => ours.quantile(at),
            Against::Peer(peer) => ours.ratio(self.samples(peer)?, at),
            Against::Beyond(peer) => ours.beyond(self.samples(peer)?, at),
            Against::Added { without, parts_of } => {
                let whole = self.samples(parts_of)?;
                Some(ours.ratio(whole, at)? - self.samples(without)?.ratio(whole, at)?)
            }
        });
        let met = found.map(|found| {
            let ok = if self.unit.is_speed() { found >= target.limit } else { found <= target.limit };
            ok && found.is_finite()
        });
        Verdict { found, met }
    }

    fn describe(&self, target: &Target, verdict: &Verdict) -> String {
        let bound = if self.unit.is_speed() { "at least" } else { "at most" };
        let quantile =
            if target.at == Quantile::MEDIAN { String::new() } else { format!(" at {}", target.at.name()) };
        let number = |value: f64| match target.against {
            Against::Nobody | Against::Beyond(_) => self.unit.show(value),
            Against::Peer(_) => format!("{value:.2} x"),
            Against::Added { .. } => format!("{:.1} %", value * 100.0),
        };
        let against = match &target.against {
            Against::Nobody => String::new(),
            Against::Peer(peer) => format!(" {peer}"),
            Against::Beyond(peer) => format!(" more than {peer}"),
            Against::Added { without, parts_of } => format!(" of {parts_of}, more than {without}"),
        };
        let word = match verdict.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "unknown",
        };
        let found = verdict.found.map_or_else(|| "-".to_owned(), number);
        let limit = number(target.limit);
        format!("{word:<8}{}{quantile}: {found}{against} (target: {bound} {limit})", target.ours)
    }

    /// The row as text.
    pub(crate) fn to_text(&self, typical: Quantile) -> String {
        let wide = self.series.iter().map(|series| series.who.len()).max().unwrap_or(0);
        let mut lines = vec![format!("{}: {}", self.name, self.what)];
        lines.extend(
            self.series
                .iter()
                .map(|series| format!("  {:<wide$}  {}", series.who, self.numbers(series, typical))),
        );
        lines.extend(self.targets.iter().map(|target| {
            let verdict = self.verdict(target, typical);
            format!("  {}", self.describe(target, &verdict))
        }));
        lines.push(String::new());
        lines.join("\n")
    }

    fn numbers(&self, series: &Series, typical: Quantile) -> String {
        let samples = match &series.outcome {
            Outcome::Missing(why) => return format!("{:>12}  {why}", "missing"),
            Outcome::Measured(samples) => samples,
        };
        let show = |value: Option<f64>| value.map_or("-".to_owned(), |value| self.unit.show(value));
        let typically = show(samples.quantile(self.unit.toward_best(typical)));
        if samples.count() < 2 {
            return format!("{typically:>12}");
        }
        let (low, high) = (show(samples.lowest()), show(samples.highest()));
        let (p99, count) = (show(samples.quantile(Quantile::P99)), samples.count());
        format!("{typically:>12}  lowest {low}, p99 {p99}, highest {high}, n {count}")
    }

    /// The row for programs.
    pub(crate) fn to_json(&self, typical: Quantile) -> Value {
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|Series { who, outcome }| match outcome {
                Outcome::Missing(why) => json!({ "who": who, "missing": why }),
                Outcome::Measured(samples) => json!({
                    "who": who,
                    "median": samples.quantile(Quantile::MEDIAN),
                    "p99": samples.quantile(Quantile::P99),
                    "lowest": samples.lowest(),
                    "highest": samples.highest(),
                    "samples": samples.count(),
                }),
            })
            .collect();
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|target| {
                let verdict = self.verdict(target, typical);
                json!({
                    "text": self.describe(target, &verdict),
                    "found": verdict.found,
                    "limit": target.limit,
                    "met": verdict.met,
                })
            })
            .collect();
        json!({ "row": self.name, "what": self.what, "unit": format!("{:?}", self.unit),
            "series": series, "targets": targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(who: &str, values: &[f64]) -> Series {
        let mut samples = Samples::default();
        samples.add_round(values.to_vec());
        Series { who: who.to_owned(), outcome: Outcome::Measured(samples) }
    }

    fn row(unit: Unit, series: Vec<Series>, targets: Vec<Target>) -> Row {
        Row { name: "exec", what: "a command".to_owned(), unit, series, targets }
    }

    fn at_most(limit: f64, against: Against) -> Target {
        Target { ours: "us", against, at: Quantile::MEDIAN, limit }
    }

    fn met(row: &Row) -> Vec<Option<bool>> {
        row.targets.iter().map(|target| row.verdict(target, Quantile::MEDIAN).met).collect()
    }

    #[test]
    fn times_have_to_be_low_and_speeds_high() {
        let them = || vec![series("us", &[2.0]), series("them", &[4.0])];
        let targets = || vec![at_most(0.5, Against::Peer("them")), at_most(0.4, Against::Peer("them"))];
        assert_eq!(met(&row(Unit::Milliseconds, them(), targets())), [Some(true), Some(false)]);
        assert_eq!(met(&row(Unit::MegabytesPerSecond, them(), targets())), [Some(true), Some(true)]);
    }

    #[test]
    fn the_better_part_of_speeds_is_the_high_one() {
        let row = row(
            Unit::MegabytesPerSecond,
            vec![series("us", &[1.0, 9.0])],
            vec![at_most(9.0, Against::Nobody)],
        );
        assert_eq!(row.verdict(&row.targets[0], Quantile(0.0)).met, Some(true));
        assert_eq!(row.verdict(&row.targets[0], Quantile(1.0)).met, Some(false));
    }

    #[test]
    fn a_missing_peer_leaves_its_target_open_and_no_other() {
        let missing =
            Series { who: "them".to_owned(), outcome: Outcome::Missing("not installed".to_owned()) };
        let targets = vec![at_most(0.5, Against::Peer("them")), at_most(3.0, Against::Nobody)];
        let row = row(Unit::Milliseconds, vec![series("us", &[2.0]), missing], targets);
        assert_eq!(met(&row), [None, Some(true)]);
        let text = row.to_text(Quantile::MEDIAN);
        assert!(text.contains("missing  not installed") && text.contains("unknown"), "{text}");
    }

    #[test]
    fn a_share_is_what_we_add() {
        let all = vec![series("us", &[10.4]), series("bare", &[10.0]), series("whole", &[20.0])];
        let against = Against::Added { without: "bare", parts_of: "whole" };
        let targets = vec![at_most(0.05, against.clone()), at_most(0.01, against)];
        let row = row(Unit::Milliseconds, all, targets);
        assert_eq!(met(&row), [Some(true), Some(false)]);
        assert!(
            row.to_text(Quantile::MEDIAN).contains("2.0 % of whole, more than bare (target: at most 5.0 %)")
        );
    }

    #[test]
    fn what_comes_on_top_is_in_the_rows_unit() {
        let all = vec![series("us", &[10.5]), series("them", &[10.0])];
        let targets = vec![at_most(0.6, Against::Beyond("them")), at_most(0.4, Against::Beyond("them"))];
        let row = row(Unit::Milliseconds, all, targets);
        assert_eq!(met(&row), [Some(true), Some(false)]);
        let text = row.to_text(Quantile::MEDIAN);
        assert!(text.contains("us: 0.50 ms more than them (target: at most 0.60 ms)"), "{text}");
    }

    #[test]
    fn rows_are_printed_whole() {
        let targets = vec![at_most(0.25, Against::Peer("them"))];
        let row = row(Unit::Milliseconds, vec![series("us", &[1.0, 1.0]), series("them", &[5.0])], targets);
        assert_eq!(
            row.to_text(Quantile::MEDIAN),
            "exec: a command\n\
            \x20 us         1.00 ms  lowest 1.00 ms, p99 1.00 ms, highest 1.00 ms, n 2\n\
            \x20 them       5.00 ms\n\
            \x20 met     us: 0.20 x them (target: at most 0.25 x)\n"
        );
        let json = row.to_json(Quantile::MEDIAN);
        assert_eq!(json["targets"][0]["met"], true);
        assert_eq!(json["series"][1]["median"], 5.0);
    }
}
