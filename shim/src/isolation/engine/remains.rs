//! A container that is left over: an engine keeps one until it is told not to, whoever was killed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Engine, variables};
use crate::requirement::{Answer, Question};

/// How long an engine may take to remove a container.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);

/// A container, by the name that one start gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Whose it is.
    pub engine: Engine,
    /// The engine's program.
    pub program: PathBuf,
    /// Its name.
    pub name: String,
}

impl Leftover {
    /// Removes it with what it has written outside of our mounts. Fine if it is gone already.
    pub fn remove(&self) -> io::Result<()> {
        let answer = ask(&self.program, removal(self.engine, &self.name), REMOVED_WITHIN);
        match answer.complaint() {
            None => Ok(()),
            Some(complaint) if complaint.to_ascii_lowercase().contains("no such container") => Ok(()),
            Some(complaint) => Err(io::Error::other(complaint)),
        }
    }
}

/// The arguments that remove a container.
pub(super) fn removal(engine: Engine, name: &str) -> Vec<OsString> {
    let words = ["rm"].iter().chain(engine.differences().remove).chain([&name]);
    words.map(|word| OsString::from(*word)).collect()
}

/// Asks an engine something in the person's surroundings.
pub(super) fn ask(program: &std::path::Path, args: Vec<OsString>, patience: Duration) -> Answer {
    let variables = variables();
    let variables = variables.iter().map(|(name, value)| (OsStr::new(*name), value.as_os_str())).collect();
    Question { program, args, variables, user: None, patience }.ask()
}
