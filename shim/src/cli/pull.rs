use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use agent_protocol::retention::Keep;
use serde_json::json;

use super::{
    context::Context,
    error::{self, CliError, Kind},
    merge_report,
    output::{print_json, print_line},
    pull_progress::Shown,
    resolve,
};
use crate::{
    client::interrupt::Interrupt,
    config::values,
    repo::{
        Change, Choice, ENDPOINT_PATIENCE, GitError, HomeError, Limits, PublishError, RefName, Source,
        SourceError, Watch, is_snapshot, namespace,
        pull::{Described, Pull, PullError, Pulled},
    },
    sandbox::{
        Sandbox, StateError,
        endpoint::Reach,
        name::Name,
        record::{Record, Workspace},
        sync::{self, Came, Pulls},
        view,
    },
};

/// Bring the agent's commits home
///
/// Fetches every branch, tag and stash of the repository inside to refs/agents/NAME/ of the project's repository. Nothing
/// of yours is changed: no branch, no file, unless --merge is given. `agent-shim sync` is the same.
#[derive(clap::Args, Debug)]
pub(crate) struct PullArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Fetch only this branch; can be repeated
    #[arg(short, long, value_name = "BRANCH")]
    branch: Vec<String>,
    /// The repository to fetch into, instead of the project's
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Then merge it into the branch you have checked out: BRANCH, or what is checked out inside
    #[arg(short, long)]
    merge: bool,
    /// Remove refs from refs/agents/NAME/ that are no longer inside
    #[arg(short, long, conflicts_with = "branch")]
    prune: bool,
    /// Give up after this time, such as 90s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Refuse to take more than this, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    max_size: Option<u64>,
    /// Run this command on the host and speak git's pack protocol with it instead of the sandbox
    #[arg(long, value_name = "COMMAND")]
    upload_pack: Option<OsString>,
}

