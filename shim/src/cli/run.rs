use super::{context::Context, error::CliError, launch_args::LaunchArgs};
use std::process::ExitCode;
/// Run
#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}
pub(crate) fn run(_ctx: &Context, _args: &RunArgs) -> Result<ExitCode, CliError> {
    Ok(ExitCode::SUCCESS)
}
