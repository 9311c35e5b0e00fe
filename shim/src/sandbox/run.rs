//! The current start of a sandbox, or the last one: `run.json`.
//!
//! Written for the next command to find the processes, and to tell how it ended. It never decides whether
//! a sandbox lives: the kernel does (see `liveness`).

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    atomic::{self, Survives},
    bounded::read_bounded,
    process::{Condition, boot_id, condition},
    view::AgentView,
};
use crate::isolation::{ProcessId, Remains};

const RUN_FILE: &str = "run.json";
const RUN_VERSION: u32 = 1;

/// There while somebody kills what would not end.
const FORCED_FILE: &str = "killed";
const MAX_RUN_BYTES: u64 = 1024 * 1024;

/// One start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Version of the file.
    pub version: u32,
    /// Counts the starts of this sandbox, from 1.
    pub number: u64,
    /// The boot it belongs to.
    pub boot_id: String,
    /// How far it came, as last written.
    pub stage: Stage,
    /// When it was asked for, RFC 3339.
    pub started_at: String,
    /// The monitor that wrote this.
    pub monitor: Option<ProcessId>,
    /// The isolation layer's own process.
    pub supervisor: Option<ProcessId>,
    /// PID 1 of the sandbox, as the host numbers it.
    pub init: Option<ProcessId>,
    /// What else the layer has started for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<RunningPart>,
    /// What the layer leaves on the host outside the folder.
    #[serde(default)]
    pub remains: Remains,
    /// What a person should know of it, although it works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// The agent, as last seen.
    pub agent: Option<AgentView>,
}

/// A process that the layer has started beside init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningPart {
    /// What it is: the name of its program.
    pub name: String,
    /// Which process.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Whether it takes the calls for init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub door: bool,
}

/// How far a start came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Init is on its way.
    Starting,
    /// The agent was executed and init answers.
    Running,
    /// Somebody asked for its end.
    Stopping,
    /// Everything is gone.
    Ended,
    /// It never came up; [`Ended::reason`] says why.
    Failed,
}

/// How a start ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When, RFC 3339; of a sandbox that ended unobserved, when that was found.
    pub at: String,
    /// The code init ended with, 128 + N for signal N; absent where nobody who lives knows it.
    pub code: Option<i32>,
    /// In words.
    pub reason: String,
}

impl Run {
    /// A start that begins now.
    pub fn beginning(number: u64, started_at: String, monitor: Option<ProcessId>) -> Self {
        Self {
            version: RUN_VERSION,
            number,
            boot_id: boot_id().to_owned(),
            stage: Stage::Starting,
            started_at,
            monitor,
            supervisor: None,
            init: None,
            parts: Vec::new(),
            remains: Remains::default(),
            warnings: Vec::new(),
            ended: None,
            agent: None,
        }
    }

    /// The last start; `None` where there is none, or the file cannot be read: what it says can be found out
    /// otherwise or done without.
    pub fn read(folder: &Path) -> Option<Self> {
        let bytes = read_bounded(&folder.join(RUN_FILE), MAX_RUN_BYTES).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|run: &Self| run.version == RUN_VERSION)
    }

    /// Replaces the file.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        atomic::replace(folder, RUN_FILE, &serde_json::to_vec_pretty(self)?, Survives::Kill)
    }

    /// Forgets all starts.
    pub fn forget(folder: &Path) -> io::Result<()> {
        match fs::remove_file(folder.join(RUN_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Has it said of the end that is to come that a person wanted it, whichever process is found dead first.
    pub(crate) fn mark_killed(folder: &Path) {
        // Without it the end is told as what it looks like.
        drop(fs::write(folder.join(FORCED_FILE), ""));
    }

    /// Whether it was said, from now on no more.
    pub(crate) fn take_killed(folder: &Path) -> bool {
        fs::remove_file(folder.join(FORCED_FILE)).is_ok()
    }

    /// Whether what takes the calls for init is stopped by a signal. Whoever calls it then and leaves again is never let go of,
    /// and it turns in circles from then on.
    pub(crate) fn has_closed_door(folder: &Path) -> bool {
        let parts = Self::read(folder).map(|run| run.processes().parts).unwrap_or_default();
        parts.iter().any(|part| part.door && condition(part.id) == Condition::Stopped)
    }

    /// Whether it was recorded as over.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended | Stage::Failed)
    }

    /// Whether its processes can still be there.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot_id == boot_id()
    }

    /// The processes that may still live, by what they are.
    pub(crate) fn processes(&self) -> Processes {
        if self.is_of_this_boot() {
            Processes {
                monitor: self.monitor,
                supervisor: self.supervisor,
                init: self.init,
                parts: self.parts.clone(),
            }
        } else {
            Processes::default()
        }
    }
}

/// The processes of a start, those that a kill could need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(crate) monitor: Option<ProcessId>,
    pub(crate) supervisor: Option<ProcessId>,
    pub(crate) init: Option<ProcessId>,
    pub(crate) parts: Vec<RunningPart>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    #[test]
    fn a_run_survives_a_round_trip_and_damage_is_no_run() {
        let temp = TempDir::new();
        assert_eq!(Run::read(temp.path()), None);
        let mut run = Run::beginning(3, "2026-01-01T00:00:00.000Z".to_owned(), None);
        run.init = Some(ProcessId { pid: 7, start_ticks: 9 });
        run.parts = vec![RunningPart {
            name: "virtiofsd".to_owned(),
            id: ProcessId { pid: 8, start_ticks: 9 },
            door: true,
        }];
        run.write(temp.path()).unwrap();
        assert_eq!(Run::read(temp.path()), Some(run.clone()));
        assert_eq!(run.processes().init, run.init);
        fs::write(temp.path().join(RUN_FILE), "{").unwrap();
        assert_eq!(Run::read(temp.path()), None);
        Run::forget(temp.path()).unwrap();
        Run::forget(temp.path()).unwrap();
    }

    #[test]
    fn processes_of_another_boot_are_nobody() {
        let mut run = Run::beginning(1, String::new(), Some(ProcessId { pid: 1, start_ticks: 0 }));
        run.boot_id = "another".to_owned();
        assert_eq!(run.processes(), Processes::default());
    }
}
