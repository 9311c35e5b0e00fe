//! Folders in which a branch is checked out. A push onto one is taken only where nothing of the agent's is lost by it, and
//! the files follow then: `receive.denyCurrentBranch=updateInstead` (git-config(1)).

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use git2::{Oid, Repository, Status, StatusOptions, build::CheckoutBuilder};

use crate::serve::{id::Id, place::Place};

/// Worktrees of a repository.
const MAX_WORKTREES: usize = 4096;

/// A folder with files of a branch.
pub(super) struct Worktree {
    /// The repository as it is seen from there.
    folder: PathBuf,
    branch: Vec<u8>,
}

/// Every folder in which a branch is checked out.
pub(super) fn all(repository: &Repository, place: &Place) -> Result<Vec<Worktree>, git2::Error> {
    let mut all = Vec::new();
    if let Some(branch) = branch(&place.common)
        && !repository.is_bare()
    {
        all.push(Worktree { folder: place.common.clone(), branch });
    }
    for name in repository.worktrees()?.iter().flatten().take(MAX_WORKTREES) {
        let folder = place.common.join("worktrees").join(name);
        if let Some(branch) = branch(&folder) {
            all.push(Worktree { folder, branch });
        }
    }
    Ok(all)
}

/// The branch that the `HEAD` of a folder names.
fn branch(folder: &Path) -> Option<Vec<u8>> {
    let head = crate::serve::file::read(&folder.join("HEAD"), 8192).ok()??;
    Some(head.strip_prefix(b"ref:")?.trim_ascii().to_vec())
}

impl Worktree {
    pub(super) fn is_on(&self, branch: &[u8]) -> bool {
        self.branch == branch
    }

    /// Has the files be those of a commit. Git's own words say why not.
    pub(super) fn update(&self, to: Id) -> Result<(), String> {
        let repository = self.open().map_err(|error| error.message().to_owned())?;
        is_clean(&repository)?;
        let updated =
            repository.find_commit(Oid::from_bytes(&to.0).unwrap_or(Oid::zero())).and_then(|commit| {
                let mut how = CheckoutBuilder::new();
                how.safe();
                repository.checkout_tree(commit.as_object(), Some(&mut how))
            });
        // An unknown file in the way is one of the reasons.
        updated.map_err(|_| "Could not update working tree to new HEAD".to_owned())
    }

    fn open(&self) -> Result<Repository, git2::Error> {
        // A linked one says itself where its files are.
        let Some(link) = crate::serve::file::read(&self.folder.join("gitdir"), 8192).ok().flatten() else {
            return Repository::open(&self.folder);
        };
        let file = self.folder.join(OsStr::from_bytes(link.trim_ascii()));
        Repository::open(file.parent().unwrap_or(&file))
    }
}

/// Whether index and files are those of the last commit; unknown files do not count.
fn is_clean(repository: &Repository) -> Result<(), String> {
    let mut options = StatusOptions::new();
    options.include_untracked(false).include_ignored(false).exclude_submodules(true).update_index(true);
    let statuses = repository.statuses(Some(&mut options)).map_err(|error| error.message().to_owned())?;
    let mut all = Status::empty();
    for entry in statuses.iter() {
        all |= entry.status();
    }
    let is = |any: &[Status]| any.iter().any(|one| all.intersects(*one));
    if is(&[Status::CONFLICTED]) {
        return Err("Up-to-date check failed".to_owned());
    }
    if is(&[Status::WT_MODIFIED, Status::WT_DELETED, Status::WT_TYPECHANGE, Status::WT_RENAMED]) {
        return Err("Working directory has unstaged changes".to_owned());
    }
    if all.is_empty() || all == Status::CURRENT {
        return Ok(());
    }
    Err("Working directory has staged changes".to_owned())
}
