//! What came, merged into the branch that the person has checked out.
//!
//! Nothing runs for it: no hook (`core.hooksPath` may lead into the working tree, and so to what the agent committed), no
//! filter, no merge driver, no editor, no signature. The merge is made in memory first, and everything that could go
//! wrong is looked at before anything is changed. Then, in this order, each step after the one before it is whole:
//!
//! 1. objects: merged files, folders, the commit. Nothing refers to them yet.
//! 2. files: each is made beside the working tree and takes its place in one step (`tree`); what was there is kept
//!    until the end.
//! 3. the index, in one step.
//! 4. the branch, in one step, if it is still what it was.
//!
//! A failure takes back what was done. A kill leaves files that git shows as changed, with what the agent committed in
//! them; the next merge knows them and goes on from there. Nobody's work is in any of them: files with changes of the
//! person's own are never touched.

mod changes;
mod home;
mod index;
mod tree;

use std::{
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use git2::{Commit, MergeOptions, Odb, Oid, Repository, Signature};

use self::{
    changes::{Change, Entry},
    home::Home,
};
use super::{
    host_git::{GitError, HostGit},
    object_id::ObjectId,
    quarantine::Quarantine,
    refs::RefName,
};
use crate::terminal::sanitize::sanitized;

/// Most files of what is merged: a list of them is in memory.
const MAX_MERGED_FILES: u64 = 2_000_000;

/// Largest file that two changes are merged in, bytes. Git merges none that are larger than a person would read either.
const MAX_MERGED_BYTES: usize = 32 * 1024 * 1024;

/// Largest file that is written, bytes: it is in memory meanwhile.
const MAX_WRITTEN_BYTES: usize = 1 << 30;

/// The memory of git where it is asked who the person is, bytes.
const MEMORY_BYTES: u64 = 1 << 30;

/// What is to be merged.
pub(crate) struct Merge<'a> {
    /// A folder of the working tree.
    pub into: &'a Path,
    /// What the agent writes on this host.
    pub agents_own: &'a [PathBuf],
    /// Its name at home.
    pub name: &'a RefName,
    /// What it points to.
    pub id: &'a ObjectId,
    /// Where the objects are, if they are not at home.
    pub came: Option<&'a Quarantine>,
    /// Whether everything is done but the last steps.
    pub dry_run: bool,
    /// When it must be done.
    pub until: Instant,
}

/// What a merge came to.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The person's branch.
    pub branch: RefName,
    /// In which way.
    pub how: How,
    /// What the branch pointed to; nothing where it had no commit.
    pub old: Option<ObjectId>,
    /// What it points to now; nothing where a commit was not made because nothing was to be changed.
    pub new: Option<ObjectId>,
    /// Files that changed.
    pub files: u64,
    /// Those of them that a filter of the person's would have changed further.
    pub unfiltered: Vec<String>,
}

/// Ways to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The branch had it all.
    Nothing,
    /// The branch had no commit.
    First,
    /// The branch had nothing of its own.
    FastForward,
    /// A commit with two parents.
    Merge,
}

