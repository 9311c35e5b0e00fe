use std::{process::ExitCode, time::Duration};

use super::{
    context::Context,
    error::{CliError, Kind},
    output::{print_json, print_line},
    resolve,
    snapshot::Keeper,
};
use crate::sandbox::{
    LOCK_PATIENCE, Sandbox, StateError,
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
}

pub(crate) fn run(ctx: &Context, args: &StopArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    if ctx.global.dry_run {
        let how = if args.force { "killed" } else { "stopped in order" };
        print_line(&format!("`{}` would be {how}", sandbox.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    match end(ctx, &sandbox, args.force)? {
        Stopped::Already => {
            let message = format!("sandbox `{}` is not running", sandbox.name());
            Err(CliError::new(Kind::WrongState, message))
        }
        how => {
            if ctx.global.json {
                let how = if how == Stopped::InOrder { "in-order" } else { "killed" };
                print_json(&serde_json::json!({ "name": sandbox.name(), "stopped": how }))?;
            } else {
                print_line(sandbox.name().as_str())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Ends a sandbox; one that was to be removed at its end is gone then.
pub(super) fn end(ctx: &Context, sandbox: &Sandbox, force: bool) -> Result<Stopped, CliError> {
    // By force there is no waiting for another command that is stuck: what the kernel is asked to do, it does twice
    // as well as once.
    let patience = if force { FORCE_LOCK_PATIENCE } else { LOCK_PATIENCE };
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
        && !remove
    {
        keeper.after(lock);
    }
    if stopped == Stopped::Killed && !force {
        ctx.say("it did not end in time and was killed");
    }
    if remove && stopped != Stopped::Already && lock.is_some() {
        sandbox.remove().map_err(StateError::io("removing the sandbox"))?;
    }
    Ok(stopped)
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
