//! How bringing the work home went: `pulled.json`, which every pull writes, and `sync.json`, which the monitor does.
//!
//! Two files, so that nobody writes what another one has written. Each is replaced whole.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    atomic::{self, Survives},
    bounded::read_bounded,
    record::{Record, SyncMode, Workspace},
};

const PULLED_FILE: &str = "pulled.json";
const SYNC_FILE: &str = "sync.json";

/// Both are small. Damaged, they are read as if they were not there.
const MAX_SYNC_BYTES: u64 = 64 * 1024;

/// What is kept of an error, in characters.
pub(crate) const MAX_REASON_CHARS: usize = 1000;

/// The pulls of a sandbox so far, into the project's repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulls {
    /// When the last one that went well began, RFC 3339.
    pub last: String,
    /// What the last one brought that brought anything.
    pub came: Option<Came>,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// When, RFC 3339.
    pub at: String,
    /// New commits.
    pub commits: u64,
    /// Files that differ.
    pub files: u64,
    /// Lines that are new.
    pub insertions: u64,
    /// Lines that are gone.
    pub deletions: u64,
    /// Refs that changed.
    pub refs: u64,
}

/// A job of the monitor that failed, and was not done since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: String,
    /// How often in a row.
    pub times: u32,
    /// When it is tried again, RFC 3339; absent once the sandbox has ended.
    pub next_try: Option<String>,
}

/// What the monitor has to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// Whether something was done inside when that was last told.
    pub(crate) active: bool,
    pub(crate) pull: Option<Trouble>,
    pub(crate) snapshot: Option<Trouble>,
}

/// What is told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncView {
    /// When the work is brought home.
    pub mode: SyncMode,
    /// After how many seconds without any doing, where that is when.
    pub idle_s: Option<u64>,
    /// When the last pull that went well began.
    pub last_pull: Option<String>,
    /// What the last one brought that brought anything.
    pub came: Option<Came>,
    /// Why pulls by themselves fail.
    pub failure: Option<Trouble>,
    /// Why snapshots by themselves fail.
    pub snapshot_failure: Option<Trouble>,
}

impl Pulls {
    /// The pulls that the sandbox in `folder` has seen.
    pub fn read(folder: &Path) -> Option<Self> {
        read(folder, PULLED_FILE)
    }

    /// Writes down a pull that went well; what brought nothing leaves what came before.
    pub(crate) fn note(folder: &Path, began: SystemTime, came: Option<Came>) -> io::Result<()> {
        let before = Self::read(folder).and_then(|before| before.came);
        let pulls = Self { last: time(began), came: came.or(before) };
        write(folder, PULLED_FILE, &pulls)
    }
}

impl Memory {
    pub(crate) fn read(folder: &Path) -> Self {
        read(folder, SYNC_FILE).unwrap_or_default()
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        write(folder, SYNC_FILE, self)
    }
}

impl SyncView {
    /// What is known of the sandbox in `folder`; nothing where it works in the project itself.
    pub(crate) fn of(folder: &Path, record: &Record) -> Option<Self> {
        if record.workspace == Workspace::Bind {
            return None;
        }
        let (pulls, memory) = (Pulls::read(folder), Memory::read(folder));
        let last_pull = pulls.as_ref().map(|pulls| pulls.last.clone());
        Some(Self {
            mode: record.sync,
            idle_s: (record.sync == SyncMode::AutoIdle).then_some(record.sync_idle_s),
            // Times of one form, which sort as they are. Somebody may have pulled by hand since.
            failure: memory.pull.filter(|failure| last_pull.as_ref().is_none_or(|last| *last < failure.at)),
            snapshot_failure: memory.snapshot,
            came: pulls.and_then(|pulls| pulls.came),
            last_pull,
        })
    }
}

impl Came {
    /// One line for people.
    pub fn describe(&self) -> String {
        let count =
            |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        format!(
            "{}, {}, +{} -{}",
            count(self.commits, "commit"),
            count(self.files, "file"),
            self.insertions,
            self.deletions
        )
    }
}

impl Trouble {
    /// A failure at this time, to be tried again after a while.
    pub(crate) fn new(now: SystemTime, reason: &str, times: u32, wait: Option<Duration>) -> Self {
        Self {
            at: time(now),
            reason: reason.chars().take(MAX_REASON_CHARS).collect(),
            times,
            next_try: wait.map(|wait| time(now + wait)),
        }
    }
}

pub(crate) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Option<T> {
    serde_json::from_slice(&read_bounded(&folder.join(name), MAX_SYNC_BYTES).ok()?).ok()
}

fn write(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    atomic::replace(folder, name, &serde_json::to_vec_pretty(value)?, Survives::Kill)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn came(commits: u64) -> Came {
        Came { at: time(at(1)), commits, files: 1, insertions: 2, deletions: 3, refs: 1 }
    }

    #[test]
    fn a_pull_that_brought_nothing_does_not_hide_what_came() {
        let temp = TempDir::new();
        assert_eq!(Pulls::read(temp.path()), None);
        Pulls::note(temp.path(), at(1), Some(came(2))).unwrap();
        Pulls::note(temp.path(), at(5), None).unwrap();
        let pulls = Pulls::read(temp.path()).unwrap();
        assert_eq!((pulls.last.as_str(), pulls.came), ("1970-01-01T00:00:05.000Z", Some(came(2))));
        assert_eq!(came(1).describe(), "1 commit, 1 file, +2 -3");
    }

    #[test]
    fn a_failure_is_told_until_a_pull_goes_well_whoever_asked_for_it() {
        let temp = TempDir::new();
        let mut record = Record::new("web".parse().unwrap(), "/p".into(), at(0));
        assert_eq!(SyncView::of(temp.path(), &record), None);
        record.workspace = Workspace::Clone;
        record.sync = SyncMode::AutoCommit;
        let trouble = Trouble::new(at(10), &"x".repeat(5000), 2, Some(Duration::from_secs(4)));
        assert_eq!(trouble.reason.len(), MAX_REASON_CHARS);
        Memory { pull: Some(trouble.clone()), ..Memory::default() }.write(temp.path()).unwrap();
        Pulls::note(temp.path(), at(9), None).unwrap();
        let view = SyncView::of(temp.path(), &record).unwrap();
        assert_eq!((view.idle_s, view.failure), (None, Some(trouble)));
        Pulls::note(temp.path(), at(11), None).unwrap();
        assert_eq!(SyncView::of(temp.path(), &record).unwrap().failure, None);
    }

    #[test]
    fn damage_is_nothing_known() {
        let temp = TempDir::new();
        for name in [PULLED_FILE, SYNC_FILE] {
            std::fs::write(temp.path().join(name), "{").unwrap();
        }
        assert_eq!((Pulls::read(temp.path()), Memory::read(temp.path())), (None, Memory::default()));
    }
}
