//! One snapshot of a worktree at a time, and what time it is there.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, fstat, futimens},
    io::Errno,
};

use super::{
    index::Moment,
    report::{Failure, Why},
};

/// For another snapshot of the same worktree to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at that.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// What our folder is called, beside the worktree's index.
const FOLDER: &str = "agent-shim";

/// Our folder in a git folder, held. The kernel gives it back whatever ends us.
pub(super) struct Place {
    folder: PathBuf,
    _lock: File,
    /// A moment of the file system's clock, from after the lock was had.
    pub began: Moment,
}

impl Place {
    /// Waits for it.
    pub(super) fn lock(git_dir: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            Failure::new(
                if full { Why::DiskFull } else { Why::Failed },
                format!("making a folder of ours: {error}"),
            )
        };
        let folder = git_dir.join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(false).mode(0o600);
        // A pipe in its place would be waited for.
        open.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let lock = open.open(folder.join("lock")).map_err(failed)?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(LOCK_LOOK),
                Err(Errno::WOULDBLOCK) => {
                    return Err(Failure::new(Why::Busy, "another snapshot of it does not come to its end"));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        futimens(&lock, &Timestamps { last_access: now, last_modification: now })
            .and_then(|()| fstat(&lock))
            .map_err(|error| failed(error.into()))
            .map(|found| {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // As the kernel has it.
                let began = Moment { seconds: found.st_ctime, nanoseconds: found.st_ctime_nsec as u32 };
                Self { folder, _lock: lock, began }
            })
    }

    /// What the last one saw.
    pub(super) fn index(&self) -> PathBuf {
        self.folder.join("index")
    }

    /// What becomes a file or a ref when it is whole.
    pub(super) fn scratch(&self) -> PathBuf {
        self.folder.join("new")
    }
}
