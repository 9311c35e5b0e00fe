use std::{fs, path::PathBuf, process::ExitCode};

use clap::CommandFactory;

use super::{Cli, context::Context, error::CliError};
use crate::sandbox::StateError;

/// Write the manual pages into a folder
#[derive(clap::Args, Debug)]
pub(crate) struct ManArgs {
    /// The folder; made if it is not there
    folder: PathBuf,
}

pub(crate) fn run(_ctx: &Context, args: &ManArgs) -> Result<ExitCode, CliError> {
    let written = fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder));
    written.map_err(StateError::io(format!("writing manual pages into {}", args.folder.display())))?;
    Ok(ExitCode::SUCCESS)
}
