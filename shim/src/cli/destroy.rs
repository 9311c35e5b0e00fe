use std::process::ExitCode;

use super::{
    context::Context,
    error::{CliError, Kind},
    keep,
    output::{print_json, print_line},
    pull, resolve,
    stop::{self, Removal},
};
use crate::sandbox::{Sandbox, StateError, stop as stop_sandbox, sweep_unfinished};

/// Remove a sandbox with its home and work
///
/// The project itself is not touched. A sandbox with a clone of the project is removed only if all commits and files in it
/// are in the project's repository too, wherever they are there. What git ignores, and what lies outside the clone, such as
/// in the home, counts for nothing and goes.
#[derive(clap::Args, Debug)]
pub(crate) struct DestroyArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Kill it first if it runs, and remove it whatever is lost with it
    #[arg(short, long)]
    force: bool,
    /// Pull from it first
    #[arg(short, long, conflicts_with = "force")]
    pull: bool,
}

pub(crate) fn run(ctx: &Context, args: &DestroyArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let name = sandbox.name().clone();
    if !args.force && sandbox.is_alive() {
        return Err(runs(&sandbox));
    }
    if ctx.global.dry_run {
        if !args.force && !args.pull {
            let lock = sandbox.lock(sandbox.lock_patience())?;
            keep::ensure_at_home(ctx, &sandbox, &lock, &forced(&sandbox))?;
        }
        print_line(&format!("{} would be removed", sandbox.folder().display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Even one that is dead can have left processes of its layer, or an end that is not written down.
    match stop::end(ctx, &sandbox, true, Removal::Never) {
        Err(error) if sandbox.is_alive() => return Err(error),
        _ => {}
    }
    match sandbox.lock(sandbox.lock_patience()) {
        // A sandbox that was to be removed at its end is gone.
        Err(StateError::NotFound(_)) => {}
        lock => {
            let lock = lock?;
            if !args.force
                && let Some(record) = keep::with_work(&sandbox)?
            {
                // Before we had the lock, another command can have started it.
                if sandbox.is_alive() {
                    return Err(runs(&sandbox));
                }
                if args.pull {
                    let pulled = keep::bring_home(ctx, &sandbox, &record, &lock)?;
                    if !ctx.global.json {
                        pull::show(&name, &pulled, false)?;
                    }
                }
                keep::ensure_at_home(ctx, &sandbox, &lock, &forced(&sandbox))?;
            }
            // A monitor that was slow can have come so far.
            if sandbox.is_alive() {
                stop_sandbox::force(&sandbox)?;
            }
            sandbox
                .remove()
                .map_err(StateError::io(format!("removing {}", sandbox.folder().display())))
                .map_err(|error| CliError::from(error).hint("run it again to remove the rest"))?;
        }
    }
    // Whoever cleans up does not want to see the remains of a start that was killed.
    sweep_unfinished(&ctx.data);
    if ctx.global.json {
        print_json(&serde_json::json!({ "name": name, "destroyed": true }))?;
    } else {
        print_line(name.as_str())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn runs(sandbox: &Sandbox) -> CliError {
    let name = sandbox.name();
    CliError::new(Kind::WrongState, format!("sandbox `{name}` is running"))
        .hint(format!("stop it first, or use `{}`", forced(sandbox)))
}

fn forced(sandbox: &Sandbox) -> String {
    format!("agent-shim destroy --force {}", sandbox.name())
}
