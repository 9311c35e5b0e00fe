use std::{process::ExitCode, time::Duration};

use serde_json::json;

use super::{
    context::Context,
    error::{self, CliError, Kind},
    output::{clean, print_json, print_line, tell},
    pull::{agents_own, count},
    resolve,
};
use crate::{
    config::values,
    repo::{
        ENDPOINT_PATIENCE, GitError, HomeError, RefName, SourceError,
        push::{PUSH_WITHIN, Push, PushError, Pushed, Sent, Wish},
    },
    sandbox::{endpoint::Reach, name::Name},
};

/// Bring newer commits of yours into a sandbox
///
/// Sends branches of the project's repository to those of the same name inside, and only the branches that you name; the one
/// that is checked out, where you name none. What the agent has checked out moves along if its files are as they were
/// committed, and is refused if they are not.
#[derive(clap::Args, Debug)]
pub(crate) struct PushArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// What to send: a branch, or FROM:TO for another name inside
    #[arg(value_name = "BRANCH")]
    branches: Vec<String>,
    /// Even if commits inside are left behind by it
    #[arg(short, long)]
    force: bool,
    /// Give up after this time, such as 90s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
}

pub(crate) fn run(ctx: &Context, args: &PushArgs) -> Result<ExitCode, CliError> {
    let wishes = args.branches.iter().map(|text| wish(text)).collect::<Result<Vec<_>, _>>()?;
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let (name, record) = (sandbox.name(), sandbox.record()?);
    let reach = Reach::new(&ctx.data, &sandbox, ENDPOINT_PATIENCE);
    let push = Push {
        reach: &reach,
        from: &record.project,
        agents_own: &agents_own(&record),
        wishes: &wishes,
        force: args.force,
        dry_run: ctx.global.dry_run,
        time: args.timeout.unwrap_or(PUSH_WITHIN),
    };
    let pushed = push.run().map_err(|error| told(name, &error))?;
    for line in &pushed.said {
        tell(&format!("inside: {}", clean(line)));
    }
    if ctx.global.json {
        print_json(&as_json(name, &pushed, ctx.global.dry_run))?;
    } else {
        show(name, &pushed, ctx.global.dry_run)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `BRANCH` or `FROM:TO`.
fn wish(text: &str) -> Result<Wish, CliError> {
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    let wrong = || CliError::new(Kind::Usage, format!("`{text}` is neither BRANCH nor FROM:TO"));
    let full = |name: &str| {
        let is_full = ["refs/heads/", "refs/tags/"].iter().any(|place| name.starts_with(place));
        if is_full { name.to_owned() } else { format!("refs/heads/{name}") }
    };
    let to = RefName::parse(full(to).as_bytes()).filter(|_| !from.is_empty());
    Ok(Wish { from: from.to_owned(), to: to.ok_or_else(wrong)? })
}

fn told(name: &Name, error: &PushError) -> CliError {
    let (kind, hint) = match error {
        PushError::Git(error) | PushError::Home(HomeError::Git(error)) => match error {
            GitError::Missing => {
                (Kind::Requirement, "install git, such as with `apt install git`".to_owned())
            }
            GitError::TooOld { .. } => {
                (Kind::Requirement, "install a newer git, and have it first in PATH".to_owned())
            }
            _ => (Kind::Failed, String::new()),
        },
        PushError::Source(SourceError::NoGit) => {
            (Kind::Requirement, "add git to the sandbox's environment".to_owned())
        }
        PushError::Source(SourceError::Endpoint(error)) => error::of_endpoint(error),
        PushError::AgentsOwn(_) => {
            (Kind::WrongState, "this sandbox works in the folder itself and has your commits".to_owned())
        }
        PushError::Home(HomeError::None { .. }) => (Kind::WrongState, String::new()),
        PushError::NoBranch(_) => (Kind::WrongState, format!("name one: `agent-shim push {name} BRANCH`")),
        PushError::NotForward(_) => {
            let pull = format!("`agent-shim pull {name}` brings them home, to be merged");
            (Kind::Failed, format!("{pull}; `--force` leaves them behind"))
        }
        PushError::Refused(Some(_), _) => {
            let other = "another name inside, such as `main:from-host`, always has room";
            (Kind::Failed, format!("{other}; the agent can merge it"))
        }
        _ => (Kind::Failed, String::new()),
    };
    let made = CliError::new(kind, format!("cannot push to `{name}`"));
    let made = match error {
        PushError::Refused(Some(branch), _) => {
            made.because(&std::io::Error::other(format!("`{branch}` stays as it is"))).because(error)
        }
        error => made.because(error),
    };
    if hint.is_empty() { made } else { made.hint(hint) }
}

fn show(name: &Name, pushed: &Pushed, dry_run: bool) -> Result<(), CliError> {
    if pushed.refs.is_empty() {
        return print_line(&format!("{name}: nothing new"));
    }
    let commits = count(pushed.refs.iter().map(|sent| sent.commits).sum(), "commit");
    print_line(&format!("{name}: {commits} {}", if dry_run { "would go" } else { "sent" }))?;
    pushed.refs.iter().try_for_each(|sent| print_line(&format!("  {}", described(sent))))
}

fn described(sent: &Sent) -> String {
    let Sent { name, old, new, commits, forced } = sent;
    let commits = count(*commits, "commit");
    match old {
        None => format!("{name} {} (new), {commits}", new.short()),
        Some(old) if *forced => {
            format!("{name} {}...{}, {commits}, others left behind", old.short(), new.short())
        }
        Some(old) => format!("{name} {}..{}, {commits}", old.short(), new.short()),
    }
}

fn as_json(name: &Name, pushed: &Pushed, dry_run: bool) -> serde_json::Value {
    let text = |name: &RefName| String::from_utf8_lossy(name.as_bytes()).into_owned();
    let refs: Vec<_> = pushed
        .refs
        .iter()
        .map(|sent| {
            json!({
                "ref": text(&sent.name),
                "old": sent.old.as_ref().map(ToString::to_string),
                "new": sent.new.to_string(),
                "commits": sent.commits,
                "forced": sent.forced,
            })
        })
        .collect();
    json!({
        "sandbox": name.as_str(),
        "dry_run": dry_run,
        "refs": refs,
        "unchanged": pushed.unchanged.iter().map(text).collect::<Vec<_>>(),
        "said": pushed.said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_what_it_is_called_inside() {
        let both = |text: &str| wish(text).map(|wish| (wish.from, wish.to.to_string())).ok();
        let pair = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        assert_eq!(both("main"), pair("main", "refs/heads/main"));
        assert_eq!(both("main:from/host"), pair("main", "refs/heads/from/host"));
        assert_eq!(both("HEAD~1:refs/tags/x"), pair("HEAD~1", "refs/tags/x"));
        assert_eq!(both("-x"), pair("-x", "refs/heads/-x"));
        for wrong in ["", ":main", "main:", "a:b:c", "main:../x", "HEAD~1"] {
            assert_eq!(both(wrong), None, "{wrong}");
        }
    }
}
