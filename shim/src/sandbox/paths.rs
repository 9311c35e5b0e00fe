//! Where everything of ours is on the host.

use std::{
    env,
    ffi::OsString,
    fs::{DirBuilder, ReadDir},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{StateError, name::Name};

/// Overrides the whole data directory; for tests, and for people who keep sandboxes on another disk.
pub const DATA_VARIABLE: &str = "AGENT_SHIM_DATA";

/// The folder that holds every sandbox: `$XDG_DATA_HOME/agent-shim`.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The data directory of this user, from the environment.
    pub fn from_environment() -> Result<Self, StateError> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// The one that holds a sandbox: its folder is `DATA/agents/NAME`.
    pub(crate) fn of(sandbox: &super::Sandbox) -> Option<Self> {
        Some(Self::at(sandbox.folder().parent()?.parent()?.to_owned()))
    }

    /// A data directory at this place.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The same, from these variables.
    pub(crate) fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, StateError> {
        // An empty or relative value means "not set", as the XDG base directory specification says.
        let folder = |name| get(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
        folder(DATA_VARIABLE)
            .or_else(|| folder("XDG_DATA_HOME").map(|path| path.join("agent-shim")))
            .or_else(|| folder("HOME").map(|path| path.join(".local/share/agent-shim")))
            .map(Self)
            .ok_or(StateError::NoDataDir)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// One folder per sandbox, by name.
    pub fn agents(&self) -> PathBuf {
        self.0.join("agents")
    }

    /// The folder of one sandbox, whether it exists or not.
    pub fn sandbox(&self, name: &Name) -> PathBuf {
        self.agents().join(name.as_str())
    }

    /// Makes the folders that every sandbox needs; nobody else may look inside.
    pub fn ensure(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.agents())
    }

    /// Refuses a folder that somebody else can change: what its files say is done with our rights. It can be theirs
    /// after `sudo` without a home of its own, or in a place that others prepared.
    pub fn check_owner(&self) -> Result<(), StateError> {
        check_folder(&self.agents())
    }

    /// The names of all sandboxes, sorted. Entries that cannot be a sandbox's name are not ours.
    pub fn names(&self) -> Result<Vec<Name>, StateError> {
        self.check_owner()?;
        let entries = match self.agents().read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(StateError::Io { doing: format!("reading {}", self.agents().display()), source });
            }
        };
        let mut names = sandbox_names(entries);
        names.sort();
        Ok(names)
    }
}

/// Refuses a folder that somebody else can change. One that is not there is nobody's.
pub(crate) fn check_folder(folder: &Path) -> Result<(), StateError> {
    // What cannot be looked at is an error of whoever wants something in it.
    let Ok(found) = folder.metadata() else { return Ok(()) };
    let (owner, mode) = (found.uid(), found.mode());
    let why = if owner != rustix::process::geteuid().as_raw() {
        format!("it belongs to user {owner}")
    } else if mode & 0o022 != 0 {
        format!("others may write to it (mode {:04o})", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(StateError::Foreign { folder: folder.to_owned(), why })
}

fn sandbox_names(entries: ReadDir) -> Vec<Name> {
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Sandbox, testing::TempDir};
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, chown},
    };

    fn chosen(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let get = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        DataDir::from_variables(get).ok().map(|data| data.path().to_owned())
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        let temp = TempDir::new();
        let data = DataDir::at(temp.path().join("data"));
        data.check_owner().unwrap();
        data.ensure().unwrap();
        data.check_owner().unwrap();
        fs::set_permissions(data.agents(), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(data.names(), Err(StateError::Foreign { .. })));
        fs::set_permissions(data.agents(), fs::Permissions::from_mode(0o700)).unwrap();
        // Only root can make one for somebody else.
        if rustix::process::geteuid().is_root() {
            chown(data.agents(), Some(64_123), None).unwrap();
            let error = data.names().unwrap_err().to_string();
            assert!(error.contains("belongs to user 64123"), "{error}");
            let name = "web".parse().unwrap();
            assert!(matches!(Sandbox::find(&data, &name), Err(StateError::Foreign { .. })));
        }
    }

    #[test]
    fn the_most_specific_variable_wins() {
        let all = [(DATA_VARIABLE, "/d"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(chosen(&all), Some("/d".into()));
        assert_eq!(chosen(&all[1..]), Some("/x/agent-shim".into()));
        assert_eq!(chosen(&all[2..]), Some("/h/.local/share/agent-shim".into()));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn empty_and_relative_values_count_as_unset() {
        assert_eq!(chosen(&[(DATA_VARIABLE, ""), ("XDG_DATA_HOME", "x"), ("HOME", "/h")]).unwrap(), {
            PathBuf::from("/h/.local/share/agent-shim")
        });
    }
}
