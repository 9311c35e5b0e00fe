use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{
    context::Context,
    error::CliError,
    launch_args::LaunchArgs,
    output::{clean, print_json, print_line},
    prepare::Stay,
    resolve,
    snapshot::Keeper,
    worktree,
};
use crate::{client, sandbox::start::Occasion, worktree::Worktrees};

/// How long init may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Start the agent anew
///
/// In a running sandbox the agent gets a new session, whatever state it is in, and viewers stay attached. A stopped
/// sandbox is started.
#[derive(clap::Args, Debug)]
pub(crate) struct RestartArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Only the session of this branch's worktree
    #[arg(long, value_name = "BRANCH")]
    worktree: Option<String>,
}

pub(crate) fn run(ctx: &Context, args: &RestartArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    if ctx.global.dry_run {
        let whose = args.worktree.as_ref().map_or_else(String::new, |branch| format!(" on `{branch}`"));
        print_line(&clean(&format!("the agent{whose} of `{}` would be started anew", sandbox.name())))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(keeper) = Keeper::new(ctx, &sandbox) {
        keeper.before();
    }
    if let Some(branch) = &args.worktree {
        let branch = worktree::named(ctx, &sandbox, branch)?;
        sandbox.ensure_monitored();
        let doing = || format!("cannot restart the session of `{branch}` in `{}`", sandbox.name());
        Worktrees::of(&ctx.data, &sandbox)
            .restart(&branch)
            .map_err(|error| worktree::told(&sandbox, error, doing()))?;
    } else if sandbox.is_alive() {
        sandbox.ensure_monitored();
        let cannot = || format!("cannot restart the agent of `{}`", sandbox.name());
        let deadline = Instant::now() + PATIENCE.max(sandbox.patience().answer);
        let mut connection =
            sandbox.connect(deadline).map_err(|error| CliError::from(error).while_doing(cannot()))?;
        client::restart(&mut connection, deadline)
            .map_err(|error| CliError::from(error).while_doing(cannot()))?;
    } else {
        LaunchArgs::for_name(sandbox.name()).prepare(ctx, Stay::Up)?.start(ctx, &Occasion::default())?;
    }
    if ctx.global.json {
        print_json(&sandbox.observe())?;
    } else {
        print_line(sandbox.name().as_str())?;
    }
    Ok(ExitCode::SUCCESS)
}
