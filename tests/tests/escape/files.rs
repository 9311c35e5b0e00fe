//! Attempts on files of the host, of other sandboxes and of the system.

use std::fs;
use std::os::unix::fs::MetadataExt;

use agent_tests::{finish, layer, until};
use anyhow::ensure;

use crate::board::each_person;
use crate::world::{PROBE, World, backwards};

#[test]
fn files_of_the_host_and_of_others() {
    each_person("files", |board, world| {
        let marker = world.marker.as_str();
        let precious = world.home.file("precious", marker.as_bytes())?;
        let mount = format!("{}:/opt/precious:ro", precious.display());
        let project = world.start("box", &["--mount", &mount], &["cat"])?;
        world.start("sibling", &[], &["cat"])?;
        let plant = format!(
            "for at in /tmp /home/sandbox /dev/shm /workspace; do echo {marker} > $at/of-the-sibling; done"
        );
        world.sh("sibling", &plant)?.success()?;

        let files = world.private_files();
        let paths: Vec<&str> = ["read"].into_iter().chain(files.iter().map(String::as_str)).collect();
        board.control("reading by the host's paths", world.outside(&paths));
        board.probed("reading by the host's paths and by detours", world.inside("box", &paths));

        let everything = world.at("");
        board.control(
            "hunting for the host's secrets",
            world.outside(&["hunt", &backwards(marker), &everything]),
        );
        let hunted = world.inside(
            "box",
            &[
                "hunt",
                &backwards(marker),
                "/etc",
                "/home",
                "/opt/probe",
                "/proc",
                "/run",
                "/sys",
                "/tmp",
                "/var",
                "/workspace",
                "/dev",
            ],
        );
        board.probed("hunting for files of the host, a sibling and the state", hunted);
        let hunted = world.inside(
            "box",
            &["hunt", &backwards("agent-shim/agents"), "/run", "/etc", "/home", "/tmp", "/var", "/workspace"],
        );
        board.probed("hunting for the shim's state", hunted);

        board.probed("writing anywhere outside of what is its own", world.inside("box", &["write-anywhere"]));
        let script = "for f in /opt/precious /opt/probe /run/agent/init; do
              ( echo x >> $f ) 2> /dev/null && echo written $f
              rm -f $f 2> /dev/null; mv -f /tmp/x $f 2> /dev/null; chmod 777 $f 2> /dev/null && echo chmod $f
              ln -sf /tmp/x $f 2> /dev/null; [ -s $f ] || echo gone $f
            done; cat /opt/precious; /run/agent/init -- true & exec 3> /proc/$!/exe && echo opened; wait; true";
        let output = world.sh("box", script)?;
        board.attempt("writing read-only mounts and init's binary, through /proc too", {
            if output.text() == marker { Ok(()) } else { Err(anyhow::anyhow!("{output}")) }
        });

        board.attempt("a setting of its own that would be the host's", own_settings(world));
        board.tried("files in the project that are not the person's", || {
            world.sh("box", "echo made > made; mkdir folder; ln -s made link")?.success()?;
            let owners = ["made", "folder", "link"]
                .map(|name| fs::symlink_metadata(project.join(name)).map(|found| found.uid()));
            let owners: Result<Vec<u32>, _> = owners.into_iter().collect();
            let owners = owners?;
            if owners.iter().all(|owner| *owner == world.home.uid()) {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{owners:?}"))
            }
        });
        board.attempt("a folder that is moved out of the project", moved_out(world));
        Ok(())
    });
}

/// Whatever can be written of /proc/sys, and it should be nothing, does not reach the host.
fn own_settings(world: &World) -> anyhow::Result<()> {
    const SETTINGS: [&str; 4] = ["fs/mqueue/msg_max", "kernel/shmmni", "kernel/pid_max", "kernel/hostname"];
    let read = || SETTINGS.map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default());
    let before = read();
    for name in SETTINGS {
        world.sh("box", &format!("echo 321 > /proc/sys/{name}"))?;
    }
    ensure!(read() == before, "{:?} instead of {before:?}", read());
    Ok(())
}

/// A working directory that leaves a mount has no way up.
fn moved_out(world: &World) -> anyhow::Result<()> {
    world.sh("box", "mkdir -p moving/deep")?.success()?;
    let script = "cd moving/deep && echo ready > /workspace/ready && while [ ! -e /workspace/moved ]; do sleep 0.02; done
                  cat ../../home/.ssh/id ../home/.ssh/id ../../../*/home/.ssh/id 2> /dev/null; ls .. ../.. 2> /dev/null; true";
    let mut command = world.home.shim(["exec", "box", "-w", "/workspace", "--", "sh", "-c", script]);
    command.stdin(std::process::Stdio::null());
    let running = std::thread::spawn(move || finish(command, b""));
    until("the command", || Ok(world.home.path().join("project-box/ready").exists().then_some(())))?;
    world.as_person("mv project-box/moving moving && touch project-box/moved", &[])?;
    let output = running.join().expect("a thread")?;
    // What was open stays open, as the folder itself does. A machine that has a kernel of its own goes on to see it where it was.
    let seen = output.text();
    if layer().shares_kernel {
        ensure!(seen.is_empty() || seen == "deep", "{output}");
    } else {
        ensure!(!seen.contains("project-box") && !seen.contains(&world.marker), "{output}");
    }
    Ok(())
}

/// A person who starts a sandbox above the state of all: it is covered.
#[test]
fn state_below_the_project() {
    each_person("state below the project", |board, world| {
        world.start("other", &[], &["cat"])?;
        let project = world.home.path().to_owned();
        finish(world.start_command("box", &project, &[], &["cat"]), b"")?.success()?;
        let state = "/workspace/data/agent-shim/agents/other";
        let hunted = world.inside("box", &["hunt", &backwards("\"command\""), "/workspace/data"]);
        board.control(
            "reading the state",
            world.outside(&["hunt", &backwards("\"command\""), &world.at("data")]),
        );
        board.probed("reading the state through the project", hunted);
        board.probed(
            "the control socket through the project",
            world.inside("box", &["connect", &format!("{state}/control.sock")]),
        );
        let output = world.sh(
            "box",
            &format!(
                "mkdir -p {state}; echo x > {state}/sandbox.json; rmdir /workspace/data/agent-shim; echo end"
            ),
        )?;
        let before = world.home.run(["list", "--json"])?.success()?;
        board.attempt("writing the state through the project", {
            if before.text().contains("\"other\"") && output.text() == "end" {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{before}"))
            }
        });
        board.attempt("moving the state away through the project", {
            world.sh("box", "mv /workspace/data /workspace/moved; echo end")?.success()?;
            let listed = world.home.run(["list", "--json"])?;
            let is_there = world.home.path().join("data/agent-shim/agents/other").exists();
            if is_there { Ok(()) } else { Err(anyhow::anyhow!("{listed}")) }
        });
        let output = world.sh("box", &format!("cp {PROBE} /workspace/probe-of-the-agent && echo end"))?;
        board.attempt("the control: the rest of the project can be written", output.success().map(drop));
        Ok(())
    });
}
