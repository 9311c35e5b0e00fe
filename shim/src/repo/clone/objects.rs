//! The objects of a clone: copies of those that it reaches, or all of them without a copy.

use std::{
    collections::BTreeSet,
    fs::{self, DirEntry, File, OpenOptions},
    io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
    process::Stdio,
};

use rustix::fs::ioctl_ficlone;

use super::{Making, error::CloneError, layout::Layout, watch::Watch};
use crate::{
    repo::{
        host_git::{GitError, quoted},
        object_id::ObjectId,
    },
    sandbox::record::CloneObjects,
};

/// Names of files beside a pack that a clone has a use for.
const PACK_FILES: [&str; 3] = ["pack", "idx", "rev"];

/// Memory that git frees is kept for what it needs next: each loose object takes a buffer, and giving those back to the
/// kernel took half of the time (mallopt(3)).
const MALLOC: [(&str, &str); 2] = [("MALLOC_TOP_PAD_", "1048576"), ("MALLOC_TRIM_THRESHOLD_", "67108864")];

/// Puts the objects that `tips` reach into the clone, in the way that was asked for or is the best.
pub(super) fn fill<'a, T: Iterator<Item = &'a ObjectId>>(
    making: &Making<'_>,
    layout: &Layout,
    cut: &BTreeSet<ObjectId>,
    tips: impl Fn() -> T,
    watch: &mut Watch<'_>,
) -> Result<CloneObjects, CloneError> {
    let wish = making.wish;
    match wish.objects {
        Some(CloneObjects::Share) => return Ok(CloneObjects::Share),
        Some(CloneObjects::Reflink) => {
            reflink(making, layout, watch)?;
            return Ok(CloneObjects::Reflink);
        }
        // Whoever takes every branch takes nearly everything, and so all of it where that costs nothing.
        // Objects that lie elsewhere are another repository's as well.
        None if wish.all_branches && wish.depth.is_none() && making.origin.places()?.len() == 1 => {
            match reflink(making, layout, watch) {
                Ok(()) => return Ok(CloneObjects::Reflink),
                Err(CloneError::NoReflink(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Some(CloneObjects::Copy) | None => {}
    }
    pack(making, layout, cut, tips(), watch)?;
    Ok(CloneObjects::Copy)
}

/// Packs what `tips` reach, and nothing else, straight into the clone.
///
/// Git writes pack and index at once: these are the person's own objects, and need no check on their way. What is a delta in
/// a pack already is taken as it is.
fn pack<'a>(
    making: &Making<'_>,
    layout: &Layout,
    cut: &BTreeSet<ObjectId>,
    tips: impl Iterator<Item = &'a ObjectId>,
    watch: &mut Watch<'_>,
) -> Result<(), CloneError> {
    let tips: String = tips.map(|id| format!("{id}\n")).collect();
    if tips.is_empty() {
        return Ok(());
    }
    let lines: String = cut.iter().map(|id| format!("--shallow {id}\n")).collect::<String>() + &tips;
    let mut command = making.git.on(&making.origin.git_dir);
    // Git begins a pack among its own objects before it moves it: those are the clone's.
    command.env("GIT_OBJECT_DIRECTORY", layout.objects());
    command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&making.origin.objects()));
    // A graft is no part of the history, and is not cloned.
    command.env("GIT_GRAFT_FILE", "/dev/null").args(["-c", "advice.graftFileDeprecated=false"]);
    command.envs(MALLOC);
    // What the person's objects say of threads, sizes and bitmaps is for packs that stay there.
    command.args(["-c", "pack.threads=0", "-c", "pack.packSizeLimit=0", "-c", "core.fsync=none"]);
    command.args(["pack-objects", "--revs", "--delta-base-offset", "--progress"]);
    command.arg(layout.packs().join("pack")).stdin(Stdio::piped());
    let mut running = making.git.start(command, "pack-objects", watch.until())?;
    running.write(lines.as_bytes())?;
    watch.wait(&mut running).map_err(|error| match error {
        CloneError::Git(error @ GitError::Refused { .. }) if making.origin.is_partial() => {
            CloneError::Partial(error)
        }
        other => other,
    })
}

/// Makes copies of every file of objects that share what they hold with the person's. Written to, they part.
fn reflink(making: &Making<'_>, layout: &Layout, watch: &mut Watch<'_>) -> Result<(), CloneError> {
    let mut count = 0;
    for place in making.origin.places()? {
        for entry in entries(&place)? {
            let name = entry.file_name();
            let folder = layout.objects().join(&name);
            let is_pack = name == "pack";
            if !is_pack && !is_hexadecimal(name.as_bytes(), 2) {
                continue;
            }
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(CloneError::io("making a folder for objects")(error));
                }
                _ => {}
            }
            for file in entries(&entry.path())? {
                let (name, path) = (file.file_name(), file.path());
                let is_of_pack =
                    path.extension().is_some_and(|kind| PACK_FILES.iter().any(|known| kind == *known))
                        && name.as_bytes().starts_with(b"pack-");
                let is_loose = is_hexadecimal(name.as_bytes(), making.origin.format.null().len() - 2);
                if if is_pack { is_of_pack } else { is_loose } {
                    share(&path, &folder.join(&name))?;
                    count += 1;
                    watch.look(&format!("{count} files of objects"))?;
                }
            }
        }
    }
    Ok(())
}

fn share(from: &Path, to: &Path) -> Result<(), CloneError> {
    // One that is there is the same: its name says what is in it.
    if to.exists() {
        return Ok(());
    }
    let source = File::open(from).map_err(CloneError::io("opening objects"))?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o444).open(to);
    let made = made.map_err(CloneError::io("making a file of objects"))?;
    ioctl_ficlone(&made, &source).map_err(|error| {
        // Nothing that is empty takes the place of an object.
        let _ = fs::remove_file(to);
        CloneError::NoReflink(error.into())
    })
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, CloneError> {
    let listed = fs::read_dir(folder).and_then(Iterator::collect);
    match listed {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        listed => listed.map_err(CloneError::io("listing objects")),
    }
}

fn is_hexadecimal(name: &[u8], length: usize) -> bool {
    name.len() == length && name.iter().all(u8::is_ascii_hexdigit)
}
