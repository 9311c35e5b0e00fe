//! Files of a working tree, reached step by step and never through a symbolic link.
//!
//! New files are made in a folder of ours on the same file system and take their place by a rename. Where one replaces
//! another, both change places in one step, and only then is looked whether the one that came out is what was
//! expected: nobody's change can be lost in between.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use git2::{IndexEntry, ObjectType, Odb, Oid};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, Stat},
    io::Errno,
};

use super::{
    MAX_WRITTEN_BYTES, MergeError,
    changes::{Change, Entry},
    home::Home,
    unable,
};

/// The folder in which files wait for their place. Whoever has the index locked removes one that a killed merge has left.
const WAITING: &str = "agent-shim-merge";

/// Most entries of a folder that are looked at before it is in the way.
const MAX_ENTRIES: usize = 100_000;

/// A working tree.
pub(super) struct Tree {
    root: OwnedFd,
    /// Whether the file system knows what can be executed (`core.fileMode`).
    has_modes: bool,
}

/// What stands at a path.
pub(super) enum Seen {
    Nothing,
    /// Something that is no folder stands where the path leads through.
    Below(Vec<u8>),
    Folder,
    File(Stamp),
}

/// A file or a link, as it was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp(Stat);

/// Files that took their places. Taken back on drop, unless they are to stay.
pub(super) struct Written {
    tree: Tree,
    waiting: Waiting,
    done: Vec<Done>,
    stays: bool,
}

/// One change that was made.
struct Done {
    path: Vec<u8>,
    /// Its number among those that wait: what was there before waits under it now, if something was.
    number: usize,
    had: bool,
    has: bool,
}

/// A folder of ours.
struct Waiting {
    path: PathBuf,
    folder: OwnedFd,
}

impl Stamp {
    fn is_same(&self, other: &Self) -> bool {
        let key = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        key(&self.0) == key(&other.0)
    }

    /// For the index.
    pub(super) fn stat(&self) -> &Stat {
        &self.0
    }
}

impl Tree {
    pub(super) fn open(home: &Home) -> Result<Self, MergeError> {
        let work = home.work();
        let root = rustix::fs::open(work, FOLDER, Mode::empty()).map_err(at(work.as_os_str().as_bytes()))?;
        Ok(Self { root, has_modes: home.has_modes() })
    }

