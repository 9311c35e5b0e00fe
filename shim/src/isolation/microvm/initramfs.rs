//! The file system that a machine's kernel begins with: init, the modules that it loads, and what it is told.
//!
//! The first part is the same for every start with one kernel and one init, so it is kept. The second one is of one
//! start alone. The kernel takes archives one after the other as one.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, process};

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::cpio::{Archive, Kind};
use super::decompress;
use super::modules::ModuleFile;

/// Most archives that are kept. One is 5 to 10 MB, and a person has a kernel or two and now and then a new init.
pub const MAX_KEPT: usize = 8;

/// What was begun this long ago is of a process that was killed.
const ABANDONED: Duration = Duration::from_hours(1);

/// Most unfinished archives of one name and one pid.
const MOST_AT_ONCE: u32 = 64;

/// Changes when the content for the same input changes.
const FORMAT: &str = "1";

const NEW: &str = ".new-";
const ENDING: &str = ".cpio";

/// An archive that is complete.
#[derive(Debug)]
pub struct Cached {
    /// Where it is.
    pub path: PathBuf,
    /// The archive itself: it stays readable if another start finds it too old to keep.
    pub file: File,
}

/// The folder for what can be made again: `$XDG_CACHE_HOME/agent-shim/machines`.
pub fn cache_folder(cache_home: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    // By the specification a relative path is to be ignored.
    let given = cache_home.map(Path::new).filter(|given| given.is_absolute()).map(Path::to_owned);
    let folder = given.or_else(|| Some(Path::new(home?).join(".cache")))?;
    Some(folder.join("agent-shim/machines"))
}

