//! Programs of the host: where they are, and what they answer.

mod ask;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

pub(crate) use ask::{Answer, Question};

/// The first program of this name in a list of folders like `PATH`.
pub(crate) fn find(name: &str, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search).map(|folder| folder.join(name)).find(|path| is_program(path))
}

/// Whether it is a file that we may execute.
pub(crate) fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}
