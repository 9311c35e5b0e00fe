//! What came of many attempts, by name.

use agent_tests::{Home, Output, Who};
use anyhow::{Context, bail, ensure};

use crate::world::World;

/// The attempts of one test as one person.
pub(crate) struct Board {
    context: String,
    holes: Vec<String>,
    attempts: usize,
}

/// Runs a test as everybody who can be here, and fails with all the holes.
pub(crate) fn each_person(test: &str, attempt: fn(&mut Board, &World) -> anyhow::Result<()>) {
    let mut holes = Vec::new();
    for who in Home::everyone() {
        let context = format!("{test} as {}", if *who == Who::Myself { "root" } else { "an ordinary user" });
        let mut board = Board { context, holes: Vec::new(), attempts: 0 };
        match World::new(*who).and_then(|world| attempt(&mut board, &world)) {
            Ok(()) if board.attempts == 0 => board.holes.push("nothing was attempted".to_owned()),
            Ok(()) => {}
            Err(error) => board.holes.push(format!("the test itself failed: {error:#}")),
        }
        holes.extend(board.holes.into_iter().map(|hole| format!("{}: {hole}", board.context)));
    }
    assert!(holes.is_empty(), "{} holes:\n{}", holes.len(), holes.join("\n"));
}

impl Board {
    /// One attempt: fine, or the hole that it found.
    pub(crate) fn attempt(&mut self, name: &str, closed: anyhow::Result<()>) {
        self.attempts += 1;
        match closed {
            Ok(()) => println!("{}: {name} ... closed", self.context),
            Err(hole) => {
                println!("{}: {name} ... OPEN", self.context);
                self.holes.push(format!("{name}: {hole:#}"));
            }
        }
    }

    /// The same, with steps that may fail.
    pub(crate) fn tried(&mut self, name: &str, closed: impl FnOnce() -> anyhow::Result<()>) {
        self.attempt(name, closed());
    }

    /// An attempt of the probe's that must be closed.
    pub(crate) fn probed(&mut self, name: &str, output: anyhow::Result<Output>) {
        let closed = output.and_then(|output| {
            let attempts = attempts(&output)?;
            ensure!(!attempts.is_empty(), "no outcome in {output}");
            match attempts.iter().find(|attempt| attempt.outcome != "closed") {
                Some(open) => bail!("{}", open.detail),
                None => Ok(()),
            }
        });
        self.attempt(name, closed);
    }

    /// The same attempt where it has to work, or it proves nothing.
    pub(crate) fn control(&mut self, name: &str, output: anyhow::Result<Output>) {
        let works = output.and_then(|output| {
            let works = attempts(&output)?.iter().any(|attempt| attempt.outcome == "OPEN");
            ensure!(works, "it does not work where nothing prevents it: {output}");
            Ok(())
        });
        if let Err(error) = works {
            self.holes.push(format!("{name} proves nothing: {error:#}"));
        }
    }

    /// Says that something cannot be tried here.
    pub(crate) fn skip(&self, name: &str, why: &str) {
        agent_tests::skip(&format!("{}: {name}: {why}", self.context));
    }
}

/// One line of the probe's.
pub(crate) struct Attempt {
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) detail: String,
    pub(crate) plain: String,
}

/// Reads what the probe said; a table has to be complete.
pub(crate) fn attempts(output: &Output) -> anyhow::Result<Vec<Attempt>> {
    let mut expected = None;
    let mut attempts = Vec::new();
    for line in output.text().lines() {
        let line = line.trim_end_matches('\r');
        if let Some(count) = line.strip_prefix("attempts ") {
            expected = Some(count.parse::<usize>()?);
            continue;
        }
        let mut parts = line.split('\t').map(str::to_owned);
        let mut next = || parts.next().with_context(|| format!("reading `{line}` in {output}"));
        attempts.push(Attempt { name: next()?, outcome: next()?, detail: next()?, plain: next()? });
    }
    ensure!(expected.is_none_or(|count| count == attempts.len()), "the table is not complete: {output}");
    Ok(attempts)
}
