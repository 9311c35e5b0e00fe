//! The record as a file. It may be of another version, damaged, or in the wrong place, and says which.

use std::{io, path::Path};

use serde::Deserialize;

use super::Record;
use crate::sandbox::{
    StateError,
    atomic::{self, Survives},
    bounded::read_bounded,
};

/// The newest version of the file that this code understands.
pub const RECORD_VERSION: u32 = 1;

pub(in crate::sandbox) const RECORD_FILE: &str = "sandbox.json";

/// Longest file read. Environments are the only part that grows, and the kernel bounds those far below this.
const MAX_RECORD_BYTES: u64 = 4 * 1024 * 1024;

impl Record {
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::SystemTime};

    use agent_protocol::spec::{Service, Step};

    use super::*;
    use crate::{
        agents::Definition,
        isolation::MachineWishes,
        sandbox::{
            record::{
                AgentConfig, AgentRecord, CloneObjects, CloneRecord, Cloned, ContainerRecord, Engine,
                SecretRecord, Store, WorktreeRecord,
            },
            testing::TempDir,
        },
    };

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
    fn a_record_from_before_a_field_was_added_is_still_read() {
        let mut old = serde_json::to_value(sample()).unwrap();
        let added = [
            "store",
            "nested",
            "agent",
            "steps",
            "services",
            "cloned",
            "snapshots",
            "sync",
            "sync_idle_s",
            "worktrees",
        ];
        for added in added {
            old.as_object_mut().unwrap().remove(added);
        }
        old.as_object_mut().unwrap().remove("container");
        old.as_object_mut().unwrap().remove("machine");
        let read =
            |old: &serde_json::Value| Record::parse(old.to_string().as_bytes(), Path::new("/x")).unwrap();
        old["network"] = true.into();
        assert_eq!(read(&old), sample());
        old["network"] = false.into();
        assert!(read(&old).network.is_none());
    }

    #[test]
    fn all_that_can_be_asked_for_survives_too() {
        let mut record = sample();
        record.steps =
            vec![Step { name: "install".to_owned(), argv: vec!["true".to_owned()], ..Step::default() }];
        record.services =
            vec![Service { name: "db".to_owned(), argv: vec!["db".to_owned()], ..Service::default() }];
        record.agent = Some(AgentRecord {
            name: "mine".to_owned(),
            definition: Some(Definition { package: Some("mine".to_owned()), ..Definition::default() }),
            config: AgentConfig::ReadOnly,
            ..AgentRecord::default()
        });
        record.store = Store::Closure;
        record.network = "bridge=br0".parse().unwrap();
        record.machine = MachineWishes {
            vcpus: Some(4),
            kernel: Some("/boot/vmlinuz".into()),
            share: Some(agent_protocol::spec::ShareKind::Plan9),
            accelerator: crate::isolation::Accelerator::Tcg,
            no_nested: true,
        };
        record.container =
            Some(ContainerRecord { engine: Some(Engine::Podman), image: Some("debian:12".to_owned()) });
        record.cloned = Some(CloneRecord {
            branch: Some("main".to_owned()),
            depth: Some(1),
            objects: Some(CloneObjects::Share),
            shared: vec!["/src/.git/objects".into()],
            made: Some(Cloned { commit: Some("1".repeat(40)), ..Cloned::default() }),
            ..CloneRecord::default()
        });
        record.worktrees = vec![
            WorktreeRecord { branch: "a/b".parse().unwrap(), command: None },
            WorktreeRecord { branch: "x".parse().unwrap(), command: Some(vec!["sh".to_owned()]) },
        ];
        let json = serde_json::to_vec(&record).unwrap();
        assert_eq!(Record::parse(&json, Path::new("/x")).unwrap(), record);
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
