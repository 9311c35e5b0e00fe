//! The person's index, changed in one step.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use git2::{Index, IndexEntry, IndexTime};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Stat, flock};

use super::{
    MergeError,
    changes::Change,
    home::Home,
    tree::{self, Written},
    unable,
};

/// What our locks say, so that one that was left behind is known.
const MARK: &[u8] = b"agent-shim merge\n";

/// The index that takes the place of the other one.
const NEXT: &str = "agent-shim-index";

/// Git's own lock of an index: nobody else changes it as long as the file is there.
pub(super) struct Lock {
    index: PathBuf,
    path: PathBuf,
    /// Held until the end, so that one whose owner was killed is told from one that is in use.
    _held: File,
}

/// An index that was changed, with what it was. Taken back on drop, unless it is to stay.
pub(super) struct Changed<'a> {
    lock: &'a Lock,
    /// Nothing where there was none.
    old: Option<Vec<u8>>,
    stays: bool,
}

impl Lock {
    pub(super) fn take(git_dir: &Path) -> Result<Self, MergeError> {
        const BUSY: MergeError =
            MergeError::Busy("another git works on the index, or has left `index.lock` behind");
        let (index, lock) = (git_dir.join("index"), git_dir.join("index.lock"));
        let failed = at(&lock);
        for _ in 0..2 {
            match make(git_dir, &lock) {
                Ok(held) => return Ok(Self { index, path: lock, _held: held }),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                Err(_) => {
                    // Only one of ours that nobody holds.
                    let Ok(left) = File::open(&lock) else { continue };
                    let is_left = flock(&left, FlockOperation::NonBlockingLockExclusive).is_ok();
                    // What was opened, and not one that somebody has put in its place since.
                    let file = |found: io::Result<fs::Metadata>| found.map(|found| found.ino()).ok();
                    let is_same = file(left.metadata()) == file(fs::metadata(&lock));
                    if !is_left || !is_same || !fs::read(&lock).is_ok_and(|text| text == MARK) {
                        return Err(BUSY);
                    }
                    fs::remove_file(&lock).map_err(&failed)?;
                }
            }
        }
        Err(BUSY)
    }

    /// Replaces the index by one in which the changes were made.
    pub(super) fn write(
        &self,
        home: &Home,
        changes: &[Change],
        written: &Written,
    ) -> Result<Changed<'_>, MergeError> {
        let failed = at(&self.index);
        let next = home.git_dir().join(NEXT);
        let old = match fs::read(&self.index) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(&failed)?),
        };
        match &old {
            // A copy keeps who may read it.
            Some(_) => fs::copy(&self.index, &next).map(drop).map_err(&failed)?,
            None => drop(fs::remove_file(&next)),
        }
        // That of libgit2, from a merge that was killed.
        let _ = fs::remove_file(next.with_extension("lock"));
        let mut index = Index::open(&next).map_err(unable)?;
        let (gone, come): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.new.is_none());
        for change in gone {
            // It may be gone already.
            let _ = index.remove(Path::new(std::ffi::OsStr::from_bytes(&change.path)), 0);
        }
        for change in come {
            if let Some(entry) = change.new {
                let stat = written.stamp(&change.path);
                index
                    .add(&recorded(change, entry, stat.as_ref().map(super::tree::Stamp::stat)))
                    .map_err(unable)?;
            }
        }
        index.write().map_err(unable)?;
        fs::rename(&next, &self.index).map_err(&failed)?;
        Ok(Changed { lock: self, old, stays: false })
    }
}

/// Removes what a merge has left that was killed behind its last step. The next one has nothing to do, and so takes no
/// lock. Best effort: while it is there, git says so.
pub(super) fn tidy(home: &Home) {
    let is_ours = fs::read(home.git_dir().join("index.lock")).is_ok_and(|text| text == MARK);
    if is_ours && let Ok(_lock) = Lock::take(home.git_dir()) {
        tree::tidy(home);
    }
}

/// Makes the lock: with our mark in it and held from the beginning, so that it is known whenever we are killed.
fn make(git_dir: &Path, lock: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut held: File = rustix::fs::open(git_dir, flags, Mode::from_raw_mode(0o644))?.into();
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    held.write_all(MARK)?;
    let unnamed = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::linkat(CWD, unnamed, CWD, lock, AtFlags::SYMLINK_FOLLOW)?;
    Ok(held)
}

/// An entry that says what the file looks like, so that nobody has to read it again.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "an index holds the lower half"
)]
fn recorded(change: &Change, entry: super::changes::Entry, stat: Option<&Stat>) -> IndexEntry {
    let time = |seconds: i64, nanoseconds: u64| IndexTime::new(seconds as i32, nanoseconds as u32);
    IndexEntry {
        ctime: stat.map_or(IndexTime::new(0, 0), |stat| time(stat.st_ctime, stat.st_ctime_nsec)),
        mtime: stat.map_or(IndexTime::new(0, 0), |stat| time(stat.st_mtime, stat.st_mtime_nsec)),
        dev: stat.map_or(0, |stat| stat.st_dev as u32),
        ino: stat.map_or(0, |stat| stat.st_ino as u32),
        mode: entry.mode,
        uid: stat.map_or(0, |stat| stat.st_uid),
        gid: stat.map_or(0, |stat| stat.st_gid),
        file_size: stat.map_or(0, |stat| stat.st_size as u32),
        id: entry.id,
        flags: 0,
        flags_extended: 0,
        path: change.path.clone(),
    }
}

impl Changed<'_> {
    /// The branch has the same.
    pub(super) fn stay(mut self) {
        self.stays = true;
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        if !self.stays {
            // What cannot be taken back is shown by git as staged, and holds what the agent committed.
            let index = &self.lock.index;
            let next = index.with_file_name(NEXT);
            let _ = match &self.old {
                Some(old) => fs::write(&next, old).and_then(|()| fs::rename(&next, index)),
                None => fs::remove_file(index),
            };
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still there where the merge failed before it was whole.
        let _ = fs::remove_file(self.index.with_file_name(NEXT));
        // Whoever finds it knows it as left over.
        let _ = fs::remove_file(&self.path);
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> MergeError + use<> {
    let path = path.as_os_str().as_bytes().to_vec();
    move |error| MergeError::Io(path.clone(), error)
}
