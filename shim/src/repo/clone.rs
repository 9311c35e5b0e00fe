//! The project's repository goes in: a clone of its own for the sandbox.

use std::{path::Path, time::Instant};

use super::host_git::{GitError, HostGit};

/// Private memory of git, bytes.
const MEMORY_BYTES: u64 = 4 << 30;

/// Clones what is checked out at `project` into the empty folder `work`. Nothing in it is shared with the host.
pub fn clone(project: &Path, work: &Path, until: Instant) -> Result<(), GitError> {
    let git = HostGit::find(MEMORY_BYTES)?;
    let mut command = git.bare();
    command.args(["-c", "protocol.file.allow=always", "clone", "--quiet", "--no-local", "--single-branch"]);
    command.args(["--no-tags", "--template=", "--origin=host"]).arg(format!("file://{}", project.display()));
    command.arg(work);
    git.start(command, "clone", until)?.output(1024).map(drop)
}
