use std::process::ExitCode;

use super::{
    context::Context,
    error::CliError,
    launch_args::LaunchArgs,
    output::{print_json, print_line},
    prepare::Stay,
};
use crate::sandbox::start::Occasion;

/// Start a sandbox and its agent
///
/// Prints the sandbox's name once the agent was executed. A stopped sandbox goes on with its home and work; flags that are
/// given replace what it was made with.
#[derive(clap::Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

pub(crate) fn run(ctx: &Context, args: &StartArgs) -> Result<ExitCode, CliError> {
    let ready = args.launch.prepare(ctx, Stay::Up)?;
    if ctx.global.dry_run {
        ready.show(ctx, &Occasion::default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (sandbox, _) = ready.start(ctx, &Occasion::default())?;
    if ctx.global.json {
        print_json(&sandbox.observe())?;
    } else {
        print_line(sandbox.name().as_str())?;
    }
    Ok(ExitCode::SUCCESS)
}
