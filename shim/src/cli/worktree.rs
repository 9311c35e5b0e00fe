//! `agent-shim worktree`: several lines of work in one sandbox.

use std::{ffi::OsString, process::ExitCode};

use clap::Subcommand;

use super::{
    context::Context,
    error::{self, CliError, Kind},
    list::agent_words,
    output::{clean, print_json, print_line, print_table},
    resolve,
};
use crate::{
    client::ConnectionError,
    sandbox::Sandbox,
    worktree::{Branch, BranchError, Listed, WorktreeError, Worktrees},
};

/// Work on several branches at once, each with an agent of its own
///
/// A worktree of a branch is a folder below /workspace/.worktrees with that branch checked out, and a session in it: the
/// sandbox's agent once more, on a terminal of its own. `attach`, `exec`, `logs` and `restart` take `--worktree BRANCH`.
#[derive(clap::Args, Debug)]
pub(crate) struct WorktreeArgs {
    #[command(subcommand)]
    command: WorktreeCommand,
}

#[derive(Subcommand, Debug)]
#[command(disable_help_subcommand = true)]
enum WorktreeCommand {
    /// Make a worktree and start an agent in it
    ///
    /// Prints where it is inside. What stands behind two dashes runs in place of the sandbox's agent. In a sandbox that is
    /// stopped the agent starts with it.
    Add(AddArgs),
    /// List the worktrees, the workspace itself first
    List(ListArgs),
    /// End a worktree's session and remove its folder
    ///
    /// Its branch stays. Changes that are not committed, and commits that are on no branch, keep it from being removed.
    Remove(RemoveArgs),
}

#[derive(clap::Args, Debug)]
struct AddArgs {
    /// The branch to check out
    branch: String,
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Make the branch, from what the workspace has checked out
    #[arg(short, long)]
    create: bool,
    /// Another program than the sandbox's agent, and its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
}

