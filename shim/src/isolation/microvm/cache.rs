//! What takes long to make and can be made again: it is kept in the person's cache, by what it is made from.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, process};

use sha2::{Digest, Sha256};

/// What was begun this long ago is of a process that was killed.
const ABANDONED: Duration = Duration::from_hours(1);

/// Most unfinished files of one name and one pid.
const MOST_AT_ONCE: u32 = 64;

const NEW: &str = ".new-";

/// A file that is complete.
#[derive(Debug)]
pub struct Cached {
    /// Where it is.
    pub path: PathBuf,
    /// The file itself: it stays readable if another start finds it too old to keep.
    pub file: File,
}

/// Files of one kind.
pub(super) struct Shelf {
    /// The end of their names, which tells them from those of other kinds.
    pub(super) ending: &'static str,
    /// Most of them that are kept: of more, those go that were not of use for the longest time.
    pub(super) most: usize,
}

/// What a file is made from, for its name.
#[derive(Default)]
pub(super) struct Identity(Sha256);

impl Identity {
    pub(super) fn word(&mut self, word: &str) {
        self.0.update(word.len().to_le_bytes());
        self.0.update(word);
    }

    /// Files are told apart by who they are and when they were changed, as make does it: to read them all for a hash would
    /// take longer than to make what is kept.
    pub(super) fn file(&mut self, path: &Path) -> io::Result<()> {
        let found = fs::metadata(path).map_err(|error| named(&error, path))?;
        for number in [found.dev(), found.ino(), found.size()] {
            self.0.update(number.to_le_bytes());
        }
        for time in [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()] {
            self.0.update(time.to_le_bytes());
        }
        Ok(())
    }

    pub(super) fn name(self) -> String {
        self.0.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Shelf {
    /// The file of this name, filled by `fill` if it is not there yet.
    ///
    /// Any number of processes can do this at once: each makes its own, whole, and the last one's name stays.
    pub(super) fn get(
        &self,
        folder: &Path,
        name: &str,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<Cached> {
        let name = format!("{name}{}", self.ending);
        let path = folder.join(&name);
        if let Ok(file) = File::open(&path) {
            // When it was last of use: the cleaning goes by that.
            let _ = file.set_modified(SystemTime::now());
            return Ok(Cached { path, file });
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let (new, file) = begin(folder, &name)?;
        let made = fill(&file)
            // After a power cut a name without its content would be believed.
            .and_then(|()| file.sync_data())
            // From its beginning, and nobody writes to it any more.
            .and_then(|()| File::open(&new))
            .and_then(|file| fs::rename(&new, &path).map(|()| file));
        let file = made.inspect_err(|_| drop(fs::remove_file(&new)))?;
        // That an old one stays is no reason not to start.
        let _ = self.clean(folder, &name);
        Ok(Cached { path, file })
    }

    /// Removes what was not of use for the longest time, and what processes that were killed left.
    fn clean(&self, folder: &Path, just_made: &str) -> io::Result<()> {
        let now = SystemTime::now();
        let mut kept = Vec::new();
        for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(used) = entry.metadata().and_then(|found| found.modified()) else { continue };
            let is_abandoned = now.duration_since(used).is_ok_and(|age| age > ABANDONED);
            if name.starts_with(NEW) {
                if is_abandoned {
                    fs::remove_file(entry.path())?;
                }
            } else if name.ends_with(self.ending) && name != just_made {
                kept.push((used, entry.path()));
            }
        }
        for path in superfluous(kept, self.most - 1) {
            // Another process may be at the same.
            let _ = fs::remove_file(path);
        }
        Ok(())
    }
}

/// The folder for what can be made again: `$XDG_CACHE_HOME/agent-shim/machines`.
pub fn folder(cache_home: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    // By the specification a relative path is to be ignored.
    let given = cache_home.map(Path::new).filter(|given| given.is_absolute()).map(Path::to_owned);
    let folder = given.or_else(|| Some(Path::new(home?).join(".cache")))?;
    Some(folder.join("agent-shim/machines"))
}

/// That folder of this process's person, if they have one.
pub fn own_folder() -> Option<PathBuf> {
    folder(env::var_os("XDG_CACHE_HOME").as_deref(), env::var_os("HOME").as_deref())
}

pub(super) fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A file that is nobody else's: neither another thread's, nor one's with the same pid in another namespace.
fn begin(folder: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let path = folder.join(format!("{NEW}{}-{number}-{name}", process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MOST_AT_ONCE => {
                number += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// All but the `most` that were used last.
fn superfluous(mut kept: Vec<(SystemTime, PathBuf)>, most: usize) -> Vec<PathBuf> {
    kept.sort_by(|one, other| other.cmp(one));
    kept.into_iter().skip(most).map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    const SHELF: Shelf = Shelf { ending: ".cpio", most: 4 };

    fn names(folder: &Path) -> Vec<String> {
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn get(folder: &Path, name: &str) -> Cached {
        SHELF.get(folder, name, |mut file| io::Write::write_all(&mut file, b"content")).unwrap()
    }

    #[test]
    fn the_oldest_of_a_kind_go() {
        let folder = TempDir::new();
        fs::write(folder.path().join("of-another-kind.elf"), "").unwrap();
        for number in 0..SHELF.most + 3 {
            get(folder.path(), &number.to_string());
        }
        assert_eq!(names(folder.path()).len(), SHELF.most + 1);
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let path = |name: &str| PathBuf::from(name);
        let kept = vec![(time(3), path("c")), (time(1), path("a")), (time(2), path("b"))];
        assert_eq!(superfluous(kept, 2), [path("a")]);
    }

    #[test]
    fn what_a_killed_process_began_goes_after_a_while() {
        let folder = TempDir::new();
        fs::write(folder.path().join(".new-1-x.cpio"), "").unwrap();
        let old = File::create(folder.path().join(".new-2-x.cpio")).unwrap();
        old.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        get(folder.path(), "another");
        let names = names(folder.path());
        assert!(names.contains(&".new-1-x.cpio".to_owned()), "another process may be at it");
        assert!(!names.contains(&".new-2-x.cpio".to_owned()));
    }

    #[test]
    fn many_at_once_find_a_whole_one() {
        let folder = TempDir::new();
        let lengths = std::thread::scope(|scope| {
            let make = || get(folder.path(), "one").file.metadata().unwrap().len();
            let makers = (0..8).map(|_| scope.spawn(make)).collect::<Vec<_>>();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(lengths, [7; 8]);
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn the_cache_is_where_the_person_wants_it() {
        let folder = |given: Option<&str>, home: Option<&str>| {
            super::folder(given.map(OsStr::new), home.map(OsStr::new))
        };
        let big = PathBuf::from("/big/agent-shim/machines");
        assert_eq!(folder(Some("/big"), Some("/home/me")).as_ref(), Some(&big));
        assert_eq!(folder(Some("/big"), None).as_ref(), Some(&big));
        for ignored in [None, Some(""), Some("relative")] {
            let usual = PathBuf::from("/home/me/.cache/agent-shim/machines");
            assert_eq!(folder(ignored, Some("/home/me")), Some(usual));
            assert_eq!(folder(ignored, None), None);
        }
    }
}
