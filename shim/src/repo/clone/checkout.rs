//! The files of a clone, and what of them is missing.

use std::{
    ffi::OsStr,
    fs, io,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
};

use super::{
    MAX_LIST_BYTES, Making,
    error::CloneError,
    index::{IndexFile, SUBMODULE},
    layout::Layout,
    watch::Watch,
};
use crate::{isolation::plan::USER_ID, repo::host_git::quoted};

/// Most files that are called by name.
const MOST_NAMED: usize = 3;

/// What is read of a file of attributes.
const MAX_ATTRIBUTES_BYTES: u64 = 1024 * 1024;

/// How a file of attributes names the files that Git LFS keeps elsewhere.
const LFS: &[u8] = b"filter=lfs";

/// What a clone lacks although it has a place for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Submodules: their folders are empty.
    pub submodules: Several,
    /// Files that Git LFS keeps elsewhere: pointers are in their place.
    pub large_files: Several,
}

/// So many, and what some of them are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Several {
    /// How many.
    pub count: usize,
    /// The first few.
    pub names: Vec<String>,
}

impl Several {
    pub(super) fn of<'a>(all: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut several = Self::default();
        for path in all {
            several.count += 1;
            if several.names.len() < MOST_NAMED {
                several.names.push(String::from_utf8_lossy(path).into_owned());
            }
        }
        several
    }
}

/// Checks out HEAD. Git has no configuration but the clone's own, so that no filter or driver has a program to run.
pub(super) fn check_out(
    making: &Making<'_>,
    layout: &Layout,
    watch: &mut Watch<'_>,
) -> Result<LeftOut, CloneError> {
    let git = |args: &[&str]| {
        let mut command = making.git.on(&layout.git_dir);
        command.env("GIT_WORK_TREE", making.work).current_dir(making.work).args(args);
        if !making.wish.shared.is_empty() {
            let shared: Vec<_> = making.wish.shared.iter().map(|folder| quoted(folder)).collect();
            command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", shared.join(OsStr::new(":")));
        }
        command
    };
    let command =
        git(&["-c", "index.version=2", "-c", "checkout.workers=0", "read-tree", "-v", "-m", "-u", "HEAD"]);
    let mut running = making.git.start(command, "read-tree", watch.until())?;
    watch.wait(&mut running)?;
    let bytes = fs::read(layout.index()).map_err(CloneError::io("reading the clone's index"))?;
    let index = IndexFile::parse(bytes, making.origin.format).ok_or(CloneError::Answer)?;
    let submodules =
        Several::of(index.entries().filter(|(mode, _)| *mode == SUBMODULE).map(|(_, path)| path));
    let mut large_files = Several::default();
    if index.entries().any(|(_, path)| names_large_files(making.work, path)) {
        let command = git(&["ls-files", "-z", ":(attr:filter=lfs)"]);
        let listed = making.git.start(command, "ls-files", watch.until())?.output(MAX_LIST_BYTES)?;
        large_files = Several::of(listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()));
    }
    fs::write(layout.index(), index.owned_by(USER_ID))
        .map_err(CloneError::io("writing the clone's index"))?;
    Ok(LeftOut { submodules, large_files })
}

/// Whether this is a file of attributes that has to do with Git LFS.
fn names_large_files(work: &Path, path: &[u8]) -> bool {
    if path.rsplit(|byte| *byte == b'/').next() != Some(b".gitattributes") {
        return false;
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(work.join(OsStr::from_bytes(path)));
    let mut text = Vec::new();
    file.and_then(|file| file.take(MAX_ATTRIBUTES_BYTES).read_to_end(&mut text)).is_ok()
        && text.windows(LFS.len()).any(|part| part == LFS)
}

/// Makes the project's folder, where git has no file in it. A link on the way is left to whoever is inside.
pub(super) fn make_folder(work: &Path, below: Option<&str>) -> io::Result<()> {
    let mut place = work.to_owned();
    for part in Path::new(below.unwrap_or_default()).components() {
        place.push(part);
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&place)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
