//! What a person sees while an environment is built.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use super::nix_log::{Event, Work, short_name};
use crate::terminal::sanitize::sanitized;

/// Most pieces of work that are remembered as going on. Nix has a few at once; what lies about more is forgotten.
const MAX_ONGOING: usize = 1024;

/// How often a line is written where nothing can be rewritten.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How often the line on a terminal is rewritten.
const REWRITE_EVERY: Duration = Duration::from_millis(100);

/// Takes what is to be told to a person.
pub trait Report {
    /// Something has happened: a line that stays.
    fn say(&mut self, line: &str);
    /// How it is going: replaces what was said the same way before.
    fn show(&mut self, line: &str, now: Instant);
    /// Nothing is going on any more.
    fn done(&mut self);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silence;

impl Report for Silence {
    fn say(&mut self, _: &str) {}
    fn show(&mut self, _: &str, _: Instant) {}
    fn done(&mut self) {}
}

/// Tells it on standard error: on a terminal in one line that is rewritten, elsewhere a line every few seconds.
#[derive(Debug)]
pub struct StandardError {
    width: Option<usize>,
    shown: Option<Instant>,
    is_dirty: bool,
}

impl StandardError {
    /// As it is now.
    pub fn new() -> Self {
        let errors = io::stderr();
        let width = errors.is_terminal().then(|| {
            let columns = rustix::termios::tcgetwinsize(&errors).map_or(0, |size| usize::from(size.ws_col));
            // Some terminals do not say how wide they are.
            if columns == 0 { 80 } else { columns.max(20) }
        });
        // Where lines stay, a build that is over in a moment needs none but the first and the last.
        let shown = width.is_none().then(Instant::now);
        Self { width, shown, is_dirty: false }
    }

    fn write(text: &str) {
        // Where nobody can be told, the work goes on all the same.
        drop(io::stderr().write_all(text.as_bytes()));
    }
}

impl Default for StandardError {
    fn default() -> Self {
        Self::new()
    }
}

impl Report for StandardError {
    fn say(&mut self, line: &str) {
        self.done();
        Self::write(&format!("{}\n", sanitized(line)));
    }

    fn show(&mut self, line: &str, now: Instant) {
        let every = if self.width.is_some() { REWRITE_EVERY } else { LINE_EVERY };
        if self.shown.is_some_and(|shown| now.saturating_duration_since(shown) < every) {
            return;
        }
        self.shown = Some(now);
        if let Some(width) = self.width {
            // One column less than there are: a full line would wrap, and could not be rewritten.
            let line: String = sanitized(line).to_string().chars().take(width - 1).collect();
            Self::write(&format!("\r{line}\x1b[K"));
            self.is_dirty = true;
        } else {
            Self::write(&format!("{}\n", sanitized(line)));
        }
    }

    fn done(&mut self) {
        if std::mem::take(&mut self.is_dirty) {
            Self::write("\r\x1b[K");
        }
    }
}

/// Where a build has got to, from what Nix says.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    ongoing: BTreeMap<u64, Work>,
    builds: (u64, u64),
    copies: (u64, u64),
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, ongoing: BTreeMap::new(), builds: (0, 0), copies: (0, 0) }
    }

    /// Takes what has happened.
    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Started { id, work } if self.ongoing.len() < MAX_ONGOING => {
                self.ongoing.insert(*id, work.clone());
            }
            Event::Stopped(id) => {
                self.ongoing.remove(id);
            }
            Event::Progress { id, done, expected } => match self.ongoing.get(id) {
                Some(Work::Builds) => self.builds = (*done, *expected),
                Some(Work::Copies) => self.copies = (*done, *expected),
                _ => {}
            },
            _ => {}
        }
    }

    /// What is built under this number.
    pub(super) fn builder(&self, id: u64) -> Option<&str> {
        match self.ongoing.get(&id) {
            Some(Work::Build(path)) => Some(short_name(path)),
            _ => None,
        }
    }

    /// One line: what is going on, how much of it is done, and for how long.
    pub(super) fn line(&self, now: Instant) -> String {
        // The newest work says most; a build says more than what is fetched meanwhile.
        let newest = |is_it: fn(&Work) -> bool| self.ongoing.values().rev().find(|work| is_it(work));
        let what = newest(|work| matches!(work, Work::Build(_)))
            .or_else(|| newest(|work| matches!(work, Work::Copy(_))))
            .or_else(|| newest(|work| matches!(work, Work::Fetch(_))));
        let what = match what {
            Some(Work::Build(path)) => format!("building {}", short_name(path)),
            Some(Work::Copy(path)) => format!("fetching {}", short_name(path)),
            Some(Work::Fetch(url)) => format!("fetching {url}"),
            _ => "evaluating".to_owned(),
        };
        let mut facts = Vec::new();
        if self.builds.1 > 0 {
            facts.push(format!("{}/{} built", self.builds.0, self.builds.1));
        }
        if self.copies.1 > 0 {
            facts.push(format!("{}/{} fetched", self.copies.0, self.copies.1));
        }
        facts.push(elapsed(now.saturating_duration_since(self.started)));
        format!("{what} ({})", facts.join(", "))
    }
}

/// A duration that is read at a glance.
pub(super) fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_as_it_is_seen() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(start);
        assert_eq!(progress.line(at(0)), "evaluating (0s)");
        let started = |id, work| Event::Started { id, work };
        progress.take(&started(1, Work::Builds));
        progress.take(&started(2, Work::Copies));
        progress.take(&Event::Progress { id: 1, done: 0, expected: 3 });
        progress.take(&Event::Progress { id: 2, done: 4, expected: 90 });
        progress.take(&started(3, Work::Copy("/nix/store/abc-curl-8.1".to_owned())));
        assert_eq!(progress.line(at(61)), "fetching curl-8.1 (0/3 built, 4/90 fetched, 1m 01s)");
        progress.take(&started(4, Work::Build("/nix/store/abc-jq-1.7.drv".to_owned())));
        assert_eq!(progress.line(at(3720)), "building jq-1.7 (0/3 built, 4/90 fetched, 1h 02m)");
        assert_eq!(progress.builder(4), Some("jq-1.7"));
        progress.take(&Event::Stopped(4));
        assert_eq!(progress.builder(4), None);
        assert!(progress.line(at(5)).starts_with("fetching curl-8.1"));
    }

    #[test]
    fn what_never_ends_takes_no_more_than_its_share() {
        let mut progress = Progress::new(Instant::now());
        for id in 0..10_000 {
            progress.take(&Event::Started { id, work: Work::Other });
        }
        assert_eq!(progress.ongoing.len(), MAX_ONGOING);
    }
}
