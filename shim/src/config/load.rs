//! Finding and reading the layers.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    consent::{self, Request},
    document::{Document, Source},
    error::ConfigError,
    file, read,
    settings::Settings,
    variables,
};

/// What a project's file is called; it is in the project's own folder and nowhere else.
pub const PROJECT_FILE: &str = "agent-shim.toml";

/// Where layers are looked for.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The person's own file.
    pub user_file: Option<PathBuf>,
    /// The person's home.
    pub home: Option<PathBuf>,
    /// Variables that are set.
    pub variables: Vec<(OsString, OsString)>,
    /// Where the person is.
    pub current: PathBuf,
}

/// What each layer says, the command line excepted.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The person's file.
    pub user: Settings,
    /// The project's.
    pub project: Option<ProjectFile>,
    /// `AGENT_SHIM_*`.
    pub variables: Settings,
}

/// A project's file as it was read.
#[derive(Clone, Debug)]
pub struct ProjectFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub sha256: String,
    /// What it says.
    pub settings: Settings,
}

impl Sources {
    /// Those of this process.
    pub fn from_environment(current: PathBuf) -> Self {
        let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            user_file: user_file(folder),
            home: folder("HOME"),
            variables: env::vars_os().collect(),
            current,
        }
    }

    /// Reads every layer, the project's if one is named.
    pub fn load(&self, project: Option<&Path>) -> Result<Layers, ConfigError> {
        Ok(Layers {
            user: self.user()?,
            project: project.map(|project| self.project(project)).transpose()?.flatten(),
            variables: variables::settings(self.variables.clone(), &self.current, self.home.as_deref())?,
        })
    }

    fn user(&self) -> Result<Settings, ConfigError> {
        let Some(path) = &self.user_file else { return Ok(Settings::default()) };
        let Some(text) = file::person(path)? else { return Ok(Settings::default()) };
        self.read(&text, path, Source::User(path.as_path().into()))
    }

    /// The person's file, if that folder or one below it holds it, links followed.
    pub fn user_file_below(&self, folder: &Path) -> Option<PathBuf> {
        self.user_file.as_ref()?.canonicalize().ok().filter(|file| file.starts_with(folder))
    }

    /// Reads a project's file.
    pub fn project(&self, folder: &Path) -> Result<Option<ProjectFile>, ConfigError> {
        let Some(text) = file::project(folder, PROJECT_FILE)? else { return Ok(None) };
        let path = folder.join(PROJECT_FILE);
        let settings = self.read(&text, &path, Source::Project(path.as_path().into()))?;
        Ok(Some(ProjectFile { sha256: hex(&Sha256::digest(&text)), settings, path }))
    }

    fn read(&self, text: &str, path: &Path, source: Source) -> Result<Settings, ConfigError> {
        let base = path.parent().unwrap_or(Path::new("/"));
        read::file(&Document { source, text, base, home: self.home.as_deref() })
    }
}

impl Layers {
    /// What a project's file needs a person's consent for, if anything.
    pub fn request(&self) -> Result<Option<Request>, ConfigError> {
        let Some(project) = &self.project else { return Ok(None) };
        let below = self.user.clone().over(Settings::defaults());
        consent::request(project, &below)
    }

    /// The project's settings with the paths that a person agreed to, in place of those that lead there.
    pub fn pin(&mut self, paths: &BTreeMap<PathBuf, PathBuf>) {
        if let Some(project) = &mut self.project {
            consent::pin(&mut project.settings, paths);
        }
    }

    /// All layers as one, with that of the command line.
    pub fn with(self, flags: Settings) -> Settings {
        let project = self.project.map(|project| project.settings).unwrap_or_default();
        Settings::layered([Settings::defaults(), self.user, project, self.variables, flags])
    }
}

/// `$XDG_CONFIG_HOME/agent-shim/config.toml`.
fn user_file(folder: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // A relative value means "not set", as the XDG base directory specification says.
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(config.join("agent-shim/config.toml"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_persons_file_is_where_such_files_are() {
        let file = |variables: &[(&str, &str)]| {
            user_file(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(file(&[("HOME", "/h")]).unwrap(), Path::new("/h/.config/agent-shim/config.toml"));
        let both = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")];
        assert_eq!(file(&both).unwrap(), Path::new("/x/agent-shim/config.toml"));
        assert_eq!(file(&[]), None);
    }
}
