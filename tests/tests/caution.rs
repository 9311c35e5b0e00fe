//! What goes wrong on the host costs nobody anything: no work, no trust, no half-made sandbox.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use agent_tests::{Home, Sandbox, Who, finish};
use anyhow::ensure;

/// Whoever can write the records of sandboxes decides what root mounts.
#[test]
fn state_that_others_can_change_is_not_trusted() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        let agents = sandbox.data().join("agents");
        fs::set_permissions(&agents, fs::Permissions::from_mode(0o770))?;
        for words in [&["list"][..], &["status", "box"], &["start", "box"], &["destroy", "--force", "box"]] {
            sandbox.run(words)?.exits(3)?.complains("others may write to it")?.complains("hint:")?;
        }
        sandbox.run(["exec", "box", "--", "true"])?.exits(125)?;
        fs::set_permissions(&agents, fs::Permissions::from_mode(0o700))?;
        sandbox.run(["exec", "box", "--", "true"])?.success()?;
    }
    Ok(())
}
