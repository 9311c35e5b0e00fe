//! One snapshot: from a worktree to a commit and a ref.

use std::{
    fs,
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_protocol::retention;
use git2::{Oid, Repository};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{
    args::Args,
    files::Inode,
    ignore::Owner,
    index::{Anchor, Index},
    lock::Place,
    message::{self, Content},
    refs::Refs,
    report::{Answer, Failure, Outcome, Report, Taken, Why},
    store::Store,
    walk::{Walk, Walked},
    worktrees::{self, Worktree},
};

/// What libgit2 calls an object that is not whole yet.
const UNFINISHED: &[u8] = b"tmp_object_git2_";

/// Age of one that nobody writes any more.
const LEFT_OVER_AFTER: Duration = Duration::from_hours(1);

/// All worktrees that were asked for. What fails for one is no matter to the others.
pub(super) fn all(args: &Args) -> Result<Answer, Failure> {
    let found = worktrees::find(args)?;
    let failed = |worktree, failure| Report {
        worktree,
        outcome: Outcome::Failed(failure),
        left_out: Vec::new(),
        left_out_more: 0,
    };
    let reports = found.chosen.into_iter().map(|worktree| match worktree {
        Ok(worktree) => {
            one(args, &worktree, &found.all).unwrap_or_else(|failure| failed(worktree.name.clone(), failure))
        }
        Err((name, failure)) => failed(name, failure),
    });
    Ok(Answer::Snapshots(reports.collect()))
}

fn one(args: &Args, worktree: &Worktree, all: &[Inode]) -> Result<Report, Failure> {
    let Worktree { name, folder, repository } = worktree;
    let refs = Refs::of(repository, name)
        .ok_or_else(|| Failure::new(Why::Unsupported, "no ref can be named after this worktree"))?;
    let opened = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened: OwnedFd = opened
        .map_err(|error| Failure::new(Why::NoWorktree, format!("its folder cannot be read: {error}")))?;
    let place = Place::lock(repository.path())?;
    let old = fs::read(place.index())
        .ok()
        .and_then(Index::parse)
        .filter(|old| holds(repository, &refs, old.anchor));
    let owner = Owner::new(Some(worktrees::open(folder)?), 0, place.began);
    let store = Store::new(repository.odb()?, args.new_bytes);
    let mut walk = Walk::new(store, args.rules, (old.as_ref(), place.began), (folder, all));
    let walked = walk.run(&opened, &owner)?;
    let (outcome, anchor) = keep(args, worktree, &refs, &place, (&owner, &walked), &mut walk)?;
    let (left_out, left_out_more) = (walked.left_out.clone(), walked.left_out_more);
    let known = old.as_ref().map(|old| old.anchor);
    if let Some(index) = walk.index(&walked, anchor, known == Some(anchor)) {
        // Without it the next one has more to read.
        let written =
            fs::write(place.scratch(), index).and_then(|()| fs::rename(place.scratch(), place.index()));
        drop(written);
    }
    Ok(Report { worktree: name.clone(), outcome, left_out, left_out_more })
}

/// Makes a snapshot of the tree, unless there is one of it or it is the checked-out commit's.
fn keep(
    args: &Args,
    Worktree { name, repository, .. }: &Worktree,
    refs: &Refs<'_>,
    place: &Place,
    (owner, walked): (&Owner, &Walked),
    walk: &mut Walk<'_, '_>,
) -> Result<(Outcome, Anchor), Failure> {
    // A commit that is not there is no parent: a ref that leads to it would be broken.
    let head = owner.commit();
    if let (Some(commit), true) = (head, owner.head_tree() == Some(walked.tree)) {
        return Ok((Outcome::Clean, Anchor { commit, at_ms: 0 }));
    }
    let there = refs.list()?;
    // Of a repository that has nothing yet there is nothing to keep.
    if head.is_none() && there.is_empty() && repository.find_tree(walked.tree)?.is_empty() {
        return Ok((Outcome::Clean, Anchor { commit: Oid::zero(), at_ms: 0 }));
    }
    if let Some((at_ms, commit)) = there.last()
        && repository.find_commit(*commit).is_ok_and(|commit| commit.tree_id() == walked.tree)
    {
        return Ok((Outcome::Unchanged { at_ms: *at_ms }, Anchor { commit: *commit, at_ms: *at_ms }));
    }
    let now_ms = now_ms();
    let at_ms = there.last().map_or(now_ms, |(last, _)| now_ms.max(last.saturating_add(1)));
    let changed = changed(repository, owner.head_tree(), walked.tree)?;
    let content = Content {
        tree: walked.tree,
        parent: head,
        at_ms: now_ms,
        worktree: name,
        head: message::head(repository),
        changed,
        left_out: &walked.left_out,
        left_out_more: walked.left_out_more,
    };
    let commit = walk.store.commit(content.commit().as_bytes())?;
    refs.create(at_ms, commit, &place.scratch())?;
    sweep(repository);
    let mut moments: Vec<u64> = there.iter().map(|(at, _)| *at).collect();
    moments.push(at_ms);
    let expired =
        retention::expired(&moments, now_ms, args.keep).into_iter().filter(|at| refs.remove(*at)).count()
            as u64;
    let taken =
        Taken { at_ms, commit: commit.to_string(), changed, new_bytes: walk.store.new_bytes, expired };
    Ok((Outcome::Taken(taken), Anchor { commit, at_ms }))
}

/// Removes what earlier ones left when they were killed while they wrote an object. Git does not know these names.
fn sweep(repository: &Repository) {
    let Ok(entries) = fs::read_dir(repository.commondir().join("objects")) else { return };
    for entry in entries.flatten() {
        let is_old = || Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? > LEFT_OVER_AFTER);
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED) && is_old().unwrap_or(false) {
            // What is still there next time is tried again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether the objects of an index are sure to be there still. A snapshot's are while its ref is; those of a commit
/// while the commit is, since git removes no object that a commit it keeps leads to.
fn holds(repository: &Repository, refs: &Refs<'_>, anchor: Anchor) -> bool {
    let is_there = repository.odb().is_ok_and(|odb| odb.exists(anchor.commit));
    is_there && (anchor.at_ms == 0 || refs.at(anchor.at_ms) == Some(anchor.commit))
}

fn changed(repository: &Repository, head: Option<Oid>, tree: Oid) -> Result<u64, Failure> {
    let head = head.map(|head| repository.find_tree(head)).transpose()?;
    let tree = repository.find_tree(tree)?;
    Ok(repository.diff_tree_to_tree(head.as_ref(), Some(&tree), None)?.deltas().len() as u64)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
