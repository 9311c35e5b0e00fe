//! The root folder of a sandbox, put together by a launcher from what its job names.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::launcher::{self, Failed, failed};
use crate::sys;

/// A file or folder of the host.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bind {
    /// Where it is when the launcher starts.
    pub(super) source: PathBuf,
    /// Where it is to appear.
    pub(super) at: PathBuf,
    /// Whether writing is refused, for all that is mounted in it too.
    pub(super) read_only: bool,
}

/// One entry of the root folder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// A folder.
    Dir {
        /// Path inside.
        at: String,
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Path inside.
        at: String,
        /// What it points to.
        target: String,
    },
    /// A file.
    File {
        /// Path inside.
        at: String,
        /// Its permissions.
        mode: u32,
        /// The number under which its content is read.
        fd: i32,
    },
}

/// Makes an entry of the root folder. Nobody else may be there yet who could put a link in its way.
pub(super) fn make(entry: &Entry, root: &Path) -> Result<(), Failed> {
    let inside = |at: &str| root.join(at.trim_start_matches('/'));
    let (at, made) = match entry {
        Entry::Dir { at, mode } => (at, folder(&inside(at), *mode)),
        Entry::Symlink { at, target } => (at, symlink(target, inside(at))),
        Entry::File { at, mode, fd } => (at, copy(*fd, &inside(at), *mode)),
    };
    made.map_err(failed(format!("making {at} in the root folder")))
}

/// Makes a folder.
pub(super) fn folder(at: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(at)
}

/// Makes a file or folder of the host appear at a path where nothing is, with its rules.
pub(super) fn show(bind: &Bind) -> Result<(), Failed> {
    let shown = (|| {
        if fs::symlink_metadata(&bind.source)?.is_dir() {
            fs::create_dir(&bind.at)?;
        } else {
            File::create_new(&bind.at)?;
        }
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        sys::show_at(&text(&bind.source)?, &text(&bind.at)?, bind.read_only)
    })();
    shown.map_err(failed(format!("mounting {}", bind.source.display())))
}

fn copy(from: i32, to: &Path, mode: u32) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut launcher::file(from)?, &mut to).map(drop)
}
