mod keep;
mod known;
mod list;
mod restore;
mod show;
mod take;
mod told;

use std::process::ExitCode;
pub(super) use told::reason;

pub(super) use self::keep::Keeper;
use super::{context::Context, error::CliError};

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
    /// Show the snapshots there are, inside and at home
    List(list::ListArgs),
    /// Show what a snapshot changes against the commit it was made on
    Show(show::ShowArgs),
    /// Get a snapshot's files back
    Restore(restore::RestoreArgs),
}

pub(crate) fn run(ctx: &Context, args: &SnapshotArgs) -> Result<ExitCode, CliError> {
    match &args.what {
        What::Take(args) => take::run(ctx, args),
        What::List(args) => list::run(ctx, args),
        What::Show(args) => show::run(ctx, args),
        What::Restore(args) => restore::run(ctx, args),
    }
}
