use std::process::ExitCode;
use super::{context::Context, error::CliError, launch_args::LaunchArgs};
/// Run
#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}
pub(crate) fn run(_ctx: &Context, _args: &RunArgs) -> Result<ExitCode, CliError> { Ok(ExitCode::SUCCESS) }
