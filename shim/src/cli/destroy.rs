use std::process::ExitCode;

use super::{
    context::Context,
    error::{CliError, Kind},
    output::{print_json, print_line},
    resolve, stop,
};
use crate::sandbox::{LOCK_PATIENCE, StateError, stop as stop_sandbox, sweep_unfinished};

/// Remove a sandbox with its home and work
///
/// The project itself is not touched.
#[derive(clap::Args, Debug)]
pub(crate) struct DestroyArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(ctx: &Context, args: &DestroyArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let name = sandbox.name().clone();
    if !args.force && sandbox.is_alive() {
        return Err(CliError::new(Kind::WrongState, format!("sandbox `{name}` is running"))
            .hint(format!("stop it first, or use `agent-shim destroy --force {name}`")));
    }
    if ctx.global.dry_run {
        print_line(&format!("{} would be removed", sandbox.folder().display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Even one that is dead can have left processes of its layer, or an end that is not written down.
    match stop::end(ctx, &sandbox, true) {
        Err(error) if sandbox.is_alive() => return Err(error),
        _ => {}
    }
    match sandbox.lock(LOCK_PATIENCE) {
        // A sandbox that was to be removed at its end is gone.
        Err(StateError::NotFound(_)) => {}
        lock => {
            let _lock = lock?;
            // Before we had the lock, another command can have started it, or a monitor that was slow have come so far.
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