#[derive(clap::Args, Debug)]
struct RemoveArgs {
    /// Its branch
    branch: String,
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Remove it whatever is lost by that, and end its session without waiting
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(ctx: &Context, args: &WorktreeArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        WorktreeCommand::Add(args) => add(ctx, args)?,
        WorktreeCommand::List(args) => list(ctx, args)?,
        WorktreeCommand::Remove(args) => remove(ctx, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(ctx: &Context, args: &AddArgs) -> Result<(), CliError> {
    let branch = branch(&args.branch)?;
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let command = (!args.command.is_empty()).then(|| words(&args.command)).transpose()?;
    if ctx.global.dry_run {
        return print_line(&format!(
            "would make a worktree of `{branch}` at {} in `{}`",
            branch.path(),
            sandbox.name()
        ));
    }
    sandbox.ensure_monitored();
    let made = Worktrees::of(&ctx.data, &sandbox).add(&branch, args.create, command).map_err(|error| {
        told(&sandbox, error, format!("cannot make a worktree of `{branch}` in `{}`", sandbox.name()))
    })?;
    if ctx.global.json {
        print_json(&serde_json::json!({
            "sandbox": sandbox.name().as_str(), "branch": branch.as_str(), "path": made.branch.path(),
            "unit": made.branch.unit(), "command": made.command,
        }))
    } else {
        print_line(&made.branch.path())
    }
}

fn list(ctx: &Context, args: &ListArgs) -> Result<(), CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    sandbox.ensure_monitored();
    let listed = Worktrees::of(&ctx.data, &sandbox).list().map_err(|error| {
        told(&sandbox, error, format!("cannot list the worktrees of `{}`", sandbox.name()))
    })?;
    if ctx.global.json {
        return print_json(&listed);
    }
    let head = ["BRANCH", "PATH", "SESSION"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(listed.iter().map(row)).collect();
    print_table(&rows)
}

fn row(listed: &Listed) -> Vec<String> {
    let branch = listed.branch.as_deref().unwrap_or("-");
    let branch = match &listed.checked_out {
        Some(other) if other != branch => format!("{} (on {})", clean(branch), clean(other)),
        _ => clean(branch),
    };
    let mut session = listed.session.as_ref().map_or_else(|| "none".to_owned(), agent_words);
    if let Some(reason) = listed.session.as_ref().and_then(|session| session.reason.as_ref()) {
        session.extend([", ", &clean(reason)]);
    }
    match listed.folder {
        "missing" => session.push_str("; the folder is gone"),
        "replaced" => session.push_str("; the folder is another one now"),
        _ => {}
    }
    vec![branch, clean(&listed.path), session]
}

fn remove(ctx: &Context, args: &RemoveArgs) -> Result<(), CliError> {
    let branch = branch(&args.branch)?;
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    if ctx.global.dry_run {
        return print_line(&format!("would remove the worktree of `{branch}` in `{}`", sandbox.name()));
    }
    sandbox.ensure_monitored();
    Worktrees::of(&ctx.data, &sandbox).remove(&branch, args.force).map_err(|error| {
        told(&sandbox, error, format!("cannot remove the worktree of `{branch}` in `{}`", sandbox.name()))
    })?;
    if ctx.global.json {
        print_json(&serde_json::json!({ "sandbox": sandbox.name().as_str(), "branch": branch.as_str() }))
    } else {
        print_line(branch.as_str())
    }
}

/// The branch that a person named.
fn branch(name: &str) -> Result<Branch, CliError> {
    name.parse().map_err(|error: BranchError| CliError::new(Kind::Usage, error.to_string()))
}

/// The worktree that `--worktree` names, which the sandbox has.
pub(super) fn named(ctx: &Context, sandbox: &Sandbox, name: &str) -> Result<Branch, CliError> {
    let branch = branch(name)?;
    Worktrees::of(&ctx.data, sandbox).find(&branch).map_err(|error| {
        let message = error.to_string();
        told(sandbox, error, message)
    })?;
    Ok(branch)
}

fn words(command: &[OsString]) -> Result<Vec<String>, CliError> {
    let word = |word: &OsString| word.to_str().map(str::to_owned);
    let words: Option<Vec<String>> = command.iter().map(word).collect();
    words.ok_or_else(|| CliError::new(Kind::Usage, "the command is not UTF-8"))
}

/// What went wrong, with the exit code and what to do.
pub(super) fn told(sandbox: &Sandbox, error: WorktreeError, doing: String) -> CliError {
    let name = sandbox.name();
    let (kind, hint) = match &error {
        WorktreeError::Endpoint(error) => error::of_endpoint(error),
        WorktreeError::Connection(ConnectionError::NotRunning) => {
            (Kind::WrongState, format!("`agent-shim start {name}` starts it"))
        }
        WorktreeError::NoGit => (Kind::Requirement, "add git to the sandbox's environment".to_owned()),
        WorktreeError::NoRepository(_) => {
            (Kind::WrongState, "worktrees need a git repository at /workspace".to_owned())
        }
        WorktreeError::NoBranch(_) => {
            (Kind::NotFound, "`--create` makes it, from what the workspace has checked out".to_owned())
        }
        WorktreeError::BranchThere(_) => {
            (Kind::WrongState, "without `--create` it is checked out".to_owned())
        }
        WorktreeError::Unknown(_) => {
            (Kind::NotFound, format!("`agent-shim worktree list {name}` shows those that are there"))
        }
        WorktreeError::There(branch) => {
            (Kind::WrongState, format!("`agent-shim attach {name} --worktree {branch}` shows its session"))
        }
        WorktreeError::Overlaps(..) => (Kind::WrongState, "give the branch another name".to_owned()),
        WorktreeError::TooMany => (Kind::WrongState, "`agent-shim worktree remove` makes room".to_owned()),
        WorktreeError::InUse(_) => (Kind::WrongState, String::new()),
        WorktreeError::Dirty(_) => {
            (Kind::WrongState, "commit them, or throw them away with `--force`".to_owned())
        }
        WorktreeError::Unreachable => {
            (Kind::WrongState, "make a branch of them, or throw them away with `--force`".to_owned())
        }
        WorktreeError::Replaced(_) => {
            (Kind::WrongState, "look at it, or remove what is there with `--force`".to_owned())
        }
        WorktreeError::State(_) | WorktreeError::Connection(_) | WorktreeError::Git { .. } => {
            (Kind::Failed, String::new())
        }
    };
    let made = match error {
        WorktreeError::State(error) => return CliError::from(error).while_doing(doing),
        error => CliError::new(kind, doing).because(&error),
    };
    if hint.is_empty() { made } else { made.hint(hint) }
}
