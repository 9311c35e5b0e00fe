//! Nothing is removed that is nowhere else: what a clone holds is compared with what this host has.

use std::{fs, io, path::Path, time::Duration};

use super::{
    context::Context,
    error::{CliError, Kind},
    pull::{agents_own, count, described, told},
    snapshot::reason,
};
use crate::{
    repo::{
        Choice, ENDPOINT_PATIENCE, Limits, Source,
        lacking::{Lacking, LackingError, Loose},
        pull::{Described, Pull, PullError, Pulled},
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
    let hint = if lacking.loose.is_nothing() {
        format!("`agent-shim pull {name}` brings it home; `{anyway}` gives it up")
    } else {
        format!("no pull brings those files home; `{anyway}` gives them up")
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
    // What cannot be gathered is told when it is asked for; what can be pulled is pulled.
    let _ = Loose::gather(&reach, record);
    run(sandbox, record, &reach, Limits::default(), false).map_err(|error| told(sandbox.name(), &error))
}

/// Brings home what a sandbox has, whatever it is doing.
pub(super) fn pull(ctx: &Context, sandbox: &Sandbox, record: &Record) -> Result<Pulled, CliError> {
    let reach = Reach::new(&ctx.data, sandbox, ENDPOINT_PATIENCE);
    let _ = Loose::gather(&reach, record);
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
    let loose = Loose::gather(&reach, record)?;
    let limits = Limits { time: LOOK_WITHIN, ..Limits::default() };
    Lacking::new(run(sandbox, record, &reach, limits, true)?, loose, MOST_NAMED)
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
    let Lacking { pulled, refs, loose } = lacking;
    let mut lines = Vec::new();
    if !loose.is_nothing() {
        let files = loose.files.len() as u64 + loose.more;
        lines.push(format!("{} that no commit can hold", count(files, "file")));
        let named = loose.files.iter().take(MOST_NAMED);
        lines.extend(named.map(|file| format!("{} ({})", file.path, reason(&file.why))));
    }
    if pulled.found.objects > 0 {
        let (found, diff) = (&pulled.found, &pulled.diff);
        let mut parts = vec![match found.commits {
            // Such as a tag with words of its own.
            0 => count(found.objects, "object"),
            commits => count(commits, "commit"),
        }];
        if diff.files > 0 {
            parts.push(format!(
                "{} changed +{} -{}",
                count(diff.files, "file"),
                diff.insertions,
                diff.deletions
            ));
        }
        lines.push(parts.join(", "));
        lines.extend(refs.iter().map(one));
        if refs.len() == MOST_NAMED {
            lines.push("and perhaps more".to_owned());
        }
    }
    lines
}

/// One ref that would be lost. What was not committed became a snapshot just now.
fn one(change: &Described) -> String {
    let from = change.change.from.as_ref();
    let snapshot = from.and_then(|from| from.strip_prefix("refs/agents/snapshots/"));
    let Some(snapshot) = snapshot else { return described(change) };
    let worktree = snapshot.split(|byte| *byte == b'/').next().unwrap_or_default();
    let worktree = String::from_utf8_lossy(worktree);
    format!("{}, files of the worktree {worktree} that are not committed", described(change))
}

/// Whether there is nothing in a folder, or none. One that cannot be read may hold something.
fn is_empty(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
