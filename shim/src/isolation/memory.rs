//! Files in memory: how init's spec and small files get inside without a name anybody could open.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{
    CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, fcntl_add_seals, memfd_create, openat2,
};

/// Largest file that is copied in; a secret or a table of /etc has a few kilobytes.
pub const COPY_MAX_BYTES: u64 = 1024 * 1024;

/// A file that holds `bytes`, read from its start, which nobody can change any more, through any descriptor.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = new()?;
    file.write_all(bytes)?;
    seal(file, SealFlags::SHRINK)
}

/// The same, but that it can be emptied by whoever has a descriptor of it: for what somebody reads once and keeps open.
pub fn read_only(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = new()?;
    file.write_all(bytes)?;
    seal(file, SealFlags::empty())
}

/// The same as a copy of a large file, of which not more than `most` bytes are taken. The kernel copies it.
pub fn read_only_copy(mut file: File, most: u64) -> io::Result<OwnedFd> {
    let mut copy = new()?;
    file.rewind()?;
    io::copy(&mut file.take(most), &mut copy)?;
    seal(copy, SealFlags::empty())
}

fn new() -> io::Result<File> {
    Ok(memfd_create("agent-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

fn seal(mut file: File, further: SealFlags) -> io::Result<OwnedFd> {
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SEAL | further)?;
    Ok(file.into())
}

/// A sealed copy of a file of the host; one above [`COPY_MAX_BYTES`] is refused.
pub fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    // Not waiting for a writer, should it be a pipe by now.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    copy_of(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

/// The same for a path that was resolved when it was given: a symbolic link in it now is not the caller's.
pub fn sealed_copy_without_links(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    copy_of(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?.into())
}

fn copy_of(file: File) -> io::Result<OwnedFd> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    file.take(COPY_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > COPY_MAX_BYTES {
        let why = format!("larger than {COPY_MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    sealed(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_from_its_start_and_stays() {
        let mut file = File::from(sealed(b"spec").unwrap());
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!(read, "spec");
        assert!(file.write_all(b"y").is_err() && file.set_len(0).is_err());
    }

    #[test]
    fn what_is_read_only_can_be_emptied_and_not_written() {
        let mut file = File::from(read_only(b"kernel").unwrap());
        assert!(file.write_all(b"y").is_err() && file.set_len(100).is_err());
        file.set_len(0).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "");

        let mut large = tempfile::tempfile().unwrap();
        large.write_all(b"kernel").unwrap();
        let mut copy = File::from(read_only_copy(large, 4).unwrap());
        assert!(copy.write_all(b"y").is_err());
        assert_eq!(io::read_to_string(copy).unwrap(), "kern");
    }

    #[test]
    fn what_is_copied_is_a_file_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().set_len(COPY_MAX_BYTES).unwrap();
        assert!(sealed_copy(&path).is_ok());
        File::create(&path).unwrap().set_len(COPY_MAX_BYTES + 1).unwrap();
        assert_eq!(sealed_copy(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(sealed_copy(folder.path()).is_err());
    }
}
