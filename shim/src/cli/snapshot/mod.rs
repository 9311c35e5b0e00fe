use std::process::ExitCode;

use super::{context::Context, error::CliError};

mod take;
mod told;

/// Keep the agent's work in progress, look at what was kept, and get it back
///
/// A snapshot is everything in a worktree, committed or not, as a commit that no branch holds. The agent's own branches,
/// index and files are not touched. `pull` brings snapshots home with the rest.
#[derive(clap::Args, Debug)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
#[command(disable_help_subcommand = true)]
enum What {
    /// Take one now
    ///
    /// Of every worktree that differs from its checked-out commit and from its last snapshot.
    Take(take::TakeArgs),
}

pub(crate) fn run(ctx: &Context, args: &SnapshotArgs) -> Result<ExitCode, CliError> {
    match &args.what {
        What::Take(args) => take::run(ctx, args),
    }
}
