//! What a sandbox is, as its owner asked for it: `sandbox.json`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use agent_protocol::spec::{OnAgentExit, RestartPolicy};
use serde::{Deserialize, Serialize};

use super::{
    StateError,
    atomic::{self, Survives},
    name::Name,
};
use crate::isolation::Limits;

/// The newest version of the file that this code understands.
pub const RECORD_VERSION: u32 = 1;

pub(super) const RECORD_FILE: &str = "sandbox.json";

/// Longest file read. Environments are the only part that grows, and the kernel bounds those far below this.
const MAX_RECORD_BYTES: u64 = 4 * 1024 * 1024;

/// What a sandbox is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// See [`RECORD_VERSION`].
    pub version: u32,
    /// Its name; the folder is called the same.
    pub name: Name,
    /// The project, without symbolic links in its path.
    pub project: PathBuf,
    /// What runs it.
    pub isolation: Isolation,
    /// Where its tools come from.
    pub environment: Environment,
    /// How the project gets in.
    pub workspace: Workspace,
    /// Whether the host's network is reachable.
    pub network: bool,
    /// Further files and folders.
    pub mounts: Vec<MountRecord>,
    /// Files under /run/secrets: where they are, never what they hold.
    pub secrets: Vec<SecretRecord>,
    /// Variables for everything inside.
    pub env: BTreeMap<String, String>,
    /// The agent: program and arguments.
    pub command: Vec<String>,
    /// When the agent is started again.
    pub restart: RestartPolicy,
    /// What happens when it will not be.
    pub on_agent_exit: OnAgentExit,
    /// Remove the sandbox once it has ended.
    pub remove: bool,
    /// What it may use.
    pub limits: Limits,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// What runs a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces of the host's kernel, by bubblewrap
    #[default]
    Bwrap,
}

/// Where a sandbox's tools come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// The host's /usr, read-only
    #[default]
    Host,
}

/// How the project gets into a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workspace {
    /// The folder itself: changes are on the host at once
    #[default]
    Bind,
}

/// `--mount SRC:DST[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRecord {
    /// Path on the host, without symbolic links in it.
    pub source: PathBuf,
    /// Absolute path inside.
    pub at: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// `--secret NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRecord {
    /// Name of the file inside.
    pub name: String,
    /// The file on the host.
    pub file: PathBuf,
}

impl Record {
    /// A sandbox with defaults for everything but these.
    pub fn new(name: Name, project: PathBuf, now: SystemTime) -> Self {
        Self {
            version: RECORD_VERSION,
            name,
            project,
            isolation: Isolation::default(),
            environment: Environment::default(),
            workspace: Workspace::default(),
            network: true,
            mounts: Vec::new(),
            secrets: Vec::new(),
            env: BTreeMap::new(),
            command: Vec::new(),
            restart: RestartPolicy::default(),
            on_agent_exit: OnAgentExit::default(),
            remove: false,
            limits: Limits::default(),
            created_at: humantime::format_rfc3339_millis(now).to_string(),
        }
    }

    /// Reads the record in the folder of a sandbox.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(RECORD_FILE);
        let bytes = match read_bounded(&path, MAX_RECORD_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Unfinished { folder: folder.to_owned() });
            }
            Err(source) => {
                return Err(StateError::Io { doing: format!("reading {}", path.display()), source });
            }
        };
        let record = Self::parse(&bytes, &path)?;
        // A folder that was copied or renamed by hand would share another sandbox's identity.
        match folder.file_name() {
            Some(folder_name) if folder_name == record.name.as_str() => Ok(record),
            _ => Err(StateError::Damaged { path, problem: format!("it is the record of `{}`", record.name) }),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |problem: String| StateError::Damaged { path: path.to_owned(), problem };
        // The version first: a later one may mean anything by the rest.
        let Versioned { version } =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        match version {
            RECORD_VERSION => serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string())),
            0 => Err(damaged("it has version 0".to_owned())),
            found => Err(StateError::Newer { path: path.to_owned(), found, known: RECORD_VERSION }),
        }
    }

    /// Writes the record into the folder of a sandbox, to stay even through a power cut.
    pub fn write(&self, folder: &Path) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        json.and_then(|json| atomic::replace(folder, RECORD_FILE, &json, Survives::PowerCut)).map_err(
            |source| StateError::Io {
                doing: format!("writing {}", folder.join(RECORD_FILE).display()),
                source,
            },
        )
    }
}

/// Reads a file of ours. It may be damaged, so its size is not trusted.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    fn sample() -> Record {
        let mut record = Record::new("web".parse().unwrap(), "/src/web".into(), SystemTime::UNIX_EPOCH);
        record.command = vec!["bash".to_owned()];
        record.secrets = vec![SecretRecord { name: "key".to_owned(), file: "/keys/k".into() }];
        record
    }

    fn folder(temp: &TempDir) -> PathBuf {
        let folder = temp.path().join("web");
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_record_survives_a_round_trip() {
        let temp = TempDir::new();
        let folder = folder(&temp);
        sample().write(&folder).unwrap();
        assert_eq!(Record::read(&folder).unwrap(), sample());
        assert_eq!(sample().created_at, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_later_version_is_called_that() {
        let error = Record::parse(br#"{"version": 2, "hologram": 1}"#, Path::new("/x")).unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn damage_names_the_file() {
        let whole = serde_json::to_vec(&sample()).unwrap();
        for damaged in [&b""[..], b"{", b"\0\0\0\0", b"{}", br#"{"version": 0}"#, &whole[..whole.len() / 2]] {
            let error = Record::parse(damaged, Path::new("/data/sandbox.json")).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("/data/sandbox.json"), "{error}");
        }
    }

    #[test]
    fn a_folder_under_another_name_is_not_taken_for_the_sandbox() {
        let temp = TempDir::new();
        let copy = temp.path().join("copy");
        fs::create_dir(&copy).unwrap();
        sample().write(&copy).unwrap();
        assert!(matches!(Record::read(&copy), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn a_folder_without_a_record_is_unfinished() {
        let temp = TempDir::new();
        assert!(matches!(Record::read(&folder(&temp)), Err(StateError::Unfinished { .. })));
    }
}
