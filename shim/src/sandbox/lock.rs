//! Who may change a sandbox, and who watches it.
//!
//! The kernel drops both locks when their holder ends, however it ends, so none is ever left over.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, fcntl};

const MONITOR_LOCK: &str = "monitor.lock";
const RETRY: Duration = Duration::from_millis(3);

/// Held by the one command that starts, stops or destroys a sandbox now: flock(2) on its folder.
#[derive(Debug)]
pub struct ChangeLock {
    folder: File,
}

/// Why a sandbox cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The folder is gone, or was replaced while we waited.
    #[error("the sandbox was removed meanwhile")]
    Gone,
    /// Another command holds it and did not let go in time.
    #[error("another command is changing it{}", .holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Busy {
        /// The process that holds it, where it could be found out.
        holder: Option<u32>,
    },
    /// The kernel refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ChangeLock {
    /// Waits at most `patience` for whoever holds it.
    pub fn take(folder: &Path, patience: Duration) -> Result<Self, LockError> {
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => LockError::Gone,
            _ => LockError::Io(error),
        };
        let file = File::open(folder).map_err(gone)?;
        let end = Instant::now() + patience;
        while let Err(error) = file.try_lock() {
            match error {
                std::fs::TryLockError::Error(error) => return Err(error.into()),
                std::fs::TryLockError::WouldBlock if Instant::now() >= end => {
                    return Err(LockError::Busy { holder: holder_of(&file) });
                }
                std::fs::TryLockError::WouldBlock => thread::sleep(RETRY),
            }
        }
        // Whoever held it may have removed the folder, and a new one may stand in its place.
        let (ours, there) = (file.metadata()?, folder.metadata().map_err(gone)?);
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            Ok(Self { folder: file })
        } else {
            Err(LockError::Gone)
        }
    }
}

impl ChangeLock {
    /// The same lock for another process: it is held until both have let go.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.folder.try_clone()?.into())
    }
}

/// Held by the monitor for its whole life: an open file description lock (fcntl(2)), because asking who
/// has one does not take it, so a question never gets in the way of a monitor that starts.
#[derive(Debug)]
pub(crate) struct MonitorLock {
    _file: File,
}

impl MonitorLock {
    /// Takes it; `None` where a monitor is there already.
    pub(crate) fn take(folder: &Path) -> io::Result<Option<Self>> {
        let file = open_monitor_lock(folder, true)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
            Ok(_) => Ok(Some(Self { _file: file })),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a monitor is there.
    pub(crate) fn is_held(folder: &Path) -> bool {
        let Ok(file) = open_monitor_lock(folder, false) else { return false };
        let mut lock = whole_file();
        match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
            Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
            Err(_) => false,
        }
    }
}

fn open_monitor_lock(folder: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(folder.join(MONITOR_LOCK))
}

#[allow(clippy::cast_possible_truncation)] // Three small constants of the C header.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Finds the holder in /proc/locks: `1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF`.
fn holder_of(file: &File) -> Option<u32> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, place, ..] if place.ends_with(&inode) => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    /// A process that another test starts just now holds a copy of a lock until it executes its program.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_second_change_waits_and_says_for_whom() {
        let folder = TempDir::new();
        let first = ChangeLock::take(folder.path(), Duration::ZERO).unwrap();
        match ChangeLock::take(folder.path(), Duration::ZERO) {
            Err(LockError::Busy { holder }) => assert!(holder.is_none_or(|pid| pid == std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        ChangeLock::take(folder.path(), PATIENCE).unwrap();
    }

    #[test]
    fn a_removedfolder_cannot_be_locked() {
        let folder = TempDir::new();
        let inner = folder.path().join("x");
        assert!(matches!(ChangeLock::take(&inner, Duration::ZERO), Err(LockError::Gone)));
    }

    #[test]
    fn asking_for_the_monitor_does_not_take_its_lock() {
        let folder = TempDir::new();
        assert!(!MonitorLock::is_held(folder.path()));
        let lock = MonitorLock::take(folder.path()).unwrap().unwrap();
        assert!(MonitorLock::is_held(folder.path()));
        assert!(MonitorLock::take(folder.path()).unwrap().is_none());
        drop(lock);
        let end = Instant::now() + PATIENCE;
        while MonitorLock::is_held(folder.path()) {
            assert!(Instant::now() < end, "it is still held");
        }
        assert!(MonitorLock::take(folder.path()).unwrap().is_some());
    }
}