/// The archive with init and the modules, made if it is not there yet.
///
/// Any number of processes can do this at once: each makes its own, whole, and the last one's name stays.
pub fn cached(init: &Path, version: &str, modules: &[ModuleFile], folder: &Path) -> io::Result<Cached> {
    let name = format!("{}{ENDING}", identity(init, version, modules)?);
    let path = folder.join(&name);
    if let Ok(file) = File::open(&path) {
        // When it was last of use: the cleaning goes by that.
        let _ = file.set_modified(SystemTime::now());
        return Ok(Cached { path, file });
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (new, file) = begin(folder, &name)?;
    let made = fill(file, init, modules)
        // From its beginning, and nobody writes to it any more.
        .and_then(|()| File::open(&new))
        .and_then(|file| fs::rename(&new, &path).map(|()| file));
    let file = made.inspect_err(|_| drop(fs::remove_file(&new)))?;
    // That an old one stays is no reason not to start.
    let _ = clean(folder, &name);
    Ok(Cached { path, file })
}

/// The same for a person who has no place to keep it.
pub fn in_memory(init: &Path, modules: &[ModuleFile]) -> io::Result<File> {
    let file = File::from(memfd_create("agent-shim-machine", MemfdFlags::CLOEXEC)?);
    fill(file.try_clone()?, init, modules)?;
    Ok(file)
}

/// The archive of one start: what init is told, and the token of those who may talk to it. Goes after the kept one.
pub fn tail(spec: &[u8], token: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::with_capacity(spec.len() + token.len() + 1024));
    archive.add("agent", Kind::Folder(0o700), b"")?;
    archive.add("agent/spec.json", Kind::File(0o600), spec)?;
    archive.add("agent/token", Kind::File(0o600), token)?;
    archive.finish()
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

fn fill(file: File, init: &Path, modules: &[ModuleFile]) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::with_capacity(256 * 1024, file));
    for (folder, mode) in
        [("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("root", 0o755), ("modules", 0o700)]
    {
        archive.add(folder, Kind::Folder(mode), b"")?;
    }
    // The kernel opens it for init before init is there to make it.
    archive.add("dev/console", Kind::Device(0o600, 5, 1), b"")?;
    archive.add("init", Kind::File(0o755), &fs::read(init).map_err(|error| named(&error, init))?)?;
    for module in modules {
        let content = decompress::read(&module.file).map_err(|error| named(&error, &module.file))?;
        archive.add(module.path_inside().trim_start_matches('/'), Kind::File(0o600), &content)?;
    }
    let file = archive.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    // After a power cut a name without its content would be believed.
    file.sync_data()
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A name for the content. Files are told apart by who they are and when they were changed, as make does it: to read
/// them all for a hash would take longer than to make the archive.
fn identity(init: &Path, version: &str, modules: &[ModuleFile]) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    add(FORMAT.as_bytes());
    add(version.as_bytes());
    let files = modules.iter().map(|module| (module.name.as_str(), module.file.as_path()));
    for (name, file) in [("", init)].into_iter().chain(files) {
        let found = fs::metadata(file).map_err(|error| named(&error, file))?;
        add(name.as_bytes());
        for number in [found.dev(), found.ino(), found.size()] {
            add(&number.to_le_bytes());
        }
        for time in [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()] {
            add(&time.to_le_bytes());
        }
    }
    Ok(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Removes what was not of use for the longest time, and what processes that were killed left.
fn clean(folder: &Path, just_made: &str) -> io::Result<()> {
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
        } else if name.ends_with(ENDING) && name != just_made {
            kept.push((used, entry.path()));
        }
    }
    for path in superfluous(kept, MAX_KEPT - 1) {
        // Another process may be at the same.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// All but the `most` that were used last.
fn superfluous(mut kept: Vec<(SystemTime, PathBuf)>, most: usize) -> Vec<PathBuf> {
    kept.sort_by(|one, other| other.cmp(one));
    kept.into_iter().skip(most).map(|(_, path)| path).collect()
}

/// The cache folder of this process's person, if they have one.
pub fn own_cache_folder() -> Option<PathBuf> {
    cache_folder(env::var_os("XDG_CACHE_HOME").as_deref(), env::var_os("HOME").as_deref())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::sandbox::testing::TempDir;

    fn scene() -> (TempDir, PathBuf, Vec<ModuleFile>) {
        let folder = TempDir::new();
        let init = folder.path().join("agent-init");
        fs::write(&init, "the init").unwrap();
        let file = folder.path().join("virtio-rng.ko");
        fs::write(&file, "the module").unwrap();
        (folder, init, vec![ModuleFile { name: "virtio_rng".to_owned(), file }])
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names = folder
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>();
        names.sort();
        names
    }

    #[test]
    fn the_same_is_made_once_and_another_beside_it() {
        let (folder, init, modules) = scene();
        let cache = folder.path().join("cache");
        let first = cached(&init, "6.1", &modules, &cache).unwrap();
        let again = cached(&init, "6.1", &modules, &cache).unwrap();
        assert_eq!(first.path, again.path);
        let (first, again) = (first.file.metadata().unwrap(), again.file.metadata().unwrap());
        assert_eq!(first.ino(), again.ino(), "it is not made again");
        assert_eq!(first.mode() & 0o777, 0o600);

        fs::write(&init, "another init").unwrap();
        cached(&init, "6.1", &modules, &cache).unwrap();
        cached(&init, "6.2", &modules, &cache).unwrap();
        cached(&init, "6.2", &[], &cache).unwrap();
        assert_eq!(names(&cache).len(), 4);
    }

    #[test]
    fn who_has_no_place_for_it_has_the_same_in_memory() {
        let (folder, init, modules) = scene();
        let kept = cached(&init, "6.1", &modules, &folder.path().join("cache")).unwrap();
        let mut made = in_memory(&init, &modules).unwrap();
        let mut bytes = Vec::new();
        made.rewind().unwrap();
        made.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, fs::read(kept.path).unwrap());
    }

    #[test]
    fn it_holds_init_and_the_modules_unpacked() {
        let (folder, init, modules) = scene();
        let cache = folder.path().join("cache");
        for _ in ["new", "kept"] {
            let mut made = cached(&init, "6.1", &modules, &cache).unwrap();
            let mut bytes = Vec::new();
            made.file.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, fs::read(made.path).unwrap());
            assert_eq!(bytes.len() % 4, 0);
            let text = String::from_utf8_lossy(&bytes);
            for part in ["the init", "modules/virtio_rng.ko", "the module"] {
                assert!(text.contains(part), "{part}");
            }
        }
    }

    #[test]
    fn a_failure_leaves_nothing_and_names_the_file() {
        let (folder, init, mut modules) = scene();
        let cache = folder.path().join("cache");
        modules[0].file = folder.path().join("broken.ko.xz");
        fs::write(&modules[0].file, "no xz").unwrap();
        let error = cached(&init, "6.1", &modules, &cache).unwrap_err().to_string();
        assert!(error.contains("broken.ko.xz"), "{error}");
        assert_eq!(names(&cache), Vec::<String>::new());
    }

    #[test]
    fn the_oldest_go() {
        let (folder, init, modules) = scene();
        let cache = folder.path().join("cache");
        for version in 0..MAX_KEPT + 3 {
            cached(&init, &version.to_string(), &modules, &cache).unwrap();
        }
        assert_eq!(names(&cache).len(), MAX_KEPT);
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let path = |name: &str| PathBuf::from(name);
        let kept = vec![(time(3), path("c")), (time(1), path("a")), (time(2), path("b"))];
        assert_eq!(superfluous(kept, 2), [path("a")]);
    }

    #[test]
    fn what_a_killed_process_began_goes_after_a_while() {
        let (folder, init, modules) = scene();
        let cache = folder.path().join("cache");
        fs::create_dir(&cache).unwrap();
        fs::write(cache.join(".new-1-x.cpio"), "").unwrap();
        let old = File::create(cache.join(".new-2-x.cpio")).unwrap();
        old.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        cached(&init, "6.1", &modules, &cache).unwrap();
        let names = names(&cache);
        assert!(names.contains(&".new-1-x.cpio".to_owned()), "another process may be at it");
        assert!(!names.contains(&".new-2-x.cpio".to_owned()));
    }

    #[test]
    fn many_at_once_find_a_whole_one() {
        let (folder, init, modules) = scene();
        let cache = folder.path().join("cache");
        let lengths = std::thread::scope(|scope| {
            let make = || cached(&init, "6.1", &modules, &cache).unwrap().file.metadata().unwrap().len();
            let makers = (0..8).map(|_| scope.spawn(make)).collect::<Vec<_>>();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
        assert_eq!(names(&cache).len(), 1);
    }

    #[test]
    fn the_second_archive_begins_where_the_first_ends() {
        let tail = tail(b"{}", &[7; 32]).unwrap();
        assert_eq!(tail.len() % 4, 0);
        assert!(tail.starts_with(b"070701"));
        // The permissions 0600 of a file.
        assert!(String::from_utf8_lossy(&tail).contains("00008180"));
    }

    #[test]
    fn the_cache_is_where_the_person_wants_it() {
        let folder = |given: Option<&str>, home: Option<&str>| {
            cache_folder(given.map(OsStr::new), home.map(OsStr::new))
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