/// Why nothing was merged. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The working tree is the agent's.
    #[error("{} is what the agent itself writes", .0.display())]
    AgentsOwn(PathBuf),
    /// There is no working tree.
    #[error("{} has no working tree", .0.display())]
    Bare(PathBuf),
    /// Something else was begun and not ended.
    #[error("a {0} is in progress")]
    InProgress(&'static str),
    /// There is no branch to merge into.
    #[error("HEAD is on no branch")]
    Detached,
    /// Another working tree has the branch.
    #[error("{branch} is also checked out at {}", .place.display())]
    Elsewhere {
        /// The branch.
        branch: RefName,
        /// The other working tree's own folder of the repository.
        place: PathBuf,
    },
    /// Two histories without a common commit.
    #[error("they have no history in common")]
    Unrelated,
    /// Changes of the person's that would be lost.
    #[error("there are changes of yours in {}", listed(.0))]
    Dirty(Vec<Vec<u8>>),
    /// What is not git's stands where a file is to be.
    #[error("these would be overwritten: {}", listed(.0))]
    InTheWay(Vec<Vec<u8>>),
    /// Both sides changed the same.
    #[error("both sides changed {}", listed(.0))]
    Conflict(Vec<Vec<u8>>),
    /// Somebody else works on the same.
    #[error("{0}")]
    Busy(&'static str),
    /// What only git itself can do.
    #[error("agent-shim cannot do this merge: {0}")]
    Unable(String),
    /// What came is nothing that can be merged.
    #[error("{0} is no commit")]
    NoCommit(RefName),
    /// Git does not know who the person is.
    #[error("git does not know who you are")]
    Identity(#[source] GitError),
    /// A file could not be written.
    #[error("writing {}", sanitized(.0))]
    Io(Vec<u8>, #[source] io::Error),
}

/// The first few of a list of paths.
fn listed(paths: &[Vec<u8>]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = paths.iter().take(SHOWN).map(|path| sanitized(path).to_string()).collect();
    let more = paths.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

impl Merge<'_> {
    /// Does it.
    pub(crate) fn run(&self) -> Result<Merged, MergeError> {
        let home = Home::open(self.into, self.agents_own)?;
        let head = home.head()?;
        // A second look at the same repository, which writes into memory alone.
        let memory = home.again()?;
        let objects = memory.odb().map_err(unable)?;
        let _in_memory = objects.add_new_mempack_backend(1000).map_err(unable)?;
        if let Some(came) = self.came {
            let folder = came.objects();
            let folder =
                folder.to_str().ok_or_else(|| MergeError::Unable("its path is not UTF-8".to_owned()))?;
            objects.add_disk_alternate(folder).map_err(unable)?;
        }
        let theirs =
            self.id.oid().ok_or_else(|| MergeError::Unable("its objects are named with sha256".into()))?;
        let theirs = memory.find_object(theirs, None).and_then(|object| object.peel_to_commit());
        let theirs = theirs.map_err(|_| MergeError::NoCommit(self.name.clone()))?;
        changes::check_size(&memory, &theirs.tree().map_err(unable)?)?;
        let ours = head.commit.map(|id| memory.find_commit(id)).transpose().map_err(unable)?;
        let how = how(&memory, ours.as_ref(), &theirs)?;
        let mut merged = Merged {
            branch: head.branch.clone(),
            how,
            old: head.commit.and_then(ObjectId::of),
            new: Some(theirs.id())
                .filter(|_| matches!(how, How::First | How::FastForward))
                .and_then(ObjectId::of),
            files: 0,
            unfiltered: Vec::new(),
        };
        if how == How::Nothing {
            if !self.dry_run {
                index::tidy(&home);
            }
            merged.new.clone_from(&merged.old);
            return Ok(merged);
        }
        let result = result(&memory, how, ours.as_ref(), &theirs)?;
        let before = match &ours {
            Some(ours) => changes::of_tree(&ours.tree().map_err(unable)?)?,
            None => git2::Index::new().map_err(unable)?,
        };
        let changes = changes::between(&before, &result)?;
        merged.files = changes.len() as u64;
        if self.dry_run {
            home.check(&changes, &objects)?;
            return Ok(merged);
        }
        let who = match how {
            How::Merge => Some(identity(self.into, self.until)?),
            // Only the reflog wants to know.
            _ => identity(self.into, self.until).ok(),
        };
        let lock = index::Lock::take(home.git_dir())?;
        let seen = home.check(&changes, &objects)?;
        let new = match (how, &who) {
            (How::Merge, Some(who)) => {
                self.commit((&home, who), &objects, result, [ours.as_ref(), Some(&theirs)], &changes)?
            }
            _ => theirs.id(),
        };
        let written = tree::replace(&home, &changes, &seen, &objects)?;
        let index = lock.write(&home, &changes, &written)?;
        let log = match how {
            How::FastForward => format!("merge {}: Fast-forward", self.name),
            _ => format!("merge {}: Merge made by agent-shim", self.name),
        };
        home.move_branch(&head, new, who.as_ref().map(|who| &who.committer), &log)?;
        // From here on it is done.
        index.stay();
        merged.unfiltered = home.unfiltered(&changes);
        written.stay();
        merged.new = ObjectId::of(new);
        Ok(merged)
    }

    /// Writes what is new, the commit last.
    fn commit(
        &self,
        (home, who): (&Home, &Person),
        memory: &Odb<'_>,
        mut result: git2::Index,
        parents: [Option<&Commit<'_>>; 2],
        changes: &[Change],
    ) -> Result<Oid, MergeError> {
        let repository = home.repository();
        let objects = repository.odb().map_err(unable)?;
        for entry in changes.iter().filter_map(|change| change.new.as_ref()).filter(|entry| entry.is_file()) {
            if !objects.exists(entry.id) {
                let object = memory.read(entry.id).map_err(unable)?;
                objects.write(object.kind(), object.data()).map_err(unable)?;
            }
        }
        let tree = result.write_tree_to(repository).and_then(|tree| repository.find_tree(tree));
        let find = |commit: &Commit<'_>| repository.find_commit(commit.id());
        let parents: Result<Vec<_>, _> = parents.into_iter().flatten().map(find).collect();
        let (tree, parents) = (tree.map_err(unable)?, parents.map_err(unable)?);
        let parents: Vec<&Commit<'_>> = parents.iter().collect();
        let message = format!("Merge {}\n", self.name);
        repository.commit(None, &who.author, &who.committer, &message, &tree, &parents).map_err(unable)
    }
}

fn how(memory: &Repository, ours: Option<&Commit<'_>>, theirs: &Commit<'_>) -> Result<How, MergeError> {
    let Some(ours) = ours else { return Ok(How::First) };
    match memory.merge_base(ours.id(), theirs.id()) {
        Ok(base) if base == theirs.id() => Ok(How::Nothing),
        Ok(base) if base == ours.id() => Ok(How::FastForward),
        Ok(_) => Ok(How::Merge),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Err(MergeError::Unrelated),
        Err(error) => Err(unable(error)),
    }
}

/// Everything that is to be in the branch, as an index.
fn result(
    memory: &Repository,
    how: How,
    ours: Option<&Commit<'_>>,
    theirs: &Commit<'_>,
) -> Result<git2::Index, MergeError> {
    let (How::Merge, Some(ours)) = (how, ours) else {
        return changes::of_tree(&theirs.tree().map_err(unable)?);
    };
    changes::check_both(memory, ours, theirs)?;
    let result = memory.merge_commits(ours, theirs, Some(&MergeOptions::new())).map_err(unable)?;
    let mut conflicts: Vec<Vec<u8>> = Vec::new();
    for conflict in result.conflicts().map_err(unable)? {
        let conflict = conflict.map_err(unable)?;
        let sides = [conflict.our, conflict.their, conflict.ancestor];
        conflicts.extend(sides.into_iter().flatten().next().map(|entry| entry.path));
    }
    conflicts.sort_unstable();
    conflicts.dedup();
    if conflicts.is_empty() { Ok(result) } else { Err(MergeError::Conflict(conflicts)) }
}

/// Who merges.
struct Person {
    author: Signature<'static>,
    committer: Signature<'static>,
}

/// Who the person is, as author and as committer, the way that git would say it.
fn identity(folder: &Path, until: Instant) -> Result<Person, MergeError> {
    let git = HostGit::find(MEMORY_BYTES).map_err(MergeError::Identity)?;
    let ask = |variable: &str| {
        let said = git.identity(folder, variable, until).map_err(MergeError::Identity)?;
        let parsed = std::str::from_utf8(&said).ok().and_then(|text| signature(text.trim_end_matches('\n')));
        parsed.ok_or_else(|| MergeError::Unable("your name cannot be read".to_owned()))
    };
    Ok(Person { author: ask("GIT_AUTHOR_IDENT")?, committer: ask("GIT_COMMITTER_IDENT")? })
}

/// `NAME <ADDRESS> SECONDS ZONE`.
fn signature(text: &str) -> Option<Signature<'static>> {
    let (who, time) = text.rsplit_once("> ")?;
    let (name, address) = who.rsplit_once(" <")?;
    let (seconds, zone) = time.split_once(' ')?;
    let (sign, zone) = match zone.split_at_checked(1)? {
        ("+", zone) => (1, zone),
        ("-", zone) => (-1, zone),
        _ => return None,
    };
    let (hours, minutes) = zone.split_at_checked(2)?;
    let minutes = sign * (hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?);
    Signature::new(name, address, &git2::Time::new(seconds.parse().ok()?, minutes)).ok()
}

/// What libgit2 cannot do is left to git. What it says may quote what came from inside.
#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unable(error: git2::Error) -> MergeError {
    MergeError::Unable(sanitized(error.message().as_bytes()).to_string())
}

impl Entry {
    /// Whether it has content here: a submodule has none.
    fn is_file(&self) -> bool {
        !self.is_submodule()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_as_git_says_it() {
        let person = signature("A B. \u{fc} <a@b> 1600000000 -0130").unwrap();
        assert_eq!((person.name(), person.email()), (Some("A B. \u{fc}"), Some("a@b")));
        assert_eq!((person.when().seconds(), person.when().offset_minutes()), (1_600_000_000, -90));
        for wrong in ["", "A <a@b>", "A <a@b> x +0000", "A <a@b> 1 0000", "A <a@b> 1 +0x00"] {
            assert!(signature(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_long_list_is_cut_and_harmless() {
        let paths: Vec<Vec<u8>> = (0..12).map(|number| format!("{number}\x1b").into_bytes()).collect();
        let text = listed(&paths);
        assert!(text.ends_with("and 2 more") && !text.contains('\x1b'), "{text}");
    }
}
