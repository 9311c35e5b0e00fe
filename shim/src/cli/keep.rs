//! Nothing is removed that is nowhere else: what a clone holds is compared with what this host has.

use std::{fs, io, path::Path, time::Duration};

use super::{
    context::Context,
    error::{CliError, Kind},
    pull::{agents_own, count, described, told},
};
use crate::{
    repo::{
        Choice, ENDPOINT_PATIENCE, Limits, Source,
        lacking::{Lacking, LackingError},
        pull::{Pull, PullError, Pulled},
    },
    sandbox::{
        Sandbox, StateError,
        endpoint::{Endpoint, Reach},
        lock::ChangeLock,
        record::{Record, Workspace},
    },
};

/// For finding out what would be lost.
const LOOK_WITHIN: Duration = Duration::from_mins(10);

/// Most refs that are named of those that would be lost.
const MOST_NAMED: usize = 20;

/// The record of a sandbox with work in it that may be nowhere else; nothing where there is no such work.
pub(super) fn with_work(sandbox: &Sandbox) -> Result<Option<Record>, CliError> {
    if is_empty(&sandbox.folder().join("work")) {
        return Ok(None);
    }
    match sandbox.record() {
        Ok(record) => Ok(Some(record).filter(|record| record.workspace == Workspace::Clone)),
        // Its removal has begun, so all this was asked then.
        Err(StateError::Unfinished { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses where a sandbox that does not run has work that is nowhere else, or where that cannot be told. `anyway` is
/// the command that does it all the same.
pub(super) fn ensure_at_home(
    ctx: &Context,
    sandbox: &Sandbox,
    lock: &ChangeLock,
    anyway: &str,
) -> Result<(), CliError> {
    let Some(record) = with_work(sandbox)? else { return Ok(()) };
    let name = sandbox.name();
    let lacking = look(ctx, sandbox, &record, lock).map_err(|error| {
        let message = format!("cannot tell whether all work of `{name}` is at home too");
        let hint = format!("`{anyway}` removes it all the same");
        CliError::new(Kind::WrongState, message).because(&error).hint(hint)
    })?;
    if lacking.is_nothing() {
        return Ok(());
    }
    let hint = if lacking.uncommitted > 0 {
        format!("commit it inside and `agent-shim pull {name}`, or give it up with `{anyway}`")
    } else {
        format!("`agent-shim pull {name}` brings it home; `{anyway}` gives it up")
    };
    let message = format!("`{name}` has work that is nowhere else");
    Err(CliError::new(Kind::WrongState, message).lines(lines(&lacking)).hint(hint))
}

/// Brings home what a sandbox that does not run has.
pub(super) fn bring_home(
    ctx: &Context,
    sandbox: &Sandbox,
    record: &Record,
    lock: &ChangeLock,
) -> Result<Pulled, CliError> {
    let endpoint = Endpoint::open_locked(&ctx.data, sandbox, lock);
    let reach = endpoint.map(|endpoint| Reach::through(&ctx.data, sandbox, endpoint));
    let reach = reach.map_err(|error| told(sandbox.name(), &PullError::Source(error.into())))?;
    run(sandbox, record, &reach, Limits::default(), false).map_err(|error| told(sandbox.name(), &error))
}

/// Brings home what a sandbox has, whatever it is doing.
pub(super) fn pull(ctx: &Context, sandbox: &Sandbox, record: &Record) -> Result<Pulled, CliError> {
    let reach = Reach::new(&ctx.data, sandbox, ENDPOINT_PATIENCE);
    run(sandbox, record, &reach, Limits::default(), false).map_err(|error| told(sandbox.name(), &error))
}

fn look(
    ctx: &Context,
    sandbox: &Sandbox,
    record: &Record,
    lock: &ChangeLock,
) -> Result<Lacking, LackingError> {
    let endpoint = Endpoint::open_locked(&ctx.data, sandbox, lock)?;
    let reach = Reach::through(&ctx.data, sandbox, endpoint);
    let uncommitted = Lacking::uncommitted(&reach)?;
    let limits = Limits { time: LOOK_WITHIN, ..Limits::default() };
    Ok(Lacking { pulled: run(sandbox, record, &reach, limits, true)?, uncommitted })
}

fn run(
    sandbox: &Sandbox,
    record: &Record,
    reach: &Reach<'_>,
    limits: Limits,
    dry_run: bool,
) -> Result<Pulled, PullError> {
    let agents_own = agents_own(record);
    let pull = Pull {
        name: sandbox.name(),
        source: Source::Sandbox(reach),
        into: &record.project,
        agents_own: &agents_own,
        choice: Choice::default(),
        limits,
        dry_run,
    };
    pull.run()
}

/// What would be lost, for people.
fn lines(lacking: &Lacking) -> Vec<String> {
    let Lacking { pulled, uncommitted } = lacking;
    let mut lines = Vec::new();
    if *uncommitted > 0 {
        lines.push(format!("{} not committed", count(*uncommitted as u64, "file")));
    }
    if pulled.found.objects > 0 {
        let (found, diff) = (&pulled.found, &pulled.diff);
        let changed =
            format!("{} changed +{} -{}", count(diff.files, "file"), diff.insertions, diff.deletions);
        lines.push(match found.commits {
            // Such as a tag with words of its own.
            0 => count(found.objects, "object"),
            commits => format!("{}, {changed}", count(commits, "commit")),
        });
        lines.extend(pulled.refs.iter().take(MOST_NAMED).map(described));
        if pulled.refs.len() > MOST_NAMED {
            lines.push(format!("and {} more", pulled.refs.len() - MOST_NAMED));
        }
    }
    lines
}

/// Whether there is nothing in a folder, or none. One that cannot be read may hold something.
fn is_empty(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