    /// Whether it is what the index says without a look into it. One as new as the index itself could have changed since.
    pub(super) fn is_as_recorded(&self, seen: &Stamp, entry: &IndexEntry, index: Option<(i64, i64)>) -> bool {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the index holds the lower half"
        )]
        let low = |number: i64| number as u32;
        #[allow(clippy::cast_possible_truncation, reason = "the index holds the lower half")]
        let low_u = |number: u64| number as u32;
        let stat = &seen.0;
        let (mtime, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec.cast_signed());
        entry.mtime.seconds() == low(mtime).cast_signed()
            && entry.mtime.nanoseconds() == low(nanoseconds)
            && entry.ctime.seconds() == low(stat.st_ctime).cast_signed()
            && entry.file_size == low(stat.st_size)
            && entry.ino == low_u(stat.st_ino)
            && self.has_mode(seen, entry.mode)
            && index.is_some_and(|index| (mtime, nanoseconds) < index)
    }

    /// Of the kind that a mode of git's means, and as executable.
    fn has_mode(&self, seen: &Stamp, mode: u32) -> bool {
        let entry = Entry { mode, id: Oid::zero() };
        match FileType::from_raw_mode(seen.0.st_mode) {
            FileType::Symlink => entry.is_link(),
            FileType::RegularFile => {
                !entry.is_link()
                    && !entry.is_submodule()
                    && (!self.has_modes || (seen.0.st_mode & 0o100 != 0) == entry.is_executable())
            }
            _ => false,
        }
    }

    /// What is there.
    pub(super) fn look(&self, path: &[u8]) -> Result<Seen, MergeError> {
        let (folder, name) = match self.folder_of(path) {
            Ok(found) => found,
            Err((_, Errno::NOENT)) => return Ok(Seen::Nothing),
            Err((obstacle, Errno::NOTDIR | Errno::LOOP)) => return Ok(Seen::Below(obstacle)),
            Err((obstacle, error)) => return Err(at(&obstacle)(error)),
        };
        match stat(&folder, name) {
            Err(Errno::NOENT) => Ok(Seen::Nothing),
            Err(error) => Err(at(path)(error)),
            Ok(found) => match FileType::from_raw_mode(found.0.st_mode) {
                FileType::Directory => Ok(Seen::Folder),
                _ => Ok(Seen::File(found)),
            },
        }
    }

    /// Whether what was seen there holds what one of these does.
    pub(super) fn is_one_of(
        &self,
        path: &[u8],
        seen: &Stamp,
        entries: impl Iterator<Item = Entry>,
    ) -> Result<bool, MergeError> {
        let entries: Vec<Entry> = entries.filter(|entry| self.has_mode(seen, entry.mode)).collect();
        // One as large as that was not written by us.
        let is_large = u64::try_from(seen.0.st_size).is_ok_and(|bytes| bytes > MAX_WRITTEN_BYTES as u64);
        if entries.is_empty() || is_large {
            return Ok(false);
        }
        let (folder, name) = self.folder_of(path).map_err(|(_, error)| at(path)(error))?;
        let content = if entries[0].is_link() {
            rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(at(path))?.into_bytes()
        } else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(at(path))?;
            let mut content = Vec::new();
            // A file that is no regular one any more has another size, or none.
            let most = u64::try_from(seen.0.st_size).unwrap_or(0) + 1;
            File::from(file).take(most).read_to_end(&mut content).map_err(io_at(path))?;
            content
        };
        let id = Oid::hash_object(ObjectType::Blob, &content).map_err(unable)?;
        Ok(entries.iter().any(|entry| entry.id == id))
    }

    /// The first thing below a folder that is no folder itself and meets a condition; too many count as one.
    pub(super) fn find_below(
        &self,
        path: &[u8],
        condition: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, MergeError> {
        let (mut left, mut count) = (vec![path.to_vec()], 0);
        while let Some(next) = left.pop() {
            let (parent, name) = self.folder_of(&next).map_err(|(_, error)| at(&next)(error))?;
            let folder = rustix::fs::openat(&parent, name, FOLDER, Mode::empty()).map_err(at(&next))?;
            let mut buffer = Vec::with_capacity(8192);
            let mut entries = RawDir::new(&folder, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry.map_err(at(&next))?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                count += 1;
                let path = [&next[..], b"/", name].concat();
                match stat(&folder, OsStr::from_bytes(name)).map_err(at(&path))?.0.st_mode {
                    mode if FileType::from_raw_mode(mode) == FileType::Directory && count <= MAX_ENTRIES => {
                        left.push(path);
                    }
                    _ if count > MAX_ENTRIES || condition(&path) => return Ok(Some(path)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// The folder that a path lies in, and its last part. An error names how far it got.
    fn folder_of<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), (Vec<u8>, Errno)> {
        self.walk(path, false)
    }

    fn make_folder_of<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), MergeError> {
        self.walk(path, true).map_err(|(obstacle, error)| at(&obstacle)(error))
    }

    fn walk<'p>(&self, path: &'p [u8], makes: bool) -> Result<(OwnedFd, &'p OsStr), (Vec<u8>, Errno)> {
        let mut folder = self.root.try_clone().map_err(|_| (path.to_vec(), Errno::MFILE))?;
        let mut start = 0;
        while let Some(length) = path[start..].iter().position(|byte| *byte == b'/') {
            let (part, so_far) = (&path[start..start + length], &path[..start + length]);
            let open = || rustix::fs::openat(&folder, OsStr::from_bytes(part), FOLDER, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) if makes => {
                    let made =
                        rustix::fs::mkdirat(&folder, OsStr::from_bytes(part), Mode::from_raw_mode(0o777));
                    made.and_then(|()| open())
                }
                opened => opened,
            };
            folder = opened.map_err(|error| (so_far.to_vec(), error))?;
            start += length + 1;
        }
        Ok((folder, OsStr::from_bytes(&path[start..])))
    }

    /// Removes the folders that a path lay in, as far as they are empty.
    fn remove_empty(&self, path: &[u8]) {
        let mut path = path;
        while let Some(at) = path.iter().rposition(|byte| *byte == b'/') {
            path = &path[..at];
            let Ok((folder, name)) = self.folder_of(path) else { return };
            // One that is not empty stays.
            if rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
    }
}

/// Makes the changes, where everything is still what was `seen` when it was checked.
pub(super) fn replace(
    home: &Home,
    changes: &[Change],
    seen: &[Option<Stamp>],
    objects: &Odb<'_>,
) -> Result<Written, MergeError> {
    let tree = Tree::open(home)?;
    let waiting = Waiting::make(home)?;
    // Everything is on the disk before the first file takes its place: a full disk changes nothing.
    for (number, change) in changes.iter().enumerate() {
        if let Some(entry) = change.new.filter(|entry| !entry.is_submodule()) {
            waiting.put(number, entry, objects).map_err(io_at(&change.path))?;
        }
    }
    let mut written = Written { tree, waiting, done: Vec::new(), stays: false };
    // What goes makes room for what comes.
    let (gone, come): (Vec<_>, Vec<_>) =
        changes.iter().enumerate().partition(|(_, change)| change.new.is_none());
    for (number, change) in gone.into_iter().chain(come) {
        let is_submodule = change.new.or(change.old).is_some_and(|entry| entry.is_submodule());
        if is_submodule {
            written.submodule(change);
        } else {
            written.one(number, change, seen.get(number).copied().flatten())?;
        }
    }
    Ok(written)
}

impl Written {
    fn one(&mut self, number: usize, change: &Change, expected: Option<Stamp>) -> Result<(), MergeError> {
        let path = &change.path;
        if expected.is_none() && change.new.is_none() {
            return Ok(());
        }
        let (folder, name) = self.tree.make_folder_of(path)?;
        let (ours, own) = (&self.waiting.folder, number.to_string());
        if expected.is_none() {
            // A folder that stood there is empty by now, or somebody put something in it; then it is in the way.
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR);
        }
        let moved = match (expected, change.new) {
            (Some(_), Some(_)) => rustix::fs::renameat_with(ours, &own, &folder, name, RenameFlags::EXCHANGE),
            (None, _) => rustix::fs::renameat_with(ours, &own, &folder, name, RenameFlags::NOREPLACE),
            (_, None) => rustix::fs::renameat_with(&folder, name, ours, &own, RenameFlags::NOREPLACE),
        };
        moved.map_err(|error| match error {
            Errno::EXIST | Errno::NOTEMPTY => MergeError::InTheWay(vec![path.clone()]),
            Errno::INVAL => MergeError::Unable("the file system cannot exchange two files".to_owned()),
            error => at(path)(error),
        })?;
        let (had, has) = (expected.is_some(), change.new.is_some());
        self.done.push(Done { path: path.clone(), number, had, has });
        // What came out is what was looked at, or it goes back.
        if let Some(expected) = expected
            && !stat(ours, OsStr::new(&own)).map_err(at(path))?.is_same(&expected)
        {
            return Err(MergeError::Dirty(vec![path.clone()]));
        }
        if change.new.is_none() {
            self.tree.remove_empty(path);
        }
        Ok(())
    }

    /// A submodule's files are its own; it only has a place.
    fn submodule(&mut self, change: &Change) {
        if change.new.is_some() {
            if let Ok((folder, name)) = self.tree.make_folder_of(&change.path) {
                let _ = rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777));
            }
        } else if let Ok((folder, name)) = self.tree.folder_of(&change.path) {
            // One that is not empty stays.
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR);
        }
    }

    /// What a path is now; nothing where it was removed.
    pub(super) fn stamp(&self, path: &[u8]) -> Option<Stamp> {
        match self.tree.look(path) {
            Ok(Seen::File(stamp)) => Some(stamp),
            _ => None,
        }
    }

    /// They are the person's from here on.
    pub(super) fn stay(mut self) {
        self.stays = true;
    }

    fn take_back(&self, done: &Done) -> Option<()> {
        let own = done.number.to_string();
        let (folder, name) = self.tree.make_folder_of(&done.path).ok()?;
        let ours = &self.waiting.folder;
        match (done.had, done.has) {
            (true, true) => rustix::fs::renameat_with(ours, &own, &folder, name, RenameFlags::EXCHANGE),
            (true, false) => rustix::fs::renameat_with(ours, &own, &folder, name, RenameFlags::NOREPLACE),
            _ => rustix::fs::renameat_with(&folder, name, ours, &own, RenameFlags::NOREPLACE),
        }
        .ok()?;
        if !done.had {
            self.tree.remove_empty(&done.path);
        }
        Some(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.stays {
            for done in self.done.iter().rev() {
                // What cannot be taken back is shown by git, and holds what the agent committed.
                let _ = self.take_back(done);
            }
        }
    }
}

