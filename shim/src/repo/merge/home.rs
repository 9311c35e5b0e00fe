//! The person's working tree and branch: whether something can be merged into them, and what in them is the person's
//! alone.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use git2::{AttrCheckFlags, AttrValue, Index, IndexEntry, Odb, Oid, Repository, RepositoryState, Signature};

use super::{
    MAX_WRITTEN_BYTES, MergeError,
    changes::{Change, Entry},
    tree::{Seen, Stamp, Tree},
    unable,
};
use crate::{repo::refs::RefName, sys};

/// Marks of an index's entries: "do not look whether it changed", and "not in the working tree".
const ASSUME_UNCHANGED: u16 = 0x8000;
const SKIP_WORKTREE: u16 = 1 << 14;

/// The repository, as the person works in it.
pub(super) struct Home {
    repository: Repository,
    work: PathBuf,
}

/// What is checked out.
pub(super) struct Head {
    pub(super) branch: RefName,
    /// Nothing on a branch that has no commit yet.
    pub(super) commit: Option<Oid>,
}

impl Home {
    /// Refuses what cannot be merged into now.
    pub(super) fn open(folder: &Path, agents_own: &[PathBuf]) -> Result<Self, MergeError> {
        let forbidden = |path: &Path| agents_own.iter().any(|own| path.starts_with(own));
        if !sys::git_without_configuration() {
            return Err(MergeError::Unable("libgit2 does not obey".to_owned()));
        }
        let found = Repository::discover_path(folder, &[] as &[&OsStr]).map_err(unable)?;
        if forbidden(&found.canonicalize().unwrap_or_else(|_| found.clone())) {
            return Err(MergeError::AgentsOwn(found));
        }
        let repository = Repository::open(&found).map_err(unable)?;
        let Some(work) = repository.workdir().filter(|_| !repository.is_bare()) else {
            return Err(MergeError::Bare(found));
        };
        let work = work
            .canonicalize()
            .map_err(|error| MergeError::Io(found.into_os_string().into_encoded_bytes(), error))?;
        if forbidden(&work) || forbidden(repository.commondir()) {
            return Err(MergeError::AgentsOwn(work));
        }
        let home = Self { repository, work };
        home.is_at_rest()?;
        Ok(home)
    }

