use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use agent_protocol::exit::How;

use super::{
    known::{Place, at_home, chosen},
    told,
};
use crate::{
    cli::{
        context::Context,
        error::{CliError, Kind},
        output::{clean, print_json, print_line},
        resolve,
    },
    client::capture::{capture, command},
    isolation::plan::WORKSPACE,
    repo::snapshot::{RestoreError, Restored, SnapshotError, restore},
    terminal::sanitize::sanitized,
};

/// For git inside to make a worktree.
const WORKTREE_WITHIN: Duration = Duration::from_mins(5);

/// Most that git says about it, bytes.
const MAX_SAID_BYTES: usize = 64 * 1024;

#[derive(clap::Args, Debug)]
#[command(allow_missing_positional = true, group(clap::ArgGroup::new("where").required(true)))]
pub(crate) struct RestoreArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// As `snapshot list` shows it, or `last`; WORKTREE/SNAPSHOT for another worktree than the main one
    snapshot: String,
    /// A folder of this host, new or empty
    #[arg(long, value_name = "DIR", group = "where")]
    into: Option<PathBuf>,
    /// A new worktree inside, on a new branch from the commit that the snapshot was made on
    #[arg(long, value_name = "BRANCH", group = "where")]
    worktree: Option<String>,
}

pub(super) fn run(ctx: &Context, args: &RestoreArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let place = Place::new(ctx, &sandbox)?;
    if ctx.global.dry_run {
        let snapshot = clean(&args.snapshot);
        print_line(&format!("would restore snapshot {snapshot} of `{}`", sandbox.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    match (&args.into, &args.worktree) {
        (Some(into), _) => into_folder(ctx, &place, &args.snapshot, into),
        (None, Some(branch)) => into_worktree(ctx, &place, &args.snapshot, branch),
        (None, None) => {
            Err(CliError::new(Kind::Usage, "restore it where?").hint("--into DIR, or --worktree BRANCH"))
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn into_folder(
    ctx: &Context,
    place: &Place<'_>,
    snapshot: &str,
    into: &std::path::Path,
) -> Result<(), CliError> {
    let listed = place.at_home(snapshot)?;
    let mut objects = place.home()?.objects().map_err(|error| at_home(&error.into()))?;
    let restored = restore(&mut objects, &listed.commit, into).map_err(|error| {
        let kind = match &error {
            RestoreError::NotEmpty(_) => Kind::WrongState,
            _ => Kind::Failed,
        };
        CliError::new(kind, format!("cannot restore snapshot {}", listed.at_ms)).because(&error)
    })?;
    let Restored { files, bytes, left_out, left_out_more, leading_out } = restored;
    if ctx.global.json {
        let left_out: Vec<_> = left_out
            .iter()
            .map(|(path, why)| serde_json::json!({ "path": String::from_utf8_lossy(path), "why": why }))
            .collect();
        return print_json(&serde_json::json!({
            "worktree": listed.worktree,
            "at_ms": listed.at_ms,
            "into": into.to_string_lossy(),
            "files": files,
            "bytes": bytes,
            "left_out": left_out,
            "left_out_more": left_out_more,
            "links_leading_out": leading_out,
        }));
    }
    print_line(&clean(&format!("{} in {}", told::count(files, "file"), into.display())))?;
    for (path, why) in &left_out {
        print_line(&format!("  left out: {} ({why})", sanitized(path)))?;
    }
    if left_out_more > 0 {
        print_line(&format!("  left out: {}", told::count(left_out_more, "more file")))?;
    }
    if leading_out > 0 {
        print_line(&format!(
            "  beware: {} out of the folder",
            match leading_out {
                1 => "1 link leads".to_owned(),
                more => format!("{more} links lead"),
            }
        ))?;
    }
    Ok(())
}

/// A branch at the commit that it was made on, and its files as what is not committed there.
fn into_worktree(ctx: &Context, place: &Place<'_>, snapshot: &str, branch: &str) -> Result<(), CliError> {
    let name = place.sandbox.name();
    let cannot = || format!("cannot restore the snapshot into a worktree of `{name}`");
    let found = chosen(place.all()?, snapshot)?;
    if !found.is_inside {
        return Err(CliError::new(Kind::WrongState, "it is not inside any more")
            .while_doing(cannot())
            .hint("`--into DIR` restores it on this host"));
    }
    if branch.starts_with('-') || branch.is_empty() || branch.contains("..") || branch.contains('\0') {
        return Err(CliError::new(Kind::Usage, format!("`{}` is not the name of a branch", clean(branch))));
    }
    let commit = found.listed.commit;
    let folder = format!("{WORKSPACE}/.worktrees/{branch}");
    // One without a parent is a beginning itself.
    let parent = git(place, &["rev-parse", "--verify", "-q", &format!("{commit}^")]);
    let base = if parent.is_ok() { format!("{commit}^") } else { commit.clone() };
    git(place, &["worktree", "add", "-q", "-b", branch, "--", &folder, &base])
        .map_err(|error| error.while_doing(cannot()))?;
    git(place, &["-C", &folder, "restore", "--source", &commit, "--worktree", "--", ":/"])
        .map_err(|error| error.while_doing(cannot()))?;
    if ctx.global.json {
        return print_json(&serde_json::json!({
            "worktree": found.listed.worktree,
            "at_ms": found.listed.at_ms,
            "branch": branch,
            "folder": folder,
        }));
    }
    print_line(&clean(&format!("{folder} on the new branch {branch}")))
}

/// Runs the environment's git inside.
fn git(place: &Place<'_>, words: &[&str]) -> Result<(), CliError> {
    let failed = |error: SnapshotError| told::failed(place.sandbox, error);
    let deadline = Instant::now() + WORKTREE_WITHIN;
    let endpoint = place.reach().endpoint().map_err(|error| failed(error.into()))?;
    let connection = endpoint.connect(deadline).map_err(|error| failed(SnapshotError::Connection(error)))?;
    let request = command(["git", "-C", WORKSPACE].iter().chain(words).copied());
    let captured =
        capture(connection, request, MAX_SAID_BYTES, deadline).map_err(|error| match error.into() {
            SnapshotError::NoProgram => CliError::new(Kind::Requirement, "there is no git inside")
                .hint("add git to the sandbox's environment"),
            error => failed(error),
        })?;
    if captured.exit.how == How::Code(0) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&captured.errors);
    let said = said.trim().trim_start_matches("fatal: ").to_owned();
    Err(CliError::new(Kind::Failed, if said.is_empty() { "git inside failed".to_owned() } else { said }))
}
