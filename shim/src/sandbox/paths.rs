//! Where everything of ours is on the host.

use std::{
    env,
    ffi::OsString,
    fs::{DirBuilder, ReadDir},
    io,
    os::unix::fs::DirBuilderExt,
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

    /// A data directory at this place.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, StateError> {
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

    /// The names of all sandboxes, sorted. Entries that cannot be a sandbox's name are not ours.
    pub fn names(&self) -> Result<Vec<Name>, StateError> {
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

fn sandbox_names(entries: ReadDir) -> Vec<Name> {
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let get = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        DataDir::from_variables(get).ok().map(|data| data.path().to_owned())
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
