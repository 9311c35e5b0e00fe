//! A container that is left over: an engine keeps one until it is told not to, whoever was killed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use serde::{Deserialize, Serialize};

use super::{Engine, variables};
use crate::programs::{Answer, Question};

/// How long an engine may take to remove a container, all tries together.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);

/// Before it is tried again. Engines refuse while they are busy with the container's end themselves.
const RETRY: Duration = Duration::from_millis(200);

/// A container, by the name that one start gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Whose it is.
    pub engine: Engine,
    /// The engine's program.
    pub program: PathBuf,
    /// Its name.
    pub name: String,
    /// A file of the sandbox's that says so, until the container is gone.
    pub note: PathBuf,
}

impl Leftover {
    /// Removes it with what it has written outside of our mounts. Fine if it is gone already.
    pub fn remove(&self) -> io::Result<()> {
        let end = Instant::now() + REMOVED_WITHIN;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let answer = ask(&self.program, removal(self.engine, &self.name), left);
            let Some(complaint) = answer.complaint().filter(|complaint| !is_gone(complaint)) else {
                return match fs::remove_file(&self.note) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            };
            if Instant::now() + RETRY >= end {
                return Err(io::Error::other(complaint));
            }
            thread::sleep(RETRY);
        }
    }

    /// Notes it before it is made, and removes one of an earlier start that nobody could remove then.
    pub(super) fn take_note(&self) -> io::Result<()> {
        if let Ok(text) = fs::read(&self.note)
            && let Ok(earlier) = serde_json::from_slice::<Leftover>(&text)
        {
            // What keeps it is told by the engine, if it keeps the new one as well.
            let _ = earlier.remove();
        }
        fs::write(&self.note, serde_json::to_vec(self)?)
    }
}

fn is_gone(complaint: &str) -> bool {
    complaint.to_ascii_lowercase().contains("no such container")
}

/// The arguments that remove a container.
fn removal(engine: Engine, name: &str) -> Vec<OsString> {
    let words = ["rm"].iter().chain(engine.differences().remove).chain([&name]);
    words.map(|word| OsString::from(*word)).collect()
}

/// Asks an engine something in the person's surroundings.
pub(super) fn ask(program: &Path, args: Vec<OsString>, patience: Duration) -> Answer {
    let variables = variables();
    let variables = variables.iter().map(|(name, value)| (OsStr::new(*name), value.as_os_str())).collect();
    Question { program, args, variables, user: None, patience }.ask()
}
