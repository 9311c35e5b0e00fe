//! What a layer's program inherits: descriptors under their promised numbers, files that nobody can find, and the record that
//! it writes by itself.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::error::IsolationError;
use super::limits::Made;
use super::plan::{Content, LaunchPlan};
use super::{Handles, memory};
use crate::sys::{Program, Step};

/// Descriptors on their way into a program, each with the number it will have there.
pub(super) struct Passed {
    fds: Vec<(OwnedFd, RawFd)>,
    last: RawFd,
    noted_in: Option<RawFd>,
}

impl Passed {
    /// Nothing yet. No number will be above `last`.
    pub(super) fn new(last: RawFd) -> Passed {
        Passed { fds: Vec::new(), last, noted_in: None }
    }

    /// What every launch passes, where no number is above `last`: nothing to read, where to print, and each promised
    /// descriptor, those of the sandbox's cgroup among them.
    pub(super) fn by(
        plan: &LaunchPlan,
        handles: Handles,
        cgroup: Option<&Made<'_>>,
        last: RawFd,
    ) -> Result<Passed, IsolationError> {
        let mut passed = Passed::new(last);
        let null = File::open("/dev/null").map_err(|source| step("opening /dev/null", source))?;
        passed.add(null.into(), 0)?;
        passed.add(handles.stdout, 1)?;
        passed.add(handles.stderr, 2)?;
        let mut given = handles.promised;
        if let Some(cgroup) = cgroup {
            given.extend(cgroup.for_init()?);
        }
        for fd in &plan.fds {
            let place = given.iter().position(|(name, _)| *name == fd.name);
            let place =
                place.ok_or_else(|| IsolationError::Plan(format!("no descriptor for `{}`", fd.name)))?;
            passed.add(given.swap_remove(place).1, fd.number)?;
        }
        Ok(passed)
    }

    /// Moves the descriptor above all target numbers, so that putting one in place cannot close another.
    pub(super) fn add(&mut self, fd: OwnedFd, number: RawFd) -> Result<(), IsolationError> {
        let taken = self.fds.iter().any(|(_, other)| *other == number);
        if taken || number < 0 || number > self.last {
            return Err(IsolationError::Plan(format!("descriptor number {number} cannot be used")));
        }
        let fd = if fd.as_raw_fd() > self.last {
            fd
        } else {
            rustix::io::fcntl_dupfd_cloexec(&fd, self.last + 1)
                .map_err(|error| step("moving a descriptor", error.into()))?
        };
        self.fds.push((fd, number));
        Ok(())
    }

    /// Adds a file's content.
    pub(super) fn content(&mut self, content: &Content, number: RawFd) -> Result<(), IsolationError> {
        self.add(in_memory(content)?, number)
    }

    /// Adds what a launcher of ours is to do.
    pub(super) fn job(&mut self, job: &impl Serialize, number: RawFd) -> Result<(), IsolationError> {
        let job = serde_json::to_string(job).map_err(|error| IsolationError::Plan(error.to_string()))?;
        self.content(&Content::Text(job), number)
    }

    /// Has the program's number written into the record under this number before it can do anything.
    pub(super) fn note_it_in(&mut self, record: RawFd) {
        self.noted_in = Some(record);
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = Step> {
        // Everything else goes at exec: first without exception, then the promised ones lose the mark by dup2.
        let pass = self.fds.iter().map(|(fd, number)| Step::PassFd { from: fd.as_raw_fd(), to: *number });
        std::iter::once(Step::CloseAbove(2)).chain(pass).chain(self.noted_in.map(Step::NoteSelf))
    }
}

/// Opens the record of a launch. The layer appends to it by itself, so that an exit is recorded although everything of ours is gone.
pub(super) fn open_record(path: &Path) -> Result<OwnedFd, IsolationError> {
    // A new file for each launch: the process of an earlier one may still hold the old one.
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(step(format!("removing {}", path.display()), source));
        }
        _ => {}
    }
    let open = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    open.map(OwnedFd::from).map_err(|source| step(format!("creating {}", path.display()), source))
}

/// Puts a file's content where the layer can read it and nobody can find or change it.
fn in_memory(content: &Content) -> Result<OwnedFd, IsolationError> {
    match content {
        Content::Text(text) => {
            memory::sealed(text.as_bytes()).map_err(|source| step("keeping a text in memory", source))
        }
        Content::Of(path) => memory::sealed_copy(path)
            .map_err(|source| step(format!("copying {} to memory", path.display()), source)),
        Content::Given(path) => memory::sealed_copy_without_links(path)
            .map_err(|source| step(format!("copying {} to memory", path.display()), source)),
    }
}

/// Our own binary, as the launcher of this name whose job is under this number.
pub(super) fn launcher(binary: &Path, name: &str, job: RawFd) -> Result<Program, IsolationError> {
    let args = ["agent-shim", name, &job.to_string()].map(c_string).into_iter().collect::<Result<_, _>>()?;
    Ok(Program { path: c_string(binary)?, args, env: Vec::new() })
}

/// Makes a folder that something is mounted on; the one of an earlier start will do.
pub(super) fn folder(at: &Path) -> Result<(), IsolationError> {
    match fs::create_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(step(format!("making {}", at.display()), error))
        }
        _ => Ok(()),
    }
}

pub(super) fn c_string(text: impl AsRef<OsStr>) -> Result<CString, IsolationError> {
    let text = text.as_ref();
    CString::new(text.to_owned().into_vec())
        .map_err(|_| IsolationError::Plan(format!("{} has a zero byte in it", text.to_string_lossy())))
}

pub(super) fn step(doing: impl Into<String>, source: io::Error) -> IsolationError {
    IsolationError::Step { doing: doing.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_cannot_be_promised_twice() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let mut passed = Passed::new(5);
        passed.add(null(), 3).unwrap();
        assert!(passed.add(null(), 3).is_err());
        assert!(passed.add(null(), 6).is_err());
        assert!(passed.fds[0].0.as_raw_fd() > 5);
    }
}
