//! The snapshots of a sandbox, wherever they are, and the one that is meant.

use std::time::{Duration, Instant};

use super::told;
use crate::{
    cli::{
        context::Context,
        error::{CliError, Kind},
        output::{clean, tell},
        pull::{agents_own, told as pull_told},
    },
    repo::{
        Choice, ENDPOINT_PATIENCE, Limits, RefName, Source,
        pull::Pull,
        snapshot::{Ask, AtHome, AtHomeError, INSIDE, Listed, SnapshotError},
    },
    sandbox::{Sandbox, endpoint::Reach, record::Record},
};

/// For the list of what is inside.
const LIST_WITHIN: Duration = Duration::from_secs(20);

/// For git at home: a patch may be long, and a person may read it.
const HOME_WITHIN: Duration = Duration::from_hours(1);

/// The worktree that is meant where none is named.
const MAIN: &str = "main";

/// What the newest one is called.
const LAST: &str = "last";

/// One snapshot, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) listed: Listed,
    pub(super) is_inside: bool,
    pub(super) is_home: bool,
}

/// A sandbox, and what there is to be known of its snapshots.
pub(super) struct Place<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) record: Record,
    reach: Reach<'a>,
    home: Result<AtHome, AtHomeError>,
}

impl<'a> Place<'a> {
    pub(super) fn new(ctx: &'a Context, sandbox: &'a Sandbox) -> Result<Self, CliError> {
        let record = sandbox.record()?;
        let until = Instant::now() + HOME_WITHIN;
        let home = AtHome::open(sandbox.name(), &record.project, &agents_own(&record), until);
        let reach = Reach::new(&ctx.data, sandbox, ENDPOINT_PATIENCE);
        Ok(Self { sandbox, record, reach, home })
    }

    /// The person's repository.
    pub(super) fn home(&self) -> Result<&AtHome, CliError> {
        self.home.as_ref().map_err(at_home)
    }

    /// All there are, by worktree and moment. What cannot be asked for is told, unless that leaves nothing.
    pub(super) fn all(&self) -> Result<Vec<Known>, CliError> {
        let home =
            self.home.as_ref().map_err(at_home).and_then(|home| home.list().map_err(|error| at_home(&error)));
        let inside = self.inside();
        match (home, inside) {
            (Ok(home), Ok(inside)) => Ok(joined(home, inside)),
            (Ok(home), Err(error)) => {
                let why = error.to_string();
                tell(&clean(&format!("warning: not known what is inside `{}`: {why}", self.sandbox.name())));
                Ok(joined(home, Vec::new()))
            }
            (Err(_), Ok(inside)) => Ok(joined(Vec::new(), inside)),
            (Err(_), Err(error)) => {
                let cannot = format!("cannot list the snapshots of `{}`", self.sandbox.name());
                Err(told::failed(self.sandbox, error).while_doing(cannot))
            }
        }
    }

    fn inside(&self) -> Result<Vec<Listed>, SnapshotError> {
        let deadline = Instant::now() + LIST_WITHIN;
        let connection = self.reach.endpoint()?.connect(deadline)?;
        match (Ask { connection, deadline }).list(None) {
            // A folder without a repository has none.
            Err(SnapshotError::Refused { why, .. }) if why == "no-repository" || why == "bare" => {
                Ok(Vec::new())
            }
            listed => listed,
        }
    }

    /// The one that is called so. What is not at home yet is brought there.
    pub(super) fn at_home(&self, text: &str) -> Result<Listed, CliError> {
        let found = chosen(self.all()?, text)?;
        let listed = found.listed;
        if found.is_home {
            return Ok(listed);
        }
        let name = format!("{INSIDE}{}/{}", listed.worktree, listed.at_ms);
        let branches = RefName::parse(name.as_bytes()).into_iter().collect();
        let pull = Pull {
            name: self.sandbox.name(),
            source: Source::Sandbox(&self.reach),
            into: &self.record.project,
            agents_own: &agents_own(&self.record),
            choice: Choice { branches, ..Choice::default() },
            limits: Limits::default(),
            dry_run: false,
        };
        pull.run().map_err(|error| pull_told(self.sandbox.name(), &error))?;
        // What came is what counts, not what was said before.
        let there = self.home()?.list().map_err(|error| at_home(&error))?;
        let is_it = |one: &Listed| (&one.worktree, one.at_ms) == (&listed.worktree, listed.at_ms);
        there.into_iter().find(is_it).ok_or_else(|| missing(text))
    }