/// Removes the folder that a killed merge has left. The index is locked.
pub(super) fn tidy(home: &Home) {
    // The next merge that has something to do removes it as well.
    let _ = fs::remove_dir_all(waiting(home));
}

/// Beside the repository's own files where that is the same file system, otherwise in the working tree.
fn waiting(home: &Home) -> PathBuf {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let same = device(home.git_dir()) == device(home.work());
    if same { home.git_dir().join(WAITING) } else { home.work().join(format!(".{WAITING}")) }
}

impl Waiting {
    fn make(home: &Home) -> Result<Self, MergeError> {
        let path = waiting(home);
        let failed = |error| MergeError::Io(path.as_os_str().as_bytes().to_vec(), error);
        // The index is locked: whoever made this folder has ended.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let folder = rustix::fs::open(&path, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { path, folder })
    }

    /// Makes a file or link that is to take a place.
    fn put(&self, number: usize, entry: Entry, objects: &Odb<'_>) -> io::Result<()> {
        let object = objects.read(entry.id).map_err(io::Error::other)?;
        if object.kind() != ObjectType::Blob {
            return Err(io::Error::other("it is no file"));
        }
        let path = self.path.join(number.to_string());
        if entry.is_link() {
            return std::os::unix::fs::symlink(OsStr::from_bytes(object.data()), path);
        }
        let mode = if entry.is_executable() { 0o777 } else { 0o666 };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(object.data())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What stays is removed by the next merge.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A folder, and no link to one.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn stat(folder: impl AsFd, name: &OsStr) -> Result<Stamp, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(Stamp)
}

fn at(path: &[u8]) -> impl Fn(Errno) -> MergeError {
    let path = path.to_vec();
    move |error| MergeError::Io(path.clone(), error.into())
}

fn io_at(path: &[u8]) -> impl Fn(io::Error) -> MergeError {
    let path = path.to_vec();
    move |error| MergeError::Io(path.clone(), error)
}
