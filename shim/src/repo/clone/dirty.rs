//! What the person has not committed: told, or taken along as one commit on top of the clone.
//!
//! libgit2 compares, with the clone's repository, the person's list of files in memory and the person's folder. So nothing of
//! theirs is written, not even a list that git would refresh, and nothing of their repository's configuration is read: an
//! earlier agent may have written it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use git2::{Index, IndexEntry, IndexTime, Oid, Repository, Signature, Status, StatusOptions};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, readlinkat};

use super::{
    Making, Several,
    error::CloneError,
    layout::{Identity, Layout},
    watch::{TICK, Watch},
};

/// For a look at what is not committed, where nothing depends on it.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Most files that are taken along.
pub(crate) const MAX_DIRTY_FILES: usize = 20_000;

/// Most that all of them hold, bytes.
pub(crate) const MAX_DIRTY_BYTES: u64 = 1 << 30;

/// What is read of a list of files to pass over.
const MAX_RULES_BYTES: u64 = 1024 * 1024;

/// What is read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Who commits where nobody has a name.
const NOBODY: (&str, &str) = ("agent-shim", "agent-shim@localhost");

/// An entry of a list of files for files that are not there on purpose.
const SKIP_WORKTREE: u16 = 1 << 14;

const EXECUTABLE: u32 = 0o100_755;
const REGULAR: u32 = 0o100_644;
const LINK: u32 = 0o120_000;

/// What was not committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Files that were changed, added or deleted.
    pub files: Several,
    /// The commit that holds them.
    pub commit: Option<String>,
}

/// Everything that a look needs. It runs beside the checkout, and for as long as it takes.
pub(super) struct Look {
    git_dir: PathBuf,
    index: PathBuf,
    /// What the person has git pass over in this repository alone.
    exclude: PathBuf,
    work_tree: PathBuf,
    /// Folders of objects that the clone finds elsewhere.
    shared: Vec<PathBuf>,
    /// The state of all sandboxes, which is nothing of the project's.
    hidden: PathBuf,
    identity: Identity,
    takes_along: bool,
}

/// A look that goes on.
pub(super) struct Looking {
    answer: std::sync::mpsc::Receiver<Result<Dirty, DirtyError>>,
    until: Instant,
}