pub(crate) fn run(ctx: &Context, args: &PullArgs) -> Result<ExitCode, CliError> {
    if args.merge && args.branch.len() > 1 {
        return Err(CliError::new(Kind::Usage, "--merge takes one --branch"));
    }
    let (name, sandbox) = whose(ctx, args)?;
    let record = sandbox.as_ref().map(Sandbox::record).transpose()?;
    let into = match (&args.into, &record) {
        (Some(into), _) => into.clone(),
        (None, Some(record)) => record.project.clone(),
        (None, None) => Context::current_folder()?,
    };
    let into = into.canonicalize().map_err(StateError::io(format!("looking at {}", into.display())))?;
    let mut agents_own = record.as_ref().map(agents_own).unwrap_or_default();
    // Clones and homes of sandboxes: each is an agent's.
    agents_own.extend(ctx.data.agents().canonicalize());
    let reach = sandbox.as_ref().map(|sandbox| Reach::new(&ctx.data, sandbox, ENDPOINT_PATIENCE));
    let source = match (&args.upload_pack, &reach) {
        (Some(command), _) => Source::Command(command),
        (None, Some(reach)) => Source::Sandbox(reach),
        (None, None) => return Err(StateError::NotFound(name).into()),
    };
    let pull = Pull {
        name: &name,
        source,
        into: &into,
        agents_own: &agents_own,
        choice: Choice {
            branches: branches(&args.branch)?,
            prune: args.prune,
            expiry: record.as_ref().map(expiry),
        },
        limits: limits(args),
        dry_run: ctx.global.dry_run,
    };
    let began = SystemTime::now();
    let interrupt = Interrupt::take().map_err(StateError::io("taking signals"))?;
    let shown = Shown::new(ctx.global.verbose > 0);
    let watch = Watch { interrupt: Some(&interrupt), progress: Some(&|progress| shown.take(progress)) };
    let pulled = pull.run_watched(watch);
    shown.done();
    let pulled = pulled.map_err(|error| told(&name, &error))?;
    if let Some(sandbox) = &sandbox
        && args.into.is_none()
        && args.upload_pack.is_none()
        && !ctx.global.dry_run
    {
        // For `status` alone: what came is at home already.
        drop(Pulls::note(sandbox.folder(), began, came(&pulled)));
    }
    let merged = args.merge.then(|| pull.merge(&pulled));
    if ctx.global.json {
        let mut json = as_json(&name, &pulled, ctx.global.dry_run);
        if let Some(merged) = &merged {
            json["merged"] = merge_report::as_json(&pulled, merged.as_ref());
        }
        print_json(&json)?;
    } else {
        show(&name, &pulled, ctx.global.dry_run)?;
        if let Some(Ok(merged)) = &merged {
            merge_report::show(&pulled, merged.as_ref(), ctx.global.dry_run)?;
        }
    }
    match merged {
        Some(Err(error)) => Err(merge_report::told(&pulled, &error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A command that speaks in its place needs no sandbox, only a name for what comes.
fn whose(ctx: &Context, args: &PullArgs) -> Result<(Name, Option<Sandbox>), CliError> {
    if let (Some(name), Some(_)) = (&args.name, &args.upload_pack) {
        let name: Name = name.parse()?;
        return match Sandbox::find(&ctx.data, &name) {
            Ok(sandbox) => Ok((name, Some(sandbox))),
            Err(StateError::NotFound(_)) => Ok((name, None)),
            Err(error) => Err(error.into()),
        };
    }
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    Ok((sandbox.name().clone(), Some(sandbox)))
}

/// Folders of this host that the agent writes: a repository in there is no home for anything.
pub(super) fn agents_own(record: &Record) -> Vec<PathBuf> {
    let project = match record.workspace {
        Workspace::Bind => Some(record.project.clone()),
        Workspace::Clone => None,
    };
    let mounts = record.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.source.clone());
    project.into_iter().chain(mounts).collect()
}

/// What of the snapshots goes at home as it goes inside.
pub(super) fn expiry(record: &Record) -> (Keep, u64) {
    (record.snapshots.retention(), view::unix_ms(SystemTime::now()))
}

fn branches(names: &[String]) -> Result<Vec<RefName>, CliError> {
    let parse = |name: &String| {
        let full = if name.starts_with("refs/") { name.clone() } else { format!("refs/heads/{name}") };
        let wrong = || CliError::new(Kind::Usage, format!("`{name}` is not the name of a branch"));
        RefName::parse(full.as_bytes()).ok_or_else(wrong)
    };
    names.iter().map(parse).collect()
}

fn limits(args: &PullArgs) -> Limits {
    let mut limits = Limits::default();
    if let Some(time) = args.timeout {
        limits.time = time;
        limits.silence = limits.silence.min(time);
    }
    limits.pack_bytes = args.max_size.unwrap_or(limits.pack_bytes);
    limits
}

pub(super) fn told(name: &Name, error: &PullError) -> CliError {
    let (kind, hint) = match error {
        PullError::Git(error) | PullError::Home(HomeError::Git(error)) => match error {
            GitError::Missing => {
                (Kind::Requirement, "install git, such as with `apt install git`".to_owned())
            }
            GitError::TooOld { .. } => {
                (Kind::Requirement, "install a newer git, and have it first in PATH".to_owned())
            }
            _ => (Kind::Failed, String::new()),
        },
        PullError::Source(SourceError::NoGit) => {
            (Kind::Requirement, "add git to the sandbox's environment".to_owned())
        }
        PullError::Source(SourceError::Endpoint(error)) => error::of_endpoint(error),
        PullError::AgentsOwn(_) => (
            Kind::WrongState,
            "this sandbox works in the folder itself; `--into DIR` names another repository".to_owned(),
        ),
        PullError::Home(HomeError::None { .. }) => {
            (Kind::WrongState, "`git init` makes one, or `--into DIR` names one".to_owned())
        }
        PullError::Cancelled => (Kind::Cancelled, String::new()),
        PullError::Publish(PublishError::Busy) => (Kind::WrongState, "try again in a moment".to_owned()),
        _ => (Kind::Failed, String::new()),
    };
    let made = CliError::new(kind, format!("cannot pull from `{name}`")).because(error);
    if hint.is_empty() { made } else { made.hint(hint) }
}

pub(super) fn show(name: &Name, pulled: &Pulled, dry_run: bool) -> Result<(), CliError> {
    if pulled.refs.is_empty() {
        print_line(&format!("{name}: nothing new"))?;
    } else {
        let (found, diff) = (&pulled.found, &pulled.diff);
        // Snapshots come by the minute: all of them are one line.
        let namespace = namespace(name);
        let (snapshots, refs): (Vec<_>, Vec<_>) =
            pulled.refs.iter().partition(|one| is_snapshot(&one.change.name, &namespace));
        let is_new = |one: &&&Described| one.change.old.is_none() && one.change.new.is_some();
        let new = snapshots.iter().filter(is_new).count() as u64;
        let gone = snapshots.iter().filter(|one| one.change.new.is_none()).count() as u64;
        let commits = found.commits.saturating_sub(new);
        let is_told = commits == 0 || pulled.refs.iter().any(|one| one.diff.is_some());
        let what = if is_told {
            vec![
                count(commits, "commit"),
                count(diff.files, "file"),
                count(diff.insertions, "insertion"),
                count(diff.deletions, "deletion"),
            ]
        } else {
            vec![count(commits, "commit"), count(found.objects, "object")]
        };
        let would = if dry_run { " would come" } else { "" };
        print_line(&format!("{name}: {}{would}", what.join(", ")))?;
        for one in refs {
            print_line(&format!("  {}", described(one)))?;
        }
        match (new, gone) {
            (0, 0) => {}
            (new, 0) => print_line(&format!("  {}", count(new, "snapshot")))?,
            (new, gone) => print_line(&format!("  {}, {gone} expired", count(new, "snapshot")))?,
        }
    }
    for name in &pulled.gone {
        print_line(&format!("  {name} is no longer inside; --prune removes it"))?;
    }
    Ok(())
}

pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn described(one: &Described) -> String {
    let Change { name, old, new, .. } = &one.change;
    let mut parts = vec![match (old, new) {
        (None, Some(new)) => format!("{name} {} (new)", new.short()),
        (Some(old), Some(new)) => format!("{name} {}..{}", old.short(), new.short()),
        (Some(old), None) => format!("{name} removed (was {})", old.short()),
        (None, None) => name.to_string(),
    }];
    if let Some((new, lost)) = one.commits {
        parts.push(count(new, "commit"));
        if lost > 0 {
            parts.push(format!("rewritten: {} left behind", count(lost, "commit")));
        }
    }
    if let Some(diff) = one.diff {
        parts.push(format!("{} +{} -{}", count(diff.files, "file"), diff.insertions, diff.deletions));
    }
    parts.join(", ")
}

fn came(pulled: &Pulled) -> Option<Came> {
    (!pulled.refs.is_empty()).then(|| Came {
        at: sync::time(SystemTime::now()),
        commits: pulled.found.commits,
        files: pulled.diff.files,
        insertions: pulled.diff.insertions,
        deletions: pulled.diff.deletions,
        refs: pulled.refs.len() as u64,
    })
}

pub(super) fn as_json(name: &Name, pulled: &Pulled, dry_run: bool) -> serde_json::Value {
    let text = |name: &RefName| String::from_utf8_lossy(name.as_bytes()).into_owned();
    let refs: Vec<_> = pulled
        .refs
        .iter()
        .map(|one| {
            json!({
                "from": one.change.from.as_ref().map(text),
                "ref": text(&one.change.name),
                "old": one.change.old.as_ref().map(ToString::to_string),
                "new": one.change.new.as_ref().map(ToString::to_string),
                "commits": one.commits.map(|(new, _)| new),
                "commits_left_behind": one.commits.map(|(_, lost)| lost),
                "diff": one.diff,
            })
        })
        .collect();
    json!({
        "sandbox": name.as_str(),
        "repository": Path::to_string_lossy(&pulled.repository),
        "dry_run": dry_run,
        "commits": pulled.found.commits,
        "objects": pulled.found.objects,
        "files": pulled.diff.files,
        "insertions": pulled.diff.insertions,
        "deletions": pulled.diff.deletions,
        "refs": refs,
        "gone": pulled.gone.iter().map(text).collect::<Vec<_>>(),
    })
}
