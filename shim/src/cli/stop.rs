use std::{process::ExitCode, time::Duration};

use super::{
    context::Context,
    error::{CliError, Kind},
    keep,
    output::{print_json, print_line},
    pull, resolve,
    snapshot::Keeper,
};
use crate::repo::pull::Pulled;
use crate::sandbox::{
    Sandbox, StateError,
    lock::ChangeLock,
    record::Workspace,
    stop::{self, StopError, Stopped},
};

/// Who kills has a second for everything.
const FORCE_LOCK_PATIENCE: Duration = Duration::from_millis(50);

/// Stop a sandbox
///
/// The agent is asked to end, then the services, then everything else; what does not end in time is killed. Home and
/// work stay for the next start.
#[derive(clap::Args, Debug)]
pub(crate) struct StopArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Kill everything now
    #[arg(short, long)]
    force: bool,
    /// Bring its commits home then, as `agent-shim pull` does
    #[arg(short, long)]
    sync: bool,
}

/// What becomes of a sandbox that was to be removed at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is removed, once all of its work is at home.
    AsAsked,
    /// It stays.
    Never,
}

pub(crate) fn run(ctx: &Context, args: &StopArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    if ctx.global.dry_run {
        let how = if args.force { "killed" } else { "stopped in order" };
        print_line(&format!("`{}` would be {how}", sandbox.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = sandbox.name();
    let how = match end(ctx, &sandbox, args.force, Removal::AsAsked)? {
        Stopped::Already => {
            let error = CliError::new(Kind::WrongState, format!("sandbox `{name}` is not running"));
            let hint = format!("`agent-shim pull {name}` brings its commits home");
            return Err(if args.sync { error.hint(hint) } else { error });
        }
        Stopped::InOrder => "in-order",
        Stopped::Killed => "killed",
    };
    let pulled = if args.sync { sync(ctx, &sandbox)? } else { None };
    if ctx.global.json {
        let pulled = pulled.map(|pulled| pull::as_json(name, &pulled, false));
        print_json(&serde_json::json!({ "name": name, "stopped": how, "pulled": pulled }))?;
    } else {
        if let Some(pulled) = pulled {
            pull::show(name, &pulled, false)?;
        }
        print_line(name.as_str())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings home what a sandbox that has ended holds; nothing where it has been removed, or works in the project itself.
fn sync(ctx: &Context, sandbox: &Sandbox) -> Result<Option<Pulled>, CliError> {
    let pulled = match sandbox.record() {
        Ok(record) if record.workspace == Workspace::Clone => keep::pull(ctx, sandbox, &record),
        Ok(_) => return Ok(None),
        Err(_) if !sandbox.folder().exists() => return Ok(None),
        Err(error) => Err(error.into()),
    };
    let stopped = format!("`{}` was stopped, but its work is not at home", sandbox.name());
    pulled.map(Some).map_err(|error| error.while_doing(stopped).into_failure())
}

/// Ends a sandbox; one that was to be removed at its end is gone then.
pub(super) fn end(
    ctx: &Context,
    sandbox: &Sandbox,
    force: bool,
    removal: Removal,
) -> Result<Stopped, CliError> {
    // By force there is no waiting for another command that is stuck: what the kernel is asked to do, it does twice
    // as well as once.
    let patience = if force { FORCE_LOCK_PATIENCE } else { sandbox.lock_patience() };
    let lock = match sandbox.lock(patience) {
        Err(StateError::Locked { .. }) if force => None,
        lock => Some(lock?),
    };
    let remove = sandbox.record().is_ok_and(|record| record.remove);
    // By force there is no time for it.
    let keeper = if force { None } else { Keeper::new(ctx, sandbox) };
    if let Some(keeper) = &keeper {
        keeper.before();
    }
    let stopped = if force { stop::force(sandbox)? } else { gracefully(sandbox)? };
    if let (Some(keeper), Some(lock)) = (&keeper, &lock)
        && stopped != Stopped::Already
    {
        keeper.after(lock);
    }
    if stopped == Stopped::Killed && !force {
        ctx.say("it did not end in time and was killed");
    }
    if let Some(lock) = lock.filter(|_| remove && removal == Removal::AsAsked && stopped != Stopped::Already)
    {
        remove_at_end(ctx, sandbox, &lock)?;
    }
    Ok(stopped)
}

/// Removes a sandbox that was to be removed at its end. Its monitor does the same; whoever has the lock first does it.
fn remove_at_end(ctx: &Context, sandbox: &Sandbox, lock: &ChangeLock) -> Result<(), CliError> {
    if let Some(record) = keep::with_work(sandbox)? {
        let kept = |error: CliError| {
            error.while_doing(format!("`{}` was stopped, and stays", sandbox.name())).into_failure()
        };
        keep::bring_home(ctx, sandbox, &record, lock).map_err(kept)?;
        let anyway = format!("agent-shim destroy --force {}", sandbox.name());
        keep::ensure_at_home(ctx, sandbox, lock, &anyway).map_err(kept)?;
    }
    Ok(sandbox.remove().map_err(StateError::io("removing the sandbox"))?)
}

fn gracefully(sandbox: &Sandbox) -> Result<Stopped, CliError> {
    stop::gracefully(sandbox).map_err(|error| {
        let stuck = matches!(error, StopError::Stuck);
        let mut error =
            CliError::from(error).while_doing(format!("cannot stop sandbox `{}`", sandbox.name()));
        if stuck {
            if let Some(place) = sandbox.diagnose().stuck {
                error = error.because(&std::io::Error::other(place));
            }
            error = error.hint(format!("`agent-shim stop --force {}` kills it", sandbox.name()));
        }
        error
    })
}