    /// The same repository, opened once more.
    pub(super) fn again(&self) -> Result<Repository, MergeError> {
        Repository::open(self.repository.path()).map_err(unable)
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The working tree.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    /// The folder of this working tree in the repository.
    pub(super) fn git_dir(&self) -> &Path {
        self.repository.path()
    }

    /// Whether the working tree's file system knows what can be executed.
    pub(super) fn has_modes(&self) -> bool {
        self.repository.config().and_then(|config| config.get_bool("core.fileMode")).unwrap_or(true)
    }

    fn is_at_rest(&self) -> Result<(), MergeError> {
        let what = match self.repository.state() {
            RepositoryState::Clean => None,
            RepositoryState::Merge => Some("merge"),
            RepositoryState::Revert | RepositoryState::RevertSequence => Some("revert"),
            RepositoryState::CherryPick | RepositoryState::CherryPickSequence => Some("cherry-pick"),
            RepositoryState::Bisect => Some("bisect"),
            RepositoryState::Rebase | RepositoryState::RebaseInteractive | RepositoryState::RebaseMerge => {
                Some("rebase")
            }
            RepositoryState::ApplyMailbox | RepositoryState::ApplyMailboxOrRebase => Some("rebase or am"),
        };
        if let Some(what) = what {
            return Err(MergeError::InProgress(what));
        }
        let config = self.repository.config().and_then(|mut config| config.snapshot()).map_err(unable)?;
        if config.get_bool("core.sparseCheckout").unwrap_or(false) {
            return Err(MergeError::Unable("the checkout is sparse".to_owned()));
        }
        Ok(())
    }

    /// The branch that is checked out, here and nowhere else.
    pub(super) fn head(&self) -> Result<Head, MergeError> {
        let head = self.repository.find_reference("HEAD").map_err(unable)?;
        let branch = head.symbolic_target_bytes().and_then(RefName::parse).ok_or(MergeError::Detached)?;
        if branch.strip_prefix("refs/heads/").is_none() {
            return Err(MergeError::Detached);
        }
        let common = self.repository.commondir();
        let others = fs::read_dir(common.join("worktrees")).into_iter().flatten().flatten();
        let same = |path: &Path| path.canonicalize().ok() == self.git_dir().canonicalize().ok();
        for other in others.map(|entry| entry.path()).chain([common.to_owned()]).filter(|path| !same(path)) {
            let head = fs::read(other.join("HEAD")).unwrap_or_default();
            // That of a bare repository with working trees of its own is nobody's.
            let is_checked_out = other != common || common.join("index").exists();
            if is_checked_out
                && head.strip_prefix(b"ref: ").map(<[u8]>::trim_ascii) == Some(branch.as_bytes())
            {
                return Err(MergeError::Elsewhere { branch, place: other });
            }
        }
        let commit = match self.repository.head() {
            Ok(head) => Some(head.peel_to_commit().map_err(unable)?.id()),
            Err(error) if error.code() == git2::ErrorCode::UnbornBranch => None,
            Err(error) => return Err(unable(error)),
        };
        Ok(Head { branch, commit })
    }

    /// Refuses where a change would touch what is the person's alone. Returns the files that were seen, one for each change.
    pub(super) fn check(
        &self,
        changes: &[Change],
        objects: &Odb<'_>,
    ) -> Result<Vec<Option<Stamp>>, MergeError> {
        let index = self.index()?;
        if index.has_conflicts() {
            return Err(MergeError::InProgress("merge with conflicts"));
        }
        for entry in changes.iter().filter_map(|change| change.new).filter(|entry| !entry.is_submodule()) {
            let (bytes, _) = objects.read_header(entry.id).map_err(unable)?;
            if bytes > MAX_WRITTEN_BYTES {
                return Err(MergeError::Unable("a file is too large".to_owned()));
            }
        }
        self.check_case(&index, changes)?;
        let entries: BTreeMap<Vec<u8>, IndexEntry> =
            index.iter().map(|entry| (entry.path.clone(), entry)).collect();
        let tree = Tree::open(self)?;
        let removed: BTreeMap<&[u8], &Change> = changes
            .iter()
            .filter(|change| change.old.is_some() && change.new.is_none())
            .map(|change| (&change.path[..], change))
            .collect();
        let (mut dirty, mut in_the_way) = (Vec::new(), Vec::new());
        let mut seen = vec![None; changes.len()];
        for (change, seen) in changes.iter().zip(&mut seen) {
            let entry = entries.get(&change.path);
            let staged = entry.map(|entry| Entry { mode: entry.mode, id: entry.id });
            // Changes that were staged, unless they are the same ones.
            if staged != change.old && staged != change.new {
                dirty.push(change.path.clone());
                continue;
            }
            if entry.is_some_and(|entry| entry.flags_extended & SKIP_WORKTREE != 0) {
                return Err(MergeError::Unable("some files are not in the working tree".to_owned()));
            }
            if change.new.or(change.old).is_some_and(|entry| entry.is_submodule()) {
                continue;
            }
            match tree.look(&change.path)? {
                Seen::Nothing if staged.is_some() && change.new.is_some() => dirty.push(change.path.clone()),
                Seen::Nothing => {}
                Seen::Below(obstacle) => {
                    if change.new.is_some() && !removed.contains_key(&obstacle[..]) {
                        in_the_way.push(obstacle);
                    }
                }
                Seen::Folder => {
                    // It goes with everything in it, or it stays.
                    let stays = |path: &[u8]| !removed.contains_key(path);
                    if change.new.is_some() && tree.find_below(&change.path, &stays)?.is_some() {
                        in_the_way.push(change.path.clone());
                    }
                }
                Seen::File(found) => {
                    *seen = Some(found);
                    let trusted = entry.filter(|entry| entry.flags & ASSUME_UNCHANGED == 0);
                    let is_untouched =
                        trusted.is_some_and(|entry| tree.is_as_recorded(&found, entry, self.index_time()));
                    let known = [change.old, change.new].into_iter().flatten();
                    if !is_untouched && !tree.is_one_of(&change.path, &found, known)? {
                        let to = if staged.is_some() { &mut dirty } else { &mut in_the_way };
                        to.push(change.path.clone());
                    }
                }
            }
        }
        if !dirty.is_empty() {
            return Err(MergeError::Dirty(dirty));
        }
        in_the_way.dedup();
        if in_the_way.is_empty() { Ok(seen) } else { Err(MergeError::InTheWay(in_the_way)) }
    }

    /// Refuses new names that are another one's where case makes no difference.
    fn check_case(&self, index: &Index, changes: &[Change]) -> Result<(), MergeError> {
        let ignores = self.repository.config().and_then(|config| config.get_bool("core.ignoreCase"));
        if !ignores.unwrap_or(false) {
            return Ok(());
        }
        let folded = |path: &[u8]| String::from_utf8_lossy(path).to_lowercase();
        let removed: Vec<&[u8]> =
            changes.iter().filter(|change| change.new.is_none()).map(|change| &change.path[..]).collect();
        let mut names: BTreeMap<String, Vec<u8>> = index
            .iter()
            .filter(|entry| !removed.contains(&&entry.path[..]))
            .map(|entry| (folded(&entry.path), entry.path))
            .collect();
        let mut clashes = Vec::new();
        for change in changes.iter().filter(|change| change.new.is_some()) {
            let other = names.insert(folded(&change.path), change.path.clone());
            clashes.extend(other.filter(|other| *other != change.path).map(|_| change.path.clone()));
        }
        if clashes.is_empty() { Ok(()) } else { Err(MergeError::InTheWay(clashes)) }
    }

    fn index(&self) -> Result<Index, MergeError> {
        let mut index = self.repository.index().map_err(unable)?;
        index.read(false).map_err(unable)?;
        Ok(index)
    }

    /// When the index was written: a file that is no older may have changed since without looking so.
    fn index_time(&self) -> Option<(i64, i64)> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(self.git_dir().join("index")).ok()?;
        Some((found.mtime(), found.mtime_nsec()))
    }

