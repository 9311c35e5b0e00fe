//! Removing a tree that an agent filled: folders without permissions, a million levels deep, links everywhere.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, openat, renameat, statat, unlinkat},
    io::Errno,
};

/// Removes `path` and everything below it; fine if it is not there, or somebody else removes it meanwhile. No link
/// is followed.
///
/// Folders that lie deeper are first moved to the top, so that neither the stack nor the descriptors grow with
/// the depth.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    // A command that looks at the sandbox just now may leave a lock file behind the removal's back.
    for _ in 0..REMOVAL_TRIES {
        match remove_tree_once(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            result => return result,
        }
    }
    remove_tree_once(path)
}

/// Tries again where a folder was filled while it was removed.
const REMOVAL_TRIES: usize = 100;

fn remove_tree_once(path: &Path) -> io::Result<()> {
    let removed = fs::symlink_metadata(path).and_then(|found| {
        if !found.is_dir() {
            return fs::remove_file(path);
        }
        empty_tree(path)?;
        fs::remove_dir(path)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes everything below the folder `path`.
pub(crate) fn empty_tree(path: &Path) -> io::Result<()> {
    let top = open_folder(CWD, &CString::new(path.as_os_str().as_encoded_bytes())?)?;
    let mut moved = 0;
    loop {
        let folders = remove_files(top.as_fd())?;
        if folders.is_empty() {
            return Ok(());
        }
        for name in folders {
            flatten(top.as_fd(), &name, &mut moved)?;
        }
    }
}

/// Removes one folder of `top`, whose own folders move up into `top`.
fn flatten(top: BorrowedFd<'_>, name: &CStr, moved: &mut u64) -> io::Result<()> {
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    let folder = open_folder(top, name)?;
    for inner in remove_files(folder.as_fd())? {
        // Moving a folder writes its `..`, which its own permissions can forbid.
        drop(open_folder(&folder, &inner)?);
        loop {
            let new = CString::new(format!(".removing-{moved}"))?;
            *moved += 1;
            if statat(top, &new, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                renameat(&folder, &inner, top, &new)?;
                break;
            }
        }
    }
    drop(folder);
    Ok(unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

/// Removes what is not a folder, and returns the folders.
fn remove_files(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            folders.push(name.to_owned());
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Some file systems do not tell the type.
            Err(Errno::ISDIR) => folders.push(name.to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(folders)
}

/// Opens a folder so that its entries can be removed, whatever its permissions are.
fn open_folder(at: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match openat(at.as_fd(), name, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // The mode can be changed through a handle that needs no permission, by way of /proc: fchmodat would
            // follow a link that takes the folder's place meanwhile.
            let handle = openat(at.as_fd(), name, flags | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            openat(at.as_fd(), name, flags | OFlags::RDONLY, Mode::empty())?
        }
        other => other?,
    };
    fchmod(&folder, Mode::RWXU)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use rustix::fs::mkdirat;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_removed_and_what_its_links_name_stays() {
        let temp = TempDir::new();
        let outside = temp.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        let tree = temp.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("/nowhere", tree.join("a/b/c/dangling")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
    }

    #[test]
    fn folders_without_permissions_are_removed() {
        let temp = TempDir::new();
        let tree = temp.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        for folder in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(tree.join(folder), fs::Permissions::from_mode(0o0)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn depth_does_not_matter() {
        let temp = TempDir::new();
        let tree = temp.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut folder =
            open_folder(CWD, &CString::new(tree.as_os_str().as_encoded_bytes()).unwrap()).unwrap();
        for _ in 0..3000 {
            mkdirat(&folder, c"d", Mode::RWXU).unwrap();
            folder = openat(&folder, c"d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(folder);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
