//! Reading files that a monitor writes, and waiting for more.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use crate::sandbox::Sandbox;

/// How often a quiet sandbox is looked at, in case it ended without a word: its monitor may be dead.
const LOOK: Duration = Duration::from_secs(1);

/// A file that grows and is now and then replaced by a new one.
#[derive(Debug)]
pub(super) struct Growing {
    path: PathBuf,
    file: Option<File>,
}

impl Growing {
    /// Opens the file, which need not be there yet, `tail` bytes before its end or at its beginning.
    pub(super) fn open(path: PathBuf, tail: Option<u64>) -> io::Result<Self> {
        let mut growing = Self { path, file: None };
        growing.file = growing.open_file()?;
        if let (Some(file), Some(tail)) = (&mut growing.file, tail) {
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(tail)))?;
        }
        Ok(growing)
    }

    /// What has come since the last call, a piece at a time; empty where nothing has.
    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        const PIECE: u64 = 64 * 1024;
        into.clear();
        if let Some(file) = &mut self.file {
            file.take(PIECE).read_to_end(into)?;
        }
        if into.is_empty() && self.was_replaced()? {
            self.file = self.open_file()?;
            if let Some(file) = &mut self.file {
                file.take(PIECE).read_to_end(into)?;
            }
        }
        Ok(())
    }

    fn was_replaced(&self) -> io::Result<bool> {
        let there = match self.path.metadata() {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match &self.file {
            Some(file) => Ok(file.metadata()?.ino() != there.ino()),
            None => Ok(true),
        }
    }

    fn open_file(&self) -> io::Result<Option<File>> {
        match File::open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Wakes when something changes in a folder.
pub(super) struct Wake(Inotify);

impl Wake {
    pub(super) fn on(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, what)?;
        Ok(Self(inotify))
    }

    /// Waits for a change. Returns false where none will come: the sandbox is over, and its monitor has nothing left to do, such
    /// as bringing its work home.
    pub(super) fn wait(&self, sandbox: &Sandbox) -> bool {
        // Before the wait: whoever ended since may have written a last word, which is read in one more round.
        let watched = sandbox.is_monitored();
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
        let changed = matches!(poll(&mut fds, timeout), Ok(ready) if ready > 0);
        if changed {
            // What changed is found out by reading; an error shows as no change next time.
            drop(self.0.read_events());
            return true;
        }
        if sandbox.is_alive() {
            sandbox.ensure_monitored();
            return true;
        }
        watched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use std::{fs, io::Write};

    fn read(growing: &mut Growing) -> String {
        let mut bytes = Vec::new();
        growing.read(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_file_is_followed_through_its_replacement() {
        let temp = TempDir::new();
        let path = temp.path().join("log");
        let mut growing = Growing::open(path.clone(), None).unwrap();
        assert_eq!(read(&mut growing), "");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(read(&mut growing), "one");
        file.write_all(b"two").unwrap();
        fs::rename(&path, temp.path().join("log.1")).unwrap();
        fs::write(&path, "three").unwrap();
        assert_eq!(read(&mut growing), "two");
        assert_eq!(read(&mut growing), "three");
        assert_eq!(read(&mut growing), "");
    }

    #[test]
    fn a_tail_begins_before_the_end() {
        let temp = TempDir::new();
        let path = temp.path().join("log");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&mut Growing::open(path.clone(), Some(3)).unwrap()), "789");
        assert_eq!(read(&mut Growing::open(path, Some(30)).unwrap()), "0123456789");
    }
}
