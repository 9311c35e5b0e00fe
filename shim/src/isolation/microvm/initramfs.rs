//! The file system that a machine's kernel begins with: init, the modules that it loads, and what it is told.
//!
//! The first part is the same for every start with one kernel and one init, so it is kept. The second one is of one
//! start alone. The kernel takes archives one after the other as one.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::cache::{Cached, Identity, Shelf, named};
use super::cpio::{Archive, Kind};
use super::decompress;
use super::modules::ModuleFile;

/// Most archives that are kept. One is 5 to 10 MB, and a person has a kernel or two and now and then a new init.
pub const MAX_ARCHIVES: usize = 8;

const SHELF: Shelf = Shelf { ending: ".cpio", most: MAX_ARCHIVES };

/// Changes when the content for the same input changes.
const FORMAT: &str = "1";

/// The archive with init and the modules, made if it is not there yet.
pub fn cached(init: &Path, version: &str, modules: &[ModuleFile], folder: &Path) -> io::Result<Cached> {
    let mut identity = Identity::default();
    identity.word(FORMAT);
    identity.word(version);
    let files = modules.iter().map(|module| (module.name.as_str(), module.file.as_path()));
    for (name, file) in [("", init)].into_iter().chain(files) {
        identity.word(name);
        identity.file(file)?;
    }
    SHELF.get(folder, &identity.name(), |file| fill(file, init, modules))
}

/// The same for a person who has no place to keep it.
pub fn in_memory(init: &Path, modules: &[ModuleFile]) -> io::Result<File> {
    let file = File::from(memfd_create("agent-shim-machine", MemfdFlags::CLOEXEC)?);
    fill(&file, init, modules)?;
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

fn fill(file: &File, init: &Path, modules: &[ModuleFile]) -> io::Result<()> {
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
    archive.finish()?.into_inner().map_err(io::IntoInnerError::into_error).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

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
    fn the_second_archive_begins_where_the_first_ends() {
        let tail = tail(b"{}", &[7; 32]).unwrap();
        assert_eq!(tail.len() % 4, 0);
        assert!(tail.starts_with(b"070701"));
        // The permissions 0600 of a file.
        assert!(String::from_utf8_lossy(&tail).contains("00008180"));
    }
}