    /// Speaks to its init.
    pub(super) fn reach(&self) -> &Reach<'a> {
        &self.reach
    }
}

/// Both lists as one. Where they differ, what is at home counts.
fn joined(home: Vec<Listed>, inside: Vec<Listed>) -> Vec<Known> {
    let is = |one: &Listed, other: &Listed| (&one.worktree, one.at_ms) == (&other.worktree, other.at_ms);
    let mut all: Vec<Known> =
        home.into_iter().map(|listed| Known { listed, is_inside: false, is_home: true }).collect();
    for listed in inside {
        match all.iter_mut().find(|known| is(&known.listed, &listed)) {
            Some(known) => known.is_inside = known.listed.commit == listed.commit,
            None => all.push(Known { listed, is_inside: true, is_home: false }),
        }
    }
    all.sort_by(|one, other| one.listed.cmp(&other.listed));
    all
}

/// The one that is meant by `[WORKTREE/]MOMENT`, where a moment may be `last`.
pub(super) fn chosen(all: Vec<Known>, text: &str) -> Result<Known, CliError> {
    let (worktree, moment) = match text.rsplit_once('/') {
        Some((worktree, moment)) => (Some(worktree), moment),
        None => (None, text),
    };
    let of = |known: &Known, worktree: &str| known.listed.worktree == worktree;
    if moment == LAST {
        let worktree = worktree.unwrap_or(MAIN);
        let last = all.into_iter().filter(|known| of(known, worktree)).max_by_key(|known| known.listed.at_ms);
        return last.ok_or_else(|| missing(text));
    }
    let at_ms: u64 = moment.parse().map_err(|_| {
        CliError::new(Kind::Usage, format!("`{}` is no snapshot", clean(text)))
            .hint("a snapshot is a number that `agent-shim snapshot list` shows, or `last`")
    })?;
    let is_meant =
        |known: &Known| known.listed.at_ms == at_ms && worktree.is_none_or(|worktree| of(known, worktree));
    let mut found = all.into_iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(missing(text)),
        (Some(one), Some(other)) => {
            let message = format!("two worktrees have a snapshot {at_ms}");
            let hint = format!("name {}/{at_ms} or {}/{at_ms}", one.listed.worktree, other.listed.worktree);
            Err(CliError::new(Kind::Usage, message).hint(hint))
        }
    }
}

fn missing(text: &str) -> CliError {
    CliError::new(Kind::WrongState, format!("there is no snapshot {}", clean(text)))
        .hint("`agent-shim snapshot list` shows those there are")
}

/// What is wrong with the repository at home.
pub(super) fn at_home(error: &AtHomeError) -> CliError {
    let kind = match error {
        AtHomeError::AgentsOwn(_) | AtHomeError::Home(_) => Kind::WrongState,
        AtHomeError::Shown(source) if source.kind() == std::io::ErrorKind::BrokenPipe => Kind::BrokenPipe,
        AtHomeError::Git(_) | AtHomeError::Shown(_) | AtHomeError::Answer => Kind::Failed,
    };
    CliError::new(kind, "cannot read the snapshots at home").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(worktree: &str, at_ms: u64) -> Listed {
        Listed { worktree: worktree.to_owned(), at_ms, commit: format!("{at_ms:040}"), changed: 1 }
    }

    fn found(text: &str) -> Option<(String, u64, bool)> {
        let all = joined(
            vec![listed("main", 1), listed("fix", 2), listed("main", 2)],
            vec![listed("main", 2), listed("main", 3), listed("fix", 9)],
        );
        chosen(all, text).ok().map(|known| (known.listed.worktree, known.listed.at_ms, known.is_home))
    }

    #[test]
    fn the_one_that_is_meant_is_found() {
        let some = |worktree: &str, at_ms, is_home| Some((worktree.to_owned(), at_ms, is_home));
        assert_eq!(found("1"), some("main", 1, true));
        assert_eq!(found("last"), some("main", 3, false));
        assert_eq!(found("fix/last"), some("fix", 9, false));
        assert_eq!(found("main/2"), some("main", 2, true));
        for none in ["2", "4", "fix/1", "other/last", "x", "", "-1", "main/", "/1"] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
