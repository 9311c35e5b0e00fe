//! The snapshots there are.

use super::{
    args::Args,
    message,
    refs::Refs,
    report::{Answer, Failure, Listed},
    worktrees,
};

/// Those of the worktrees that were asked for.
pub(super) fn all(args: &Args) -> Result<Answer, Failure> {
    let mut list = Vec::new();
    for worktree in worktrees::find(args)?.chosen.into_iter().flatten() {
        let Some(refs) = Refs::of(&worktree.repository, &worktree.name) else { continue };
        for (at_ms, commit) in refs.list()? {
            let found = worktree.repository.find_commit(commit).ok();
            let changed = found.and_then(|commit| message::changed(commit.message()?)).unwrap_or(0);
            list.push(Listed { worktree: worktree.name.clone(), at_ms, commit: commit.to_string(), changed });
        }
    }
    Ok(Answer::List(list))
}
