//! What persons agreed to: one small file for each project's file, in the data folder, where no sandbox reaches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    consent::{Ask, Request},
    error::ConfigError,
    load::{ProjectFile, hex},
};
use crate::sandbox::{
    atomic::{self, Survives},
    paths::DataDir,
};

const VERSION: u32 = 1;

/// Longest file read: a few lines nearly always. A file of the largest size that is read can ask for as much.
const MAX_CONSENT_BYTES: u64 = 16 * 1024 * 1024;

/// Everything that was agreed to.
#[derive(Clone, Debug)]
pub struct Consents {
    folder: PathBuf,
}

/// What was agreed to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Consent {
    version: u32,
    /// The project's file.
    file: PathBuf,
    /// SHA-256 of its content then.
    sha256: String,
    /// What the person was told that it asks for. The same content asks for more once the layers below it say less.
    asks: BTreeSet<String>,
    /// Where its paths led then.
    paths: BTreeMap<PathBuf, PathBuf>,
    /// When, RFC 3339.
    agreed_at: String,
}

impl Consents {
    /// Those of this data directory.
    pub fn of(data: &DataDir) -> Self {
        Self { folder: data.path().join("consents") }
    }

    /// Whether a person agreed to all that this content asks for, and its paths still lead there. What cannot be read is
    /// no consent: it is asked for again.
    pub fn holds(&self, project: &ProjectFile, request: &Request) -> bool {
        self.read(&project.path).is_some_and(|consent| {
            consent.version == VERSION
                && consent.file == project.path
                && consent.sha256 == project.sha256
                && request.asks.iter().all(|ask| consent.asks.contains(&asked(ask)))
                && request.paths.iter().all(|(path, there)| consent.paths.get(path) == Some(there))
        })
    }

    /// Writes down that a person agreed.
    pub fn give(&self, project: &ProjectFile, request: &Request, now: SystemTime) -> Result<(), ConfigError> {
        let consent = Consent {
            version: VERSION,
            file: project.path.clone(),
            sha256: project.sha256.clone(),
            asks: request.asks.iter().map(asked).collect(),
            paths: request.paths.clone(),
            agreed_at: humantime::format_rfc3339_seconds(now).to_string(),
        };
        let json = serde_json::to_vec_pretty(&consent).map_err(io::Error::from);
        let written = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).and_then(|()| {
            atomic::replace(&self.folder, &self.name(&project.path), &json?, Survives::PowerCut)
        });
        written.map_err(|error| {
            ConfigError::failed(format!("cannot write the consent into {}", self.folder.display()))
                .because(error)
        })
    }

    /// Whether there is a consent to take back.
    pub fn has(&self, file: &Path) -> bool {
        self.read(file).is_some()
    }

    /// Takes a consent back; whether there was one.
    pub fn take_back(&self, file: &Path) -> Result<bool, ConfigError> {
        match fs::remove_file(self.folder.join(self.name(file))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ConfigError::failed("cannot remove the consent").because(error)),
        }
    }

    /// Paths can hold anything; a hash of one is a name of a file.
    #[allow(clippy::unused_self)] // It reads better where it is used.
    fn name(&self, file: &Path) -> String {
        format!("{}.json", hex(&Sha256::digest(file.as_os_str().as_bytes())))
    }

    fn read(&self, file: &Path) -> Option<Consent> {
        let is_ours = |file: &File| {
            let found = file.metadata()?;
            let owned = found.uid() == rustix::process::geteuid().as_raw();
            Ok::<_, io::Error>(owned && found.mode() & 0o022 == 0)
        };
        let folder = File::open(&self.folder).ok()?;
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let path = self.folder.join(self.name(file));
        let file = OpenOptions::new().read(true).custom_flags(no_link).open(path).ok()?;
        if !is_ours(&folder).ok()? || !is_ours(&file).ok()? {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_CONSENT_BYTES).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

fn asked(ask: &Ask) -> String {
    format!("{}: {}", ask.key, ask.words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{origin::Origin, settings::Settings},
        sandbox::testing::TempDir,
    };
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &str) -> ProjectFile {
        ProjectFile {
            path: "/p/agent-shim.toml".into(),
            sha256: hex(&Sha256::digest(content)),
            settings: Settings::default(),
        }
    }

    fn asks(there: &str) -> Request {
        Request { asks: Vec::new(), paths: [("/p/data".into(), there.into())].into() }
    }

    fn give(consents: &Consents, project: &ProjectFile, request: &Request) {
        consents.give(project, request, SystemTime::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn consent_holds_for_one_content_at_one_place() {
        let temp = TempDir::new();
        let consents = Consents::of(&DataDir::at(temp.path().join("data")));
        assert!(!consents.holds(&file("a"), &asks("/p/data")));
        give(&consents, &file("a"), &asks("/p/data"));
        assert!(consents.holds(&file("a"), &asks("/p/data")));
        assert!(!consents.holds(&file("b"), &asks("/p/data")));
        assert!(
            !consents
                .holds(&ProjectFile { path: "/q/agent-shim.toml".into(), ..file("a") }, &asks("/p/data"))
        );
        // The same words, and now a link to somewhere else.
        assert!(!consents.holds(&file("a"), &asks("/root/.ssh")));
        assert!(consents.take_back(&file("a").path).unwrap());
        assert!(!consents.holds(&file("a"), &asks("/p/data")));
        assert!(!consents.take_back(&file("a").path).unwrap());
    }

    #[test]
    fn what_was_not_asked_then_is_not_agreed_to() {
        let temp = TempDir::new();
        let consents = Consents::of(&DataDir::at(temp.path().join("data")));
        let ask = |words: &str| Ask { key: "x", words: words.to_owned(), origin: Origin::Default };
        let asks =
            |words: &[&str]| Request { asks: words.iter().map(|words| ask(words)).collect(), ..asks("/x") };
        give(&consents, &file("a"), &asks(&["read y"]));
        assert!(consents.holds(&file("a"), &asks(&["read y"])));
        assert!(!consents.holds(&file("a"), &asks(&["read y", "share the network"])));
        give(&consents, &file("a"), &asks(&["read y", "share the network"]));
        assert!(consents.holds(&file("a"), &asks(&["read y"])));
    }

    #[test]
    fn a_later_consent_replaces_an_earlier_one() {
        let temp = TempDir::new();
        let consents = Consents::of(&DataDir::at(temp.path().join("data")));
        give(&consents, &file("a"), &asks("/x"));
        give(&consents, &file("b"), &asks("/x"));
        assert!(consents.holds(&file("b"), &asks("/x")) && !consents.holds(&file("a"), &asks("/x")));
        let found: Vec<_> = fs::read_dir(&consents.folder).unwrap().flatten().collect();
        assert_eq!((found.len(), found[0].metadata().unwrap().mode() & 0o777), (1, 0o600));
        assert_eq!(fs::metadata(&consents.folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_is_damaged_or_others_could_have_written_is_no_consent() {
        let temp = TempDir::new();
        let consents = Consents::of(&DataDir::at(temp.path().join("data")));
        give(&consents, &file("a"), &asks("/x"));
        let path = consents.folder.join(consents.name(&file("a").path));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!consents.holds(&file("a"), &asks("/x")));
        give(&consents, &file("a"), &asks("/x"));
        assert!(consents.holds(&file("a"), &asks("/x")));
        fs::set_permissions(&consents.folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!consents.holds(&file("a"), &asks("/x")));
        fs::set_permissions(&consents.folder, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(!consents.holds(&file("a"), &asks("/x")));
    }
}
