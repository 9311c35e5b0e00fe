use super::{context::Context, error::CliError};
use std::process::ExitCode;
/// Attach
#[derive(clap::Args, Debug)]
pub(crate) struct AttachArgs {
    name: Option<String>,
}
pub(crate) fn run(_ctx: &Context, _args: &AttachArgs) -> Result<ExitCode, CliError> {
    Ok(ExitCode::SUCCESS)
}
