//! What every subcommand has at hand.

use std::{env, path::PathBuf};

use super::{error::CliError, output::tell};
use crate::sandbox::{StateError, paths::DataDir};

// Flags that every subcommand takes. A doc comment would become the help of the subcommand.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Global {
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Show the exact command that launches the sandbox
    #[arg(short, long, global = true)]
    pub(crate) debug: bool,
    /// Show everything that would be done, and do nothing
    #[arg(short = 'n', long, global = true)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// Even into a file
    Always,
    /// Nowhere
    Never,
}

/// The flags, and where everything is.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) data: DataDir,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self, CliError> {
        Ok(Self { global, data: DataDir::from_environment()? })
    }

    /// Where the person is, without symbolic links in the path.
    pub(crate) fn current_folder() -> Result<PathBuf, CliError> {
        let doing = "looking where we are";
        Ok(env::current_dir().and_then(|path| path.canonicalize()).map_err(StateError::io(doing))?)
    }

    /// Tells progress and circumstances, with `-v`.
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        if self.global.verbose > 0 {
            tell(&text.to_string());
        }
    }
}
