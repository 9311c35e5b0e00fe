//! Where the parts of a machine work: a root folder with programs, what the machine is shown, and nothing else of the host.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};

use super::job::{Job, OWN, Piece, SOCKETS, TREE};
use crate::isolation::launcher::{Failed, failed, os};
use crate::isolation::rootfs::{self, Bind, folder};
use crate::sys;

/// For folders and mount points only.
const ROOM_OPTIONS: &str = "mode=0755,size=1m";
/// For the system files that are copied into the tree, and the person's secrets.
const TREE_OPTIONS: &str = "mode=0755,size=64m";
/// For sockets.
const SOCKETS_OPTIONS: &str = "mode=0700,size=64k";
/// For nothing.
const EMPTY_OPTIONS: &str = "mode=0555,size=4k";

/// What a file system of ours may hold.
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Puts everything in place below `job.place`.
pub(super) fn furnish(job: &Job) -> Result<(), Failed> {
    let place = job.place.as_path();
    cover(place, ROOM_OPTIONS, "making a place for the machine")?;
    let tree = below(place, Path::new(TREE));
    let sockets = below(place, Path::new(SOCKETS));
    for at in [&tree, &sockets, &place.join("proc"), &place.join("dev"), &place.join("tmp")] {
        folder(at, 0o755).map_err(failed("making a place for the machine"))?;
    }
    cover(&tree, TREE_OPTIONS, "making the root folder")?;
    cover(&sockets, SOCKETS_OPTIONS, "making a place for sockets")?;
    for (at, target) in &job.links {
        let at = below(place, at);
        with_parents(&at)
            .and_then(|()| symlink(target, &at))
            .map_err(failed(format!("making {}", at.display())))?;
    }
    for bind in &job.room {
        let at = below(place, &bind.at);
        with_parents(&at).map_err(failed(format!("making {}", at.display())))?;
        rootfs::show(&Bind { source: bind.source.clone(), at, read_only: bind.read_only })?;
    }
    for device in &job.devices {
        let at = below(place, device);
        let shown = with_parents(&at)
            .and_then(|()| File::create_new(&at))
            .and_then(|_| Ok(mount(Some(device), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?));
        shown.map_err(failed(format!("mounting {}", device.display())))?;
    }
    let root = File::open(&tree).map_err(failed("opening the root folder"))?.into();
    for piece in &job.tree {
        put(piece, &tree, &root)?;
    }
    seal(&tree, "sealing the root folder")
}

/// Makes `place` the root folder of this process and of all that it starts. A table of processes has to be mounted in it
/// before: the kernel mounts a new one only where one is to be seen.
pub(super) fn enter(place: &Path) -> Result<(), Failed> {
    let old = place.join("old");
    folder(&old, 0o700).map_err(failed("entering the machine's place"))?;
    pivot_root(place, &old).map_err(os("entering the machine's place"))?;
    chdir("/").map_err(os("entering the machine's place"))?;
    umount2("/old", MntFlags::MNT_DETACH).map_err(os("leaving the host's files"))?;
    fs::remove_dir("/old").map_err(failed("leaving the host's files"))?;
    seal(Path::new("/"), "sealing the machine's place")
}

/// Leaves nothing to be written in the table of processes. In it is the memory of each part, and who serves the machine's files takes
/// any name from it: one that can be written would be the end of that part, and one that has the host's network is among them.
pub(super) fn only_show_processes() -> Result<(), Failed> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | PLAIN;
    mount(None::<&str>, "/proc", None::<&str>, flags, None::<&str>)
        .map_err(os("sealing the table of processes"))
}

/// Takes the folder that the machine is reached through out of the room, where there is one, and keeps hold of it. Whoever listens in
/// it does so without seeing it.
pub(super) fn leave_own() -> Result<Option<OwnedFd>, Failed> {
    let doing = "leaving the folder that the machine is reached through";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = match rustix::fs::open(OWN, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|error| failed(doing)(error.into()))?,
    };
    umount2(OWN, MntFlags::MNT_DETACH).map_err(os(doing))?;
    Ok(Some(own))
}

/// Mounts the table of the processes that the caller is among.
pub(super) fn mount_processes(place: &Path) -> nix::Result<()> {
    mount(Some("proc"), &place.join("proc"), Some("proc"), PLAIN | MsFlags::MS_NOEXEC, None::<&str>)
}

fn put(piece: &Piece, tree: &Path, root: &OwnedFd) -> Result<(), Failed> {
    match piece {
        Piece::Entry(entry) => rootfs::make(entry, tree),
        Piece::Bind { source, at, read_only } => {
            let shown = (|| {
                let is_folder = fs::symlink_metadata(source)?.is_dir();
                let place = mount_point(root, at, is_folder)?;
                let from = CString::new(source.as_os_str().as_bytes())?;
                sys::show_at(&from, &by_number(&place)?, *read_only)
            })();
            shown.map_err(failed(format!("mounting {} at {at}", source.display())))
        }
        Piece::Empty { at } => {
            let covered = (|| {
                let place = mount_point(root, at, true)?;
                let path = format!("/proc/self/fd/{}", place.as_raw_fd());
                let flags = PLAIN | MsFlags::MS_RDONLY;
                mount(Some("tmpfs"), path.as_str(), Some("tmpfs"), flags, Some(EMPTY_OPTIONS))?;
                Ok(())
            })();
            covered.map_err(failed(format!("covering {at}")))
        }
    }
}

/// The file or folder at a path inside, made if it is not there. A link never leads out, wherever an agent has put it.
fn mount_point(root: &OwnedFd, at: &str, is_folder: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let look = |path: &Path, flags: OFlags| {
        let path = if path == Path::new("") { Path::new(".") } else { path };
        openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    };
    let path = Path::new(at.trim_start_matches('/'));
    match look(path, flags) {
        Err(rustix::io::Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut parent = look(Path::new(""), OFlags::PATH | OFlags::CLOEXEC)?;
    let mut walked = std::path::PathBuf::new();
    for part in path.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(part) = part else { continue };
        walked.push(part);
        parent = match look(&walked, OFlags::PATH | OFlags::CLOEXEC) {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&parent, part, Mode::from_raw_mode(0o755))?;
                look(&walked, OFlags::PATH | OFlags::CLOEXEC)?
            }
            found => found?,
        };
    }
    if is_folder {
        mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, new, Mode::from_raw_mode(0o444))?;
    }
    Ok(look(path, flags)?)
}

fn by_number(place: &OwnedFd) -> io::Result<CString> {
    Ok(CString::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?)
}

fn cover(at: &Path, options: &str, doing: &'static str) -> Result<(), Failed> {
    mount(Some("tmpfs"), at, Some("tmpfs"), PLAIN, Some(options)).map_err(os(doing))
}

fn seal(at: &Path, doing: &'static str) -> Result<(), Failed> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | PLAIN;
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(os(doing))
}

/// A path of the room, seen from outside.
fn below(place: &Path, at: &Path) -> std::path::PathBuf {
    place.join(at.strip_prefix("/").unwrap_or(at))
}

fn with_parents(at: &Path) -> io::Result<()> {
    at.parent().map_or(Ok(()), fs::create_dir_all)
}
