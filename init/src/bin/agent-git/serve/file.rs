//! Files of a repository that anybody inside may have put there: read without waiting, and never more than is sensible.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Opens an ordinary file for reading. Nothing waits: neither a pipe without a writer nor a device.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file"))
    }
}

/// All of a file; one that is larger than `most` is an error. `None` where there is none.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    if file.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// Whether nothing is there, not even a folder on the way to it.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_ordinary_files_is_read_and_nothing_waits() {
        let folder = crate::serve::testing::Folder::new();
        let path = |name| folder.path().join(name);
        assert_eq!(read(&path("none"), 9).unwrap(), None);
        assert_eq!(read(&path("none/deeper"), 9).unwrap(), None);
        std::fs::write(path("file"), "12345").unwrap();
        assert_eq!(read(&path("file"), 5).unwrap().unwrap(), b"12345");
        assert!(read(&path("file"), 4).is_err());
        assert_eq!(read(&path("file/deeper"), 9).unwrap(), None);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&path("pipe"), 9).is_err());
        assert!(read(folder.path(), 9).is_err());
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        assert!(read(&path("loop"), 9).is_err());
    }
}