    /// Points the branch to a commit, if it still is where it was.
    pub(super) fn move_branch(
        &self,
        head: &Head,
        new: Oid,
        who: Option<&Signature<'_>>,
        log: &str,
    ) -> Result<(), MergeError> {
        const MOVED: MergeError = MergeError::Busy("the branch was changed meanwhile");
        let name = std::str::from_utf8(head.branch.as_bytes());
        let name = name.map_err(|_| MergeError::Unable("the branch's name is not UTF-8".to_owned()))?;
        let repository = &self.repository;
        let busy = |error: git2::Error| match error.code() {
            git2::ErrorCode::Locked | git2::ErrorCode::Exists => MOVED,
            _ => unable(error),
        };
        if let Some(old) = head.commit {
            // Where git leaves it, too.
            let _ = repository.reference("ORIG_HEAD", old, true, log);
        }
        let mut transaction = repository.transaction().map_err(unable)?;
        transaction.lock_ref(name).map_err(busy)?;
        let now = match repository.refname_to_id(name) {
            Err(error) if error.code() == git2::ErrorCode::NotFound => None,
            found => Some(found.map_err(unable)?),
        };
        if now != head.commit {
            return Err(MOVED);
        }
        transaction.set_target(name, new, who, log).map_err(unable)?;
        transaction.commit().map_err(busy)
    }

    /// Written files that one of the person's filters would have changed, by what the attributes say now.
    pub(super) fn unfiltered(&self, changes: &[Change]) -> Vec<String> {
        let written = changes.iter().filter(|change| change.new.is_some_and(|entry| !entry.is_submodule()));
        let has = |path: &Path, name: &str, wanted: &dyn Fn(&str) -> bool| {
            let flags = AttrCheckFlags::FILE_THEN_INDEX | AttrCheckFlags::NO_SYSTEM;
            match self.repository.get_attr_bytes(path, name, flags).map(AttrValue::from_bytes) {
                Ok(AttrValue::String(value)) => wanted(value),
                Ok(AttrValue::Bytes(_)) => true,
                Ok(AttrValue::True) => name == "ident",
                _ => false,
            }
        };
        let is_filtered = |change: &&Change| {
            let path = Path::new(OsStr::from_bytes(&change.path));
            has(path, "filter", &|_| true)
                || has(path, "working-tree-encoding", &|_| true)
                || has(path, "eol", &|value| value == "crlf")
                || has(path, "ident", &|_| false)
        };
        written.filter(is_filtered).map(|change| String::from_utf8_lossy(&change.path).into_owned()).collect()
    }
}
