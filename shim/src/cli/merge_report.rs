//! What is said about a merge of what was pulled.

use serde_json::json;

use super::{
    error::{CliError, Kind},
    output::{clean, print_line},
    pull::count,
};
use crate::repo::{
    merge::{How, MergeError, Merged},
    pull::Pulled,
};

/// Files that are named, of those that a filter would have changed.
const MOST_NAMED: usize = 10;

pub(super) fn show(pulled: &Pulled, merged: Option<&Merged>, dry_run: bool) -> Result<(), CliError> {
    let (Some(merged), Some((name, _))) = (merged, &pulled.to_merge) else {
        return print_line("nothing to merge: no branch with a commit is checked out inside");
    };
    let branch = &merged.branch;
    let branch = branch.strip_prefix("refs/heads/").unwrap_or(branch.as_bytes());
    let branch = clean(&String::from_utf8_lossy(branch));
    let (files, would) = (count(merged.files, "file"), if dry_run { "would be " } else { "" });
    print_line(&match merged.how {
        How::Nothing => format!("{branch} has all of {name}"),
        How::First => format!("{branch} {would}begun with {name}, {files}"),
        How::FastForward => format!("{branch} {would}moved forward to {name}, {files}"),
        How::Merge => format!("{name} {would}merged into {branch}, {files}"),
    })?;
    for path in merged.unfiltered.iter().take(MOST_NAMED) {
        print_line(&format!("  {} is as the repository has it: no filter was run", clean(path)))?;
    }
    if merged.unfiltered.len() > MOST_NAMED {
        print_line(&format!("  and {} more", merged.unfiltered.len() - MOST_NAMED))?;
    }
    Ok(())
}

/// Null where there is nothing to merge; `how` is null where it was not merged, and `error` says why.
pub(super) fn as_json(pulled: &Pulled, merged: Result<&Option<Merged>, &MergeError>) -> serde_json::Value {
    let Some((name, _)) = &pulled.to_merge else { return serde_json::Value::Null };
    let name = String::from_utf8_lossy(name.as_bytes());
    match merged {
        Ok(None) => serde_json::Value::Null,
        Ok(Some(merged)) => json!({
            "ref": name,
            "branch": String::from_utf8_lossy(merged.branch.as_bytes()),
            "how": match merged.how {
                How::Nothing => "nothing",
                How::First => "first",
                How::FastForward => "fast-forward",
                How::Merge => "merge",
            },
            "old": merged.old.as_ref().map(ToString::to_string),
            "new": merged.new.as_ref().map(ToString::to_string),
            "files": merged.files,
            "unfiltered": merged.unfiltered,
        }),
        Err(error) => {
            let paths = match error {
                MergeError::Conflict(paths) | MergeError::Dirty(paths) | MergeError::InTheWay(paths) => {
                    &paths[..]
                }
                _ => &[],
            };
            let paths: Vec<_> = paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
            json!({ "ref": name, "how": null, "error": error.to_string(), "paths": paths })
        }
    }
}

/// Why it was not merged, and how a person does it.
pub(super) fn told(pulled: &Pulled, error: &MergeError) -> CliError {
    let name = pulled.to_merge.as_ref().map_or_else(String::new, |(name, _)| name.to_string());
    let by_hand = format!("`git merge {name}` does it by hand");
    let (kind, hint) = match error {
        MergeError::Conflict(_) => {
            (Kind::Failed, format!("`git merge {name}` lets you resolve it; nothing was changed"))
        }
        MergeError::Dirty(_) => (Kind::WrongState, "commit or stash them; nothing was changed".to_owned()),
        MergeError::InTheWay(_) => (Kind::WrongState, "move them away; nothing was changed".to_owned()),
        MergeError::InProgress(what) => (
            Kind::WrongState,
            format!("finish it or give it up, such as with `git {} --abort`", first_word(what)),
        ),
        MergeError::Detached => (Kind::WrongState, "`git switch BRANCH` first".to_owned()),
        MergeError::Elsewhere { .. } => {
            (Kind::WrongState, "`git switch` to another branch in one of them".to_owned())
        }
        MergeError::Bare(_) | MergeError::AgentsOwn(_) => {
            (Kind::WrongState, "`--into DIR` names a working tree of yours".to_owned())
        }
        MergeError::Busy(_) => (Kind::WrongState, "try again when it has ended".to_owned()),
        MergeError::Unrelated => {
            (Kind::Failed, format!("`git merge --allow-unrelated-histories {name}` does it all the same"))
        }
        MergeError::Identity(_) => (
            Kind::WrongState,
            "`git config --global user.name NAME` and `user.email ADDRESS` tell it".to_owned(),
        ),
        MergeError::Unable(_) => (Kind::Failed, by_hand),
        MergeError::NoCommit(_) | MergeError::Io(..) => (Kind::Failed, "nothing was changed".to_owned()),
    };
    CliError::new(kind, format!("pulled, but cannot merge {name}")).because(error).hint(hint)
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}
