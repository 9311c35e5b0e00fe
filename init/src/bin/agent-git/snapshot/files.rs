//! Files and folders, each seen from the folder it is in. No link is followed, and reading leaves no mark.

use std::{
    ffi::OsStr,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode as Rights, OFlags, Stat, StatxFlags, openat, statat, statx},
    io::Errno,
};

use super::index::Mode;

/// Which file system something is on, and which of its mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mount {
    device: u64,
    mount: u64,
}

/// What a folder is, whatever it is called: its device and inode.
pub(super) type Inode = (u64, u64);

/// The names in a folder, and what they seem to be.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    list: Vec<(u32, u16, FileType)>,
}

impl Names {
    pub(super) fn add(&mut self, name: &[u8], kind: FileType) {
        // The kernel's names have at most 255 bytes.
        if let (Ok(at), Ok(length)) = (u32::try_from(self.bytes.len()), u16::try_from(name.len())) {
            self.bytes.extend_from_slice(name);
            self.list.push((at, length, kind));
        }
    }

    pub(super) fn sort(&mut self) {
        let Self { bytes, list } = self;
        list.sort_unstable_by_key(|(at, length, _)| {
            &bytes[*at as usize..*at as usize + usize::from(*length)]
        });
    }

    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], FileType)> {
        self.list.iter().map(|entry| (self.name(*entry), entry.2))
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.list.binary_search_by(|entry| self.name(*entry).cmp(name)).is_ok()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn name(&self, (at, length, _): (u32, u16, FileType)) -> &[u8] {
        &self.bytes[at as usize..at as usize + usize::from(length)]
    }
}

/// Opens a folder in a folder.
pub(super) fn open_folder(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open(folder, name, OFlags::DIRECTORY)
}

/// Opens a file in a folder. A pipe is not waited for.
pub(super) fn open_file(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open(folder, name, OFlags::NONBLOCK | OFlags::NOCTTY)
}

fn open(folder: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Only its owner may read a file without a mark.
    match openat(folder, name, flags | OFlags::NOATIME, Rights::empty()) {
        Err(Errno::PERM) => openat(folder, name, flags, Rights::empty()),
        opened => opened,
    }
}

/// What is known of a name; nothing where it is gone.
pub(super) fn look(folder: BorrowedFd<'_>, name: &[u8]) -> Option<Stat> {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

/// The mode of something that git can hold.
pub(super) fn mode(stat: &Stat) -> Option<Mode> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => Some(Mode::Executable),
        FileType::RegularFile => Some(Mode::Plain),
        FileType::Symlink => Some(Mode::Symlink),
        _ => None,
    }
}

/// Where a folder is.
pub(super) fn place_of(folder: BorrowedFd<'_>) -> Result<(Mount, Inode), Errno> {
    let found = statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    let known = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let mount = if known { found.stx_mnt_id } else { 0 };
    Ok((Mount { device, mount }, (device, found.stx_ino)))
}

/// Reads a file to its end; `None` if that is more than `most` bytes.
pub(super) fn read_whole(file: &OwnedFd, expected: u64, most: u64) -> Result<Option<Vec<u8>>, Errno> {
    let mut content = Vec::with_capacity(usize::try_from(expected.min(most)).unwrap_or(0) + 1);
    loop {
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut content)) {
            Ok(0) => return Ok(Some(content)),
            Ok(_) if content.len() as u64 > most => return Ok(None),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if content.len() == content.capacity() {
            content.reserve(content.len().max(4096));
        }
    }
}

/// Bytes as a path.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