/// Why what is not committed cannot be told, or not be taken along.
#[derive(Debug, thiserror::Error)]
pub enum DirtyError {
    /// libgit2 cannot read the repository.
    #[error(transparent)]
    Git(#[from] git2::Error),
    /// A file could not be read.
    #[error("reading {path}")]
    File {
        /// Where it is in the repository.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// Too many.
    #[error("there are {0} files that are not committed; {MAX_DIRTY_FILES} at most are taken along")]
    TooMany(usize),
    /// Too much.
    #[error("what is not committed is larger than {MAX_DIRTY_BYTES} bytes, with {0}")]
    TooLarge(String),
    /// It took too long.
    #[error("looking for it takes too long")]
    Late,
}

impl Look {
    /// None where there is no folder to look at, or the clone is of something else than what is in it.
    pub(super) fn new(making: &Making<'_>, layout: &Layout, identity: &Identity) -> Option<Self> {
        let origin = making.origin;
        (origin.has_work_tree && origin.is_checked_out).then(|| Self {
            git_dir: layout.git_dir.clone(),
            index: origin.own_dir.join("index"),
            exclude: origin.git_dir.join("info/exclude"),
            work_tree: origin.work_tree(),
            shared: making.wish.shared.clone(),
            hidden: making.hidden.to_owned(),
            identity: identity.clone(),
            takes_along: making.wish.include_dirty,
        })
    }

    /// Begins.
    pub(super) fn begin(self) -> Looking {
        let (tell, answer) = channel();
        let until = Instant::now() + LOOK_WITHIN;
        // Whoever waits no longer has no use for the answer.
        thread::spawn(move || tell.send(self.run()));
        Looking { answer, until }
    }

    fn run(&self) -> Result<Dirty, DirtyError> {
        let repository = self.open()?;
        let mut options = StatusOptions::new();
        options.include_untracked(true).recurse_untracked_dirs(true).include_ignored(false);
        options.exclude_submodules(true).update_index(false);
        let statuses = repository.statuses(Some(&mut options))?;
        let persons = repository.index()?;
        let mut changed: Vec<Vec<u8>> = Vec::new();
        for entry in statuses.iter() {
            let path = entry.path_bytes();
            let status = entry.status();
            // A repository in the repository ends in a slash, and is not the outer one's to take.
            if status == Status::CURRENT || status.is_ignored() || path.ends_with(b"/") {
                continue;
            }
            // Where only a part is checked out, the rest is not deleted.
            let known = persons.get_path(Path::new(OsStr::from_bytes(path)), 0);
            if status == Status::WT_DELETED
                && known.is_some_and(|known| known.flags_extended & SKIP_WORKTREE != 0)
            {
                continue;
            }
            changed.push(path.to_vec());
        }
        let files = Several::of(changed.iter().map(Vec::as_slice));
        let commit = if self.takes_along && !changed.is_empty() {
            Some(self.commit(&repository, &changed)?.to_string())
        } else {
            None
        };
        Ok(Dirty { files, commit })
    }

    fn open(&self) -> Result<Repository, DirtyError> {
        let repository = Repository::open(&self.git_dir)?;
        repository.set_workdir(&self.work_tree, false)?;
        repository.set_index(&mut Index::open(&self.index)?)?;
        {
            let objects = repository.odb()?;
            for folder in self.shared.iter().filter_map(|folder| folder.to_str()) {
                objects.add_disk_alternate(folder)?;
            }
        }
        if let Some(rules) = rules(&self.exclude) {
            repository.add_ignore_rule(&rules)?;
        }
        if let Some(below) = self.hidden.strip_prefix(&self.work_tree).ok().and_then(Path::to_str) {
            repository.add_ignore_rule(&format!("/{}", escaped(below)))?;
        }
        Ok(repository)
    }

    /// Makes the commit, of objects that are written into the clone.
    fn commit(&self, repository: &Repository, changed: &[Vec<u8>]) -> Result<Oid, DirtyError> {
        if changed.len() > MAX_DIRTY_FILES {
            return Err(DirtyError::TooMany(changed.len()));
        }
        let parent = match repository.head() {
            Ok(head) => Some(head.peel_to_commit()?),
            Err(error) if error.code() == git2::ErrorCode::UnbornBranch => None,
            Err(error) => return Err(error.into()),
        };
        let mut index = Index::new()?;
        if let Some(parent) = &parent {
            index.read_tree(&parent.tree()?)?;
        }
        let folder = open(CWD, &self.work_tree).map_err(|error| file_error(b".", error))?;
        let mut left = MAX_DIRTY_BYTES;
        let mut added = Vec::new();
        for path in changed {
            match read(repository, &folder, path, &mut left)? {
                Some(entry) => added.push(entry),
                None => index.remove(Path::new(OsStr::from_bytes(path)), 0)?,
            }
        }
        // A folder may have become a file, or a file a folder: what goes, goes first.
        for entry in &added {
            index.add(entry)?;
        }
        let tree = repository.find_tree(index.write_tree_to(repository)?)?;
        let (name, email) = (self.identity.name.as_deref(), self.identity.email.as_deref());
        let signature = Signature::now(name.unwrap_or(NOBODY.0), email.unwrap_or(NOBODY.1))
            .or_else(|_| Signature::now(NOBODY.0, NOBODY.1))?;
        let count = changed.len();
        let files = if count == 1 { "file" } else { "files" };
        let message = format!(
            "Changes that were not committed\n\n{count} {files} of the project on the host, taken along by `agent-shim \
             --include-dirty`\nwhen the sandbox was made.\n"
        );
        let parents: Vec<_> = parent.iter().collect();
        Ok(repository.commit(None, &signature, &signature, &message, &tree, &parents)?)
    }
}

impl Looking {
    /// Waits for the answer: for a while, or until it is there where the clone depends on it.
    pub(super) fn wait(
        self,
        for_long: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Result<Dirty, DirtyError>, CloneError> {
        loop {
            match self.answer.recv_timeout(TICK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if for_long || Instant::now() < self.until => {
                    watch.look("looking for what is not committed")?;
                }
                // The thread gives an answer, or has come to an end that nobody foresaw.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Ok(Err(DirtyError::Late));
                }
            }
        }
    }
}

/// One file as it is now; none where it is gone. No link is followed: somebody may be changing the folder just now.
fn read(
    repository: &Repository,
    folder: &OwnedFd,
    path: &[u8],
    left: &mut u64,
) -> Result<Option<IndexEntry>, DirtyError> {
    let found = match open(folder, Path::new(OsStr::from_bytes(path))) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(file_error(path, error)),
    };
    let failed = |error: rustix::io::Errno| file_error(path, error.into());
    let stat = fstat(&found).map_err(failed)?;
    let shown = || String::from_utf8_lossy(path).into_owned();
    let (mode, id) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = readlinkat(&found, c"", Vec::new()).map_err(failed)?;
            (LINK, repository.blob(target.as_bytes())?)
        }
        FileType::RegularFile => {
            let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()));
            let file = file.map_err(|error| file_error(path, error))?;
            let mut from = file.take(left.saturating_add(1));
            let mut into = repository.blob_writer(None)?;
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let count = from.read(&mut piece).map_err(|error| file_error(path, error))?;
                if count == 0 {
                    break;
                }
                *left = left.checked_sub(count as u64).ok_or_else(|| DirtyError::TooLarge(shown()))?;
                into.write_all(&piece[..count]).map_err(|error| file_error(path, error))?;
            }
            (if stat.st_mode & 0o100 == 0 { REGULAR } else { EXECUTABLE }, into.commit()?)
        }
        // Git knows no others.
        _ => return Ok(None),
    };
    let zero = IndexTime::new(0, 0);
    Ok(Some(IndexEntry {
        ctime: zero,
        mtime: zero,
        dev: 0,
        ino: 0,
        mode,
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.to_vec(),
    }))
}

/// Opens what is at a path, whatever it is, if no link leads there.
fn open(folder: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(folder, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

/// What a small file says, if it is one: nobody waits for what somebody put in its place.
fn rules(path: &Path) -> Option<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut text = String::new();
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    (is_file && file.take(MAX_RULES_BYTES).read_to_string(&mut text).is_ok()).then_some(text)
}

fn file_error(path: &[u8], source: io::Error) -> DirtyError {
    DirtyError::File { path: String::from_utf8_lossy(path).into_owned(), source }
}

/// A path as a pattern that means it and nothing else (gitignore(5)).
fn escaped(path: &str) -> String {
    path.chars().flat_map(|c| "\\*?[ ".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_one_path() {
        assert_eq!(escaped("a b/[c]*"), "a\\ b/\\[c]\\*");
    }
}
