//! The classic ways out of containers, on every layer: by what a runtime leaves open, hands in, or can be made to touch.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use agent_tests::{Output, Who, finish, layer, until};
use anyhow::{anyhow, bail, ensure};

use crate::board::{Board, attempts, each_person};
use crate::world::{PROBE, World};

/// What works for root of the machine, and changes nothing there.
const CONTROLS: [&str; 4] =
    ["programs-that-the-kernel-starts", "disks-of-the-host", "folders-of-the-runtime", OF_A_SHARED_KERNEL];

/// What a kernel of one's own shows too, and what is therefore only asked where the kernel is the host's.
const OF_A_SHARED_KERNEL: &str = "threads-of-the-kernel";

#[test]
fn what_a_runtime_leaves_open() {
    each_person("what a runtime leaves open", |board, world| {
        let shim = agent_tests::agent_shim().display().to_string();
        let agent = format!("{PROBE} containers > /workspace/part; mv part report; exec cat");
        let project = world.start("box", &[], &["sh", "-c", &agent])?;
        let report = project.join("report");
        let told = until("the agent's report", || Ok(report.exists().then(|| fs::read(&report))))?;
        let before = world.status("box")?;

        let shared = has_the_hosts_kernel(world)?;
        let printed = world.inside("box", &["containers"])?;
        judge(board, "a command", &printed, shared)?;
        judge(board, "the agent", &Output { stdout: told?, ..printed }, shared)?;
        let line = format!("{shim} exec -it box -- {PROBE} containers");
        judge(board, "a command on a terminal", &world.on_a_terminal(&line)?, shared)?;

        if world.who == Who::Myself && nix::unistd::geteuid().is_root() {
            for name in CONTROLS {
                board.control(name, world.outside(&["containers", name]));
            }
        }
        board.attempt("what was tried left PID 1 as it was", world.is_unharmed("box", &before));
        Ok(())
    });
}

/// Each boot of a kernel has a number of its own. Who cannot read it is taken to be on the host's.
fn has_the_hosts_kernel(world: &World) -> anyhow::Result<bool> {
    let number = "/proc/sys/kernel/random/boot_id";
    let there = fs::read_to_string(number)?;
    let inside = world.sh("box", &format!("cat {number}"))?;
    let own =
        inside.code() == 0 && inside.text().len() == there.trim().len() && inside.text() != there.trim();
    ensure!(own != layer().shares_kernel, "{inside}, and {there} on the host");
    Ok(!own)
}

fn judge(board: &mut Board, from: &str, output: &Output, shared: bool) -> anyhow::Result<()> {
    for attempt in attempts(output)?.into_iter().filter(|one| shared || one.name != OF_A_SHARED_KERNEL) {
        let closed = attempt.outcome == "closed";
        let result = if closed { Ok(()) } else { Err(anyhow!("{} {}", attempt.outcome, attempt.detail)) };
        board.attempt(&format!("{} from {from}", attempt.name), result);
    }
    Ok(())
}

/// With root's own namespaces permitted, the same is closed but for what such namespaces are for.
#[test]
fn what_a_runtime_leaves_open_where_namespaces_may_be_nested() {
    each_person("what a runtime leaves open, nested", |board, world| {
        world.start("box", &["--nested"], &["cat"])?;
        let script = format!("exec unshare --user --map-root-user --mount --pid --fork {PROBE} containers");
        let output = world.sh("box", &script)?;
        // Its own processes, mounts and tables are there to be had.
        let own = [
            "file-systems-of-the-kernel",
            "namespaces-of-every-process",
            "control-groups",
            "settings-of-the-kernel",
            "folders-of-the-runtime",
            "descriptors-of-others",
            "processes-of-the-host",
            OF_A_SHARED_KERNEL,
        ];
        for attempt in attempts(&output)?.into_iter().filter(|one| !own.contains(&one.name.as_str())) {
            let closed = attempt.outcome == "closed";
            let result = if closed { Ok(()) } else { Err(anyhow!("{} {}", attempt.outcome, attempt.detail)) };
            board.attempt(&attempt.name, result);
        }
        Ok(())
    });
}

/// What makes the mount points works in folders that an agent can change at the same time.
#[test]
fn mount_points_that_become_links() {
    each_person("mount points that become links", |board, world| {
        let project = world.start("racer", &[], &["cat"])?;
        world.as_person("mkdir -p given && echo given > given/file", &[])?;
        let beside = world.at("other");
        let before = names(Path::new(&beside))?;
        // A folder and links that lead out, each in its place for an instant.
        let targets = [&beside, "/etc", "../../../../../../..", "/proc/self/cwd"];
        let links: Vec<String> = targets.iter().map(|target| format!("ln -sfn {target} at")).collect();
        let flip = format!(
            "cd /workspace; while :; do mkdir -p at; rmdir at; {}; rm -f at; done",
            links.join("; rm -f at; ")
        );
        world.home.run(["exec", "--detach", "racer", "--", "sh", "-c", &flip])?.success()?;

        let mount = format!("{}:/workspace/at/below:ro", world.at("given"));
        for round in 0..12 {
            let name = format!("late-{round}");
            // Started or refused: what counts is what it touched.
            let _ = finish(world.start_command(&name, &project, &["--mount", &mount], &["cat"]), b"")?;
            world.home.run(["destroy", "--force", &name])?;
        }
        let after = names(Path::new(&beside))?;
        board.attempt("making a mount point outside", {
            if before == after { Ok(()) } else { Err(anyhow!("{before:?} became {after:?}")) }
        });
        board.attempt("making a mount point in the host's root folder", {
            if Path::new("/below").exists() || Path::new("/etc/below").exists() {
                Err(anyhow!("it is there"))
            } else {
                Ok(())
            }
        });
        Ok(())
    });
}

/// The same without a race: the link is there when the layer makes the mount point.
#[test]
fn mount_points_that_are_links() {
    each_person("mount points that are links", |board, world| {
        world.as_person("mkdir -p given && echo given > given/file", &[])?;
        let beside = world.at("other");
        let before = names(Path::new(&beside))?;
        let mut tried = 0;
        for (number, target) in [beside.as_str(), "/etc", "/proc/1/root", "/proc/self/fd"].iter().enumerate()
        {
            let project = world.home.project(&format!("planted-{number}"))?;
            symlink(target, project.join("at"))?;
            let mount = format!("{}:/workspace/at/below", world.at("given"));
            let name = format!("planted-{number}");
            let started = finish(world.start_command(&name, &project, &["--mount", &mount], &["cat"]), b"")?;
            tried += 1;
            let after = names(Path::new(&beside))?;
            board.tried(&format!("through a link to {target}"), || {
                ensure!(before == after, "{before:?} became {after:?}");
                ensure!(!Path::new("/etc/below").exists(), "it is in /etc of the host");
                if started.code() == 0 {
                    let inside = world.sh(&name, "cat /workspace/at/below/file")?;
                    if inside.code() == 0 {
                        bail!("it was mounted through the link: {inside}");
                    }
                }
                Ok(())
            });
        }
        ensure!(tried == 4);
        Ok(())
    });
}

fn names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
