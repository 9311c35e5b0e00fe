//! Programs of the host: where they are, and what they answer.

mod ask;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

pub(crate) use ask::{Answer, Question};

/// The first program of this name in a list of folders like `PATH`. What lies in the current folder may be an agent's, so
/// that a folder without a whole path is passed over, and an empty one.
pub(crate) fn find(name: &str, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// Whether it is a file that we may execute.
pub(crate) fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_current_folder_is_not_found() {
        let shell = find("sh", OsStr::new("/no/such/folder:/bin")).expect("there is a shell");
        let here = std::env::current_dir().expect("a current folder");
        let up = "../".repeat(here.components().count());
        let relative = Path::new(&up).join(shell.strip_prefix("/").expect("a whole path"));
        assert!(is_program(&relative));
        let folder = relative.parent().expect("a folder");
        assert_eq!(find("sh", folder.as_os_str()), None);
        assert_eq!(find("sh", OsStr::new(":.")), None);
    }
}
