//! The person's own repository, read without a process: by libgit2, which is told to look at no configuration but the
//! repository's own.
//!
//! What it cannot open (another object format, another way to store refs, an extension it does not know, an owner that it
//! does not trust) is no error: git is asked then, which knows more and may have been told more.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use git2::{Odb, ReferenceType, Repository};

use super::{home::HomeRef, object_id::ObjectId, refs::RefName};
use crate::sys;

/// A repository that libgit2 has open.
pub(crate) struct Library {
    repository: Repository,
}

/// What a look for a repository found.
pub(crate) enum Look {
    /// One that it can read.
    Here(Library),
    /// One in a place that it must not open.
    Forbidden(PathBuf),
    /// Git has to look.
    AskGit,
}

impl Look {
    /// Looks for the repository that `folder` is in. Nothing of it is read before `forbids` was asked about its place.
    pub(crate) fn at(folder: &Path, forbids: &dyn Fn(&Path) -> bool) -> Self {
        if !sys::git_without_configuration() {
            return Self::AskGit;
        }
        let Ok(found) = Repository::discover_path(folder, &[] as &[&OsStr]) else { return Self::AskGit };
        let Ok(git_dir) = found.canonicalize() else { return Self::AskGit };
        if forbids(&git_dir) {
            return Self::Forbidden(git_dir);
        }
        // Git does not look beyond where another file system begins, unless it is told to.
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        let same_device = device(folder) == device(&git_dir);
        let opened = Repository::open(&found).ok().filter(|_| same_device);
        // A person may have said that they trust no bare repository that they only came across.
        let opened = opened.filter(|repository| !repository.is_bare());
        // Of a worktree it is the main one that everything is asked of.
        let main = opened.and_then(|repository| {
            if repository.is_worktree() {
                Repository::open(repository.commondir()).ok()
            } else {
                Some(repository)
            }
        });
        main.map_or(Self::AskGit, |repository| Self::Here(Library { repository }))
    }
}

impl Library {
    /// The repository at `git_dir`, which git has found and trusts.
    pub(crate) fn open(git_dir: &Path) -> Option<Self> {
        let repository =
            sys::git_without_configuration().then(|| Repository::open(git_dir).ok()).flatten()?;
        Some(Self { repository })
    }

    /// What all its worktrees share.
    pub(crate) fn git_dir(&self) -> &Path {
        self.repository.commondir()
    }

    /// Its refs, symbolic ones as what they lead to. `None` where git has to be asked.
    pub(crate) fn refs(&self) -> Option<Vec<HomeRef>> {
        let head = self.repository.find_reference("HEAD").ok();
        let head = head.as_ref().and_then(|head| head.symbolic_target_bytes());
        let mut refs = Vec::new();
        for one in self.repository.references().ok()? {
            let one = one.ok()?;
            let target = match one.kind() {
                Some(ReferenceType::Direct) => one.target(),
                // One that leads nowhere is none.
                _ => one.resolve().ok().and_then(|one| one.target()),
            };
            // What we would not make has no part in this.
            if let (Some(id), Some(name)) = (target.and_then(ObjectId::of), RefName::parse(one.name_bytes()))
            {
                refs.push(HomeRef { is_head: head == Some(one.name_bytes()), name, id });
            }
        }
        Some(refs)
    }

    /// Its objects, and those of the repositories that it borrows from.
    pub(crate) fn objects(&self) -> Option<Odb<'_>> {
        self.repository.odb().ok()
    }
}

/// The objects in this folder, and none from elsewhere.
pub(crate) fn objects_in(folder: &Path) -> Option<Odb<'static>> {
    if !sys::git_without_configuration() {
        return None;
    }
    let objects = Odb::new().ok()?;
    objects.add_disk_alternate(std::str::from_utf8(folder.as_os_str().as_bytes()).ok()?).ok()?;
    Some(objects)
}
