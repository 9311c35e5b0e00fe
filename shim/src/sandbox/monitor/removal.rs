//! A sandbox that was to be removed at its end: that is another command's work, which brings home first what is nowhere
//! else.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
    time::Duration,
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::{
    isolation::Process,
    sandbox::{Sandbox, paths::DataDir, start},
};

/// For all of the work to come home.
const REMOVED_WITHIN: Duration = Duration::from_hours(1);

/// What is kept of that command's reasons, bytes.
const MAX_REASON_BYTES: u64 = 4 * 1024;

/// Removes the sandbox once all of its work is at home. Fails with the reason why it stays.
pub(super) fn remove(sandbox: &Sandbox) -> Result<(), String> {
    try_to(sandbox).unwrap_or_else(|error| Err(error.to_string()))
}

fn try_to(sandbox: &Sandbox) -> io::Result<Result<(), String>> {
    // The folder of a sandbox is `DATA/agents/NAME`.
    let data = sandbox.folder().parent().and_then(Path::parent).ok_or(io::ErrorKind::NotFound)?;
    let mut reasons = File::from(memfd_create("agent-shim-reasons", MemfdFlags::CLOEXEC)?);
    let mut command = start::own_command(&DataDir::at(data.to_owned()))?;
    command
        .args(["destroy", "--pull", "--color=never", sandbox.name().as_str()])
        .stderr(reasons.try_clone()?);
    let mut child = command.spawn()?;
    let process = Process::now(child.id().cast_signed())?;
    if !process.map_or(Ok(true), |process| process.exited_within(REMOVED_WITHIN))? {
        child.kill()?;
        child.wait()?;
        return Ok(Err(format!("its work did not come home within {} s", REMOVED_WITHIN.as_secs())));
    }
    if child.wait()?.success() {
        return Ok(Ok(()));
    }
    reasons.rewind()?;
    let mut text = Vec::new();
    reasons.take(MAX_REASON_BYTES).read_to_end(&mut text)?;
    Ok(Err(String::from_utf8_lossy(&text).trim().trim_start_matches("error: ").to_owned()))
}
