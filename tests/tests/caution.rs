//! What goes wrong on the host costs nobody anything: no work, no trust, no half-made sandbox.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use agent_tests::{Home, Sandbox, Who, finish};
use anyhow::ensure;

/// `-n` promises to do nothing, whatever else was asked for.
#[test]
fn a_dry_run_discards_and_changes_nothing() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.sh("echo precious > ~/kept")?.success()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let record = fs::read(sandbox.folder().join("sandbox.json"))?;
    sandbox.run(["start", "box", "-n", "--fresh", "--no-network", "-e", "A=B"])?.success()?;
    ensure!(fs::read_to_string(sandbox.folder().join("home/kept"))? == "precious\n");
    ensure!(fs::read(sandbox.folder().join("sandbox.json"))? == record);
    Ok(())
}

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

#[test]
fn too_few_descriptors_leave_no_sandbox() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    home.project("project")?;
    let shim = agent_tests::agent_shim();
    // Six are enough to write it down, and too few to start a monitor.
    for limit in 6..=9 {
        let script = format!("ulimit -n {limit}; exec \"$0\" start --name box --env host project -- cat");
        let command = home.command("sh", ["-c".as_ref(), script.as_ref(), shim.as_os_str()]);
        finish(command, b"")?.exits(3)?;
        ensure!(home.run(["list", "--quiet"])?.text().is_empty(), "with {limit} descriptors");
    }
    Ok(())
}

/// A person who cannot be told something still gets what was asked for.
#[test]
fn a_full_standard_error_stops_nothing() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let mut command = sandbox.shim(["start", "-d", "-v", "box"]);
    command.stdin(Stdio::null()).stderr(OpenOptions::new().write(true).open("/dev/full")?);
    ensure!(command.status()?.success());
    Ok(())
}

/// The agent gets what the umask takes from others, and we go on with what it takes from us.
#[test]
fn a_umask_against_the_owner_is_no_obstacle() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    home.project("project")?;
    let shim = agent_tests::agent_shim();
    let script =
        "umask 0777; \"$0\" start --name box --env host project -- cat && \"$0\" exec box -- sh -c umask
        \"$0\" destroy --force box";
    let command = home.command("sh", ["-c".as_ref(), script.as_ref(), shim.as_os_str()]);
    let output = finish(command, b"")?.success()?;
    ensure!(output.text().starts_with("box\n0077\nbox"), "{output}");
    Ok(())
}
