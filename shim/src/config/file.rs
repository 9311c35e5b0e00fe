//! Opening files that settings are read from. The person's own is trusted once it is theirs alone; a project's was
//! perhaps written by the agent itself, a moment ago.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat, openat2},
    io::Errno,
    process::{getegid, geteuid},
};

use super::error::ConfigError;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads the person's own file; `None` if there is none. It may be a link: many keep such files elsewhere.
pub(super) fn person(path: &Path) -> Result<Option<String>, ConfigError> {
    let cannot = |error: Errno| {
        ConfigError::failed(format!("cannot read the configuration {}", path.display())).because(error.into())
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        // A folder that is a file, or no folder at all, holds no configuration.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(cannot(error)),
    };
    let found = fstat(&file).map_err(cannot)?;
    let (owner, mode) = (found.st_uid, found.st_mode);
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(refused(path, "it is not a regular file"));
    }
    if owner != geteuid().as_raw() && owner != 0 {
        return Err(
            refused(path, &format!("it belongs to user {owner}")).hint("it must be your own, or root's")
        );
    }
    // Where everybody has a group to themselves, what they make is writable by it.
    let by_group = mode & 0o020 != 0 && found.st_gid != getegid().as_raw();
    if mode & 0o002 != 0 || by_group {
        let why = format!("others may write to it (mode {:04o})", mode & 0o7777);
        return Err(refused(path, &why).hint(format!("`chmod go-w {}`", path.display())));
    }
    read(file.into(), path).map(Some)
}

/// Reads the file of that name in a project's folder; `None` if there is none.
///
/// The agent may have put anything there, and may change it while it is read: it is opened once, not through a link, and
/// without waiting for anybody; what is checked, hashed and read afterwards is that one file.
pub(super) fn project(folder: &Path, name: &str) -> Result<Option<String>, ConfigError> {
    let path = folder.join(name);
    let cannot = |error: Errno| {
        ConfigError::failed(format!("cannot read the project's {}", path.display()))
            .because(error.into())
            .hint(PASS_OVER)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty()).map_err(cannot)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match openat(&folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(refused(&path, "it is a symbolic link").hint(PASS_OVER)),
        // What open(2) says of a socket.
        Err(Errno::NXIO | Errno::OPNOTSUPP) => {
            return Err(refused(&path, "it is not a regular file").hint(PASS_OVER));
        }
        Err(error) => return Err(cannot(error)),
    };
    let found = fstat(&file).map_err(cannot)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(refused(&path, "it is not a regular file").hint(PASS_OVER));
    }
    // Whoever owns the folder decides what is in the project anyway; anybody else has no say in what runs there.
    let folder_owner = fstat(&folder).map_err(cannot)?.st_uid;
    if ![geteuid().as_raw(), 0, folder_owner].contains(&found.st_uid) {
        let why = format!("it belongs to user {}, and the project does not", found.st_uid);
        return Err(refused(&path, &why).hint(PASS_OVER));
    }
    read(file.into(), &path).map(Some).map_err(|error| error.hint(PASS_OVER))
}

/// Opens a file that a project names and a person agreed to, by a path without links in it. The agent may be at work there.
pub(super) fn agreed(path: &Path) -> Result<File, ConfigError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let cannot =
        |error: Errno| ConfigError::failed(format!("cannot read {}", path.display())).because(error.into());
    let file = opened.map_err(cannot)?;
    match FileType::from_raw_mode(fstat(&file).map_err(cannot)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(refused(path, "it is not a regular file")),
    }
}

const PASS_OVER: &str = "`--no-project-config` passes over it";

fn refused(path: &Path, why: &str) -> ConfigError {
    ConfigError::failed(format!("{} is not used: {why}", path.display()))
}

fn read(file: File, path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    match file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > MAX_FILE_BYTES => {
            Err(refused(path, &format!("it is larger than {MAX_FILE_BYTES} bytes")))
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refused(path, "it is not UTF-8")),
        Err(error) => {
            Err(ConfigError::failed(format!("cannot read the configuration {}", path.display()))
                .because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use std::{
        fs,
        os::unix::{
            fs::{PermissionsExt, chown, symlink},
            net::UnixListener,
        },
    };

    const NAME: &str = "agent-shim.toml";

    fn why(folder: &TempDir) -> String {
        project(folder.path(), NAME).unwrap_err().message
    }

    #[test]
    fn what_is_not_there_says_nothing() {
        let folder = TempDir::new();
        assert_eq!(project(folder.path(), NAME).unwrap(), None);
        assert_eq!(person(&folder.path().join("none/config.toml")).unwrap(), None);
    }

    #[test]
    fn a_projects_file_is_a_plain_file_or_nothing() {
        let folder = TempDir::new();
        let path = folder.path().join(NAME);
        symlink("/etc/passwd", &path).unwrap();
        assert!(why(&folder).contains("symbolic link"));
        fs::remove_file(&path).unwrap();
        // Opening it would wait for a writer that never comes.
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(why(&folder).contains("not a regular file"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(why(&folder).contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(why(&folder).contains("not a regular file"));
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"a = \"\xff\"").unwrap();
        assert!(why(&folder).contains("not UTF-8"));
    }

    #[test]
    fn a_huge_file_costs_no_memory() {
        let folder = TempDir::new();
        let file = File::create(folder.path().join(NAME)).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(why(&folder).contains("larger than 1048576 bytes"));
        file.set_len(MAX_FILE_BYTES).unwrap();
        assert_eq!(project(folder.path(), NAME).unwrap().unwrap().len() as u64, MAX_FILE_BYTES);
    }

    #[test]
    fn what_was_agreed_to_is_opened_without_following_or_waiting() {
        let folder = TempDir::new();
        let path = folder.path().canonicalize().unwrap().join("words");
        fs::write(&path, "A=1").unwrap();
        assert!(agreed(&path).is_ok());
        fs::rename(&path, folder.path().join("other")).unwrap();
        symlink("other", &path).unwrap();
        assert!(agreed(&path).is_err());
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(agreed(&path).unwrap_err().message.contains("not a regular file"));
    }

    #[test]
    fn somebody_elses_file_is_not_used() {
        let folder = TempDir::new();
        let path = folder.path().join(NAME);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(person(&path).unwrap_err().message.contains("others may write"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(person(&path).unwrap().is_some());
        // Only root can make one for somebody else.
        if geteuid().is_root() {
            chown(&path, Some(64_123), None).unwrap();
            assert!(person(&path).unwrap_err().message.contains("belongs to user 64123"));
            assert!(why(&folder).contains("belongs to user 64123"));
            chown(folder.path(), Some(64_123), None).unwrap();
            assert!(project(folder.path(), NAME).is_ok());
        }
    }
}
