//! What a person sees while much comes.

use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use super::pull::count;
use crate::{
    env::progress::{Report, Silence, StandardError},
    repo::Progress,
};

/// Nothing is said of a pull that is over sooner.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// One line that is rewritten on a terminal; lines elsewhere, if somebody wants to hear more.
pub(super) struct Shown {
    report: RefCell<Box<dyn Report>>,
    started: Instant,
}

impl Shown {
    pub(super) fn new(is_wanted: bool) -> Self {
        let shows = is_wanted || io::stderr().is_terminal();
        let report: Box<dyn Report> = if shows { Box::new(StandardError::new()) } else { Box::new(Silence) };
        Self { report: RefCell::new(report), started: Instant::now() }
    }

    pub(super) fn take(&self, progress: Progress) {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.started);
        if since >= QUIET_FOR {
            let mut report = self.report.borrow_mut();
            match progress {
                Progress::Receiving { .. } => report.show(&line(progress, since), now),
                // It stands for as long as it takes, so it is not left out.
                Progress::Checking { .. } => {
                    report.done();
                    report.show(&line(progress, since), now + QUIET_FOR);
                }
            }
        }
    }

    pub(super) fn done(&self) {
        self.report.borrow_mut().done();
    }
}

fn line(progress: Progress, since: Duration) -> String {
    match progress {
        Progress::Receiving { objects, bytes } => {
            let each_second =
                (u128::from(bytes) * 1000 / since.as_millis().max(1)).try_into().unwrap_or(u64::MAX);
            format!(
                "{} come: {} so far, {}/s",
                count(objects.into(), "object"),
                size(bytes),
                size(each_second)
            )
        }
        Progress::Checking { objects } => format!("checking {}", count(objects.into(), "object")),
    }
}

/// In the largest unit of which there is one.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_comes_and_how_fast() {
        let progress = Progress::Receiving { objects: 32_000, bytes: 101_500_000 };
        assert_eq!(line(progress, Duration::from_secs(2)), "32000 objects come: 101.5 MB so far, 50.7 MB/s");
        assert_eq!(line(Progress::Checking { objects: 1 }, Duration::ZERO), "checking 1 object");
        assert_eq!([0, 999, 1000, 1_999_999_999].map(size), ["0 B", "999 B", "1.0 kB", "1.9 GB"]);
    }
}
