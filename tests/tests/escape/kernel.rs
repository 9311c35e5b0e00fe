//! Attempts on PID 1 and on the kernel, by system calls.

use std::fs;
use std::path::Path;

use agent_tests::{Output, Who, finish, until};

use crate::board::{Board, attempts, each_person};
use crate::world::{PROBE, World};

/// The whole table of the probe: from the agent, from a command, and from a command on a terminal.
#[test]
fn pid_1_and_the_kernel() {
    each_person("pid 1 and the kernel", |board, world| {
        let project = world.start("box", &[], &[PROBE, "agent", "/workspace/report"])?;
        let before = world.status("box")?;
        in_plain_bubblewrap(board, world)?;
        judge(board, "a command", &world.inside("box", &["table"])?)?;
        judge(board, "a command on a terminal", &{
            let shim = agent_tests::agent_shim().display();
            world.on_a_terminal(&format!("{shim} exec -it box -- {PROBE} table"))?
        })?;
        let report = project.join("report");
        let told = until("the agent's report", || Ok(report.exists().then(|| fs::read(&report))))?;
        let printed = world.outside(&["landlock"])?;
        judge(board, "the agent", &Output { stdout: told?, ..printed })?;
        // The judge of what can be written, where it can be.
        board.control("replace-init", world.inside("box", &["write", "/workspace/report"]));
        board.control("replace-init", world.inside("box", &["write", "/home/sandbox"]));
        board.attempt("what was tried left PID 1 as it was", world.is_unharmed("box", &before));
        board.attempt("another user than its own", {
            let output = world.home.run(["exec", "box", "-u", "0", "--", "id", "-u"])?;
            if output.text().contains('0') { Err(anyhow::anyhow!("{output}")) } else { Ok(()) }
        });
        Ok(())
    });
}

fn judge(board: &mut Board, from: &str, output: &Output) -> anyhow::Result<()> {
    for attempt in attempts(output)? {
        let closed = attempt.outcome == "closed";
        let result =
            if closed { Ok(()) } else { Err(anyhow::anyhow!("{} {}", attempt.outcome, attempt.detail)) };
        board.attempt(&format!("{} from {from}", attempt.name), result);
    }
    Ok(())
}

/// The same attempts where nobody but bubblewrap stands in the way.
fn in_plain_bubblewrap(board: &mut Board, world: &World) -> anyhow::Result<()> {
    let probe = world.probe.display().to_string();
    let mut args =
        vec!["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--unshare-pid"];
    args.extend(["--unshare-ipc", "--as-pid-1", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]);
    args.extend([
        "--tmpfs",
        "/tmp",
        "--ro-bind",
        &probe,
        "/tmp/probe",
        "--",
        "/tmp/probe",
        "as-init",
        "table",
    ]);
    let output = finish(world.home.command("bwrap", args), b"")?;
    for attempt in attempts(&output)? {
        if attempt.plain == "open" && attempt.outcome != "OPEN" {
            board.attempt(
                &format!("{} in a plain bubblewrap", attempt.name),
                Err(anyhow::anyhow!("it proves nothing here: {} {}", attempt.outcome, attempt.detail)),
            );
        }
    }
    Ok(())
}

/// Programs that carry more privileges than their caller, made by root where sandboxes can run them.
#[test]
fn programs_with_privileges() {
    each_person("programs with privileges", |board, world| {
        let project = world.start("box", &[], &["cat"])?;
        let script = "for p in su passwd chsh mount umount newgrp newuidmap ping; do
              command -v $p > /dev/null && (echo; echo) | timeout 5 $p -c 'id -u' root 2> /dev/null | grep -x 0
            done; true";
        let output = world.sh("box", script)?.success()?;
        let none = if output.text().is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{output}")) };
        board.attempt("the host's setuid programs", none);
        if world.who == Who::Ordinary && nix::unistd::geteuid().is_root() {
            let setuid = project.join("setuid");
            agent_tests::copy_program(&world.probe, &setuid)?;
            fs::set_permissions(&setuid, std::os::unix::fs::PermissionsExt::from_mode(0o4755))?;
            let output = world.as_person("project-box/setuid privileges", &[])?;
            board.attempt("the control", contains(&output, "euid 0 "));
            let output = world.sh("box", "./setuid privileges")?.success()?;
            board.attempt(
                "a setuid program of root's in the project",
                contains(&output, "uid 1000 euid 1000 "),
            );

            let capable = project.join("capable");
            agent_tests::copy_program(&world.probe, &capable)?;
            fs::set_permissions(&capable, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            // Version 2 with the effective bit, then CAP_SYS_ADMIN as permitted.
            let value: Vec<u8> =
                [0x0200_0001_u32, 1 << 21, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
            set_attribute(&capable, &value)?;
            let output = world.as_person("project-box/capable privileges", &[])?;
            board.attempt("the control", contains(&output, "0000000000200000"));
            let output = world.sh("box", "./capable privileges")?.success()?;
            board.attempt(
                "a program with file capabilities",
                contains(&output, "capabilities 0000000000000000"),
            );
        } else {
            board.skip(
                "a setuid program of root's in the project",
                "only root can make one for somebody else",
            );
        }
        Ok(())
    });
}

fn set_attribute(path: &Path, value: &[u8]) -> anyhow::Result<()> {
    Ok(rustix::fs::setxattr(path, "security.capability", value, rustix::fs::XattrFlags::empty())?)
}

fn contains(output: &Output, text: &str) -> anyhow::Result<()> {
    anyhow::ensure!(output.text().contains(text), "expected `{text}` in {output}");
    Ok(())
}
