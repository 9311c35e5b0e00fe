//! Containers that podman makes of any image: `--isolation oci --engine podman --image REF`.
//!
//! The image is made of this machine's own programs. The same for docker, which needs a daemon, is held by tests of the
//! command line beside `isolation/engine`, and here by what is said where the daemon does not run.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Stdio,
    time::Instant,
};

use agent_tests::{
    Home, Output, Sandbox, is_alive,
    podman::{BARE_IMAGE, IMAGE, Podman, SILENT_IMAGE},
    state, until,
};
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn flags(image: &str) -> [&str; 6] {
    ["--isolation", "oci", "--engine", "podman", "--image", image]
}

fn started(home: Home, more: &[&str]) -> anyhow::Result<Sandbox> {
    Sandbox::builder().home(home).flags(flags(IMAGE)).flags(more).start()
}

/// What podman still has of a sandbox.
fn containers(podman: &Podman, sandbox: &Path) -> anyhow::Result<String> {
    let listed = podman.say(&[
        "ps",
        "--all",
        "--no-trunc",
        "--format",
        "{{.Names}} {{.Mounts}} {{.Labels}} {{.Status}}",
    ])?;
    let name = noted(sandbox);
    Ok(listed.lines().filter(|line| line.starts_with(&name)).collect::<Vec<_>>().join("\n"))
}

/// The name of the container that a sandbox has, or has left.
fn noted(sandbox: &Path) -> String {
    let noted = fs::read(sandbox.join("engine.left")).unwrap_or_default();
    let noted: serde_json::Value = serde_json::from_slice(&noted).unwrap_or_default();
    noted["name"].as_str().unwrap_or("no container").to_owned()
}

fn one(output: anyhow::Result<Output>) -> anyhow::Result<String> {
    Ok(output?.success()?.text().trim().to_owned())
}

#[test]
fn the_image_is_the_root_and_the_rest_is_as_everywhere() -> anyhow::Result<()> {
    for (home, _) in Podman::everyone()? {
        let uid = home.uid();
        let sandbox = started(home, &["-e", "GIVEN=yes"])?;
        let look = "echo $FROM_IMAGE $GIVEN $HOME $(id -u):$(id -g) $(pwd) $(cat /proc/1/comm); echo x > made; \
                    ls -A /run/agent/handover; id -un > /dev/null && echo named";
        let said = one(sandbox.sh(look))?;
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("yes yes /home/sandbox 1000:1000 /workspace init"), "{said}");
        assert_eq!(lines.next(), Some("named"), "{said}");
        assert_eq!(fs::metadata(sandbox.project().join("made"))?.uid(), uid);
        assert_eq!(sandbox.status()?["isolation"], "oci");
    }
    Ok(())
}

#[test]
fn nothing_inside_has_a_right_or_a_way_out() -> anyhow::Result<()> {
    for (home, _) in Podman::everyone()? {
        let sandbox = started(home, &[])?;
        let status = one(sandbox.sh("cat /proc/self/status"))?;
        for line in
            ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Groups:\t1000 "]
        {
            ensure!(status.lines().any(|found| found == line), "{line:?} is not in {status}");
        }
        // Each of these would reach the host, or init.
        for attempt in [
            "echo x > /proc/sys/kernel/core_pattern",
            "echo 1 > /proc/sys/kernel/sysrq",
            "echo b > /proc/sysrq-trigger",
            "mount -t tmpfs none /mnt",
            "mount -t proc proc /mnt",
            "mount -o remount,rw /proc/sys",
            "umount /workspace",
            "unshare -U true",
            "mknod /tmp/disk b 254 0",
            "cat /dev/mem",
            "echo x > /run/agent/init",
            "touch /run/agent/handover/socket",
            "cat /proc/1/environ",
            "ls /proc/1/fd/",
            "kill -9 1; kill -0 1 && false",
            "find /sys/fs/cgroup -name release_agent -writable | grep .",
            "find /sys/fs/cgroup -name cgroup.procs -writable | grep .",
            "ls /proc/1/root/",
        ] {
            let output = sandbox.sh(attempt)?;
            ensure!(output.code() != 0, "`{attempt}` worked: {output}");
        }
        ensure!(one(sandbox.sh("echo alive"))? == "alive");
    }
    Ok(())
}

#[test]
fn the_images_own_command_is_the_agent_where_nobody_names_one() -> anyhow::Result<()> {
    for (home, _) in Podman::everyone()? {
        let project = home.project("project")?;
        let mut args = vec!["run", "--name", "box"];
        args.extend(flags(IMAGE));
        args.push(project.to_str().context("a path")?);
        let output = home.run(&args)?.success()?;
        ensure!(output.text().contains("from the image as 1000"), "{output}");
        let listed = home.run(["list", "--json"])?.success()?.text();
        ensure!(listed.contains("echo from the image"), "{listed}");
    }
    Ok(())
}

#[test]
fn what_is_written_beside_our_folders_goes_with_the_container() -> anyhow::Result<()> {
    for (home, podman) in Podman::everyone()? {
        let sandbox = started(home, &[])?;
        // Only what is the user's own can be written to there; most images have such a place.
        one(sandbox.sh("for f in /workspace /home/sandbox /tmp /dev/shm /var/tmp; do echo x > $f/kept; done 2>/dev/null; true"))?;
        sandbox.tell("stop", &[])?.success()?;
        assert_eq!(containers(&podman, &sandbox.folder())?, "");
        ensure!(!sandbox.folder().join("engine.left").exists(), "a container was left over");
        sandbox.tell("start", &[])?.success()?;
        let found =
            one(sandbox
                .sh("ls -d /workspace/kept /home/sandbox/kept /tmp/kept /dev/shm/kept 2>/dev/null; true"))?;
        assert_eq!(found, "/home/sandbox/kept\n/tmp/kept\n/workspace/kept");
        let name = noted(&sandbox.folder());
        let all = || podman.say(&["ps", "--all", "--format", "{{.Names}}"]);
        ensure!(all()?.contains(&name), "{name} is not there");
        sandbox.tell("destroy", &["--force"])?.success()?;
        ensure!(!all()?.contains(&name), "{name} is left over");
    }
    Ok(())
}

#[test]
fn mounts_and_secrets_are_there_and_read_only_means_it() -> anyhow::Result<()> {
    for (home, _) in Podman::everyone()? {
        let data = home.project("given")?;
        let key = home.file("key", b"s3cret")?;
        fs::write(data.join("file"), "data")?;
        fs::set_permissions(data.join("file"), fs::Permissions::from_mode(0o666))?;
        let mount = format!("{}:/mnt/data:ro", data.display());
        let secret = format!("KEY={}", key.display());
        let sandbox = started(home, &["--mount", &mount, "--secret", &secret])?;
        assert_eq!(one(sandbox.sh("cat /mnt/data/file /run/secrets/KEY"))?, "datas3cret");
        for attempt in ["echo x > /mnt/data/file", "echo x > /run/secrets/KEY", "rm /run/secrets/KEY"] {
            ensure!(sandbox.sh(attempt)?.code() != 0, "`{attempt}` worked");
        }
    }
    Ok(())
}

/// podman would copy what a cover is to hide into the cover.
#[test]
fn the_state_of_all_sandboxes_stays_hidden_in_a_mount_around_it() -> anyhow::Result<()> {
    for (home, _) in Podman::everyone()? {
        let data = home.path().join("data");
        let mount = format!("{}:/mnt/data", data.display());
        let sandbox = started(home, &["--mount", &mount])?;
        assert_eq!(one(sandbox.sh("ls -A /mnt/data/agent-shim; echo end"))?, "end");
        for attempt in [
            "touch /mnt/data/agent-shim/x",
            "rmdir /mnt/data/agent-shim",
            "mv /mnt/data/agent-shim /mnt/data/x",
        ] {
            ensure!(sandbox.sh(attempt)?.code() != 0, "`{attempt}` worked");
        }
    }
    Ok(())
}

/// What carries a container.
const CARRIERS: [&str; 4] = ["conmon", "supervisor", "monitor", "init"];

/// The process of this name. What podman leaves beside a container is init's parent.
fn carrier(sandbox: &Sandbox, name: &str) -> anyhow::Result<i32> {
    if name == "conmon" { parent(recorded(sandbox, "init")?) } else { recorded(sandbox, name) }
}

/// Whatever is killed, the rest behaves: an exec goes on or ends, the next start works and nothing is left.
#[test]
fn each_process_of_it_can_be_killed() -> anyhow::Result<()> {
    for (home, podman) in Podman::everyone()? {
        let sandbox = started(home, &[])?;
        for victim in CARRIERS {
            let mut shim =
                sandbox.shim(["exec", "box", "--", "sh", "-c", "while echo x; do sleep 0.01; done"]);
            let mut client =
                shim.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let mut stream = BufReader::new(client.stdout.take().context("the command's output")?);
            stream.read_line(&mut String::new())?;
            kill(Pid::from_raw(carrier(&sandbox, victim)?), Signal::SIGKILL)?;
            if victim == "init" {
                io::copy(&mut stream, &mut io::sink())?;
                ensure!(!client.wait()?.success());
                until("the sandbox ends", || Ok((sandbox.status()?["state"] == "stopped").then_some(())))?;
            } else {
                assert_eq!(one(sandbox.sh("echo alive"))?, "alive", "{victim} was killed");
                for _ in 0..20 {
                    ensure!(
                        stream.read_line(&mut String::new())? > 0,
                        "{victim} was killed: the stream ended"
                    );
                }
                sandbox.tell("stop", &[])?.success()?;
                io::copy(&mut stream, &mut io::sink())?;
                client.wait()?;
            }
            nothing_is_left(&sandbox, &podman, victim)?;
            sandbox.tell("start", &[])?.success()?;
            assert_eq!(one(sandbox.sh("echo again"))?, "again", "{victim} was killed");
        }
    }
    Ok(())
}

#[test]
fn each_process_of_it_can_be_stopped() -> anyhow::Result<()> {
    for (home, podman) in Podman::everyone()? {
        let sandbox = started(home, &[])?;
        for victim in CARRIERS {
            let pid = carrier(&sandbox, victim)?;
            kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
            until("it to be stopped", || Ok((state(pid) == Some('T')).then_some(())))?;
            for words in [&["list"][..], &["status", "box"], &["stop", "--force", "box"]] {
                let begun = Instant::now();
                sandbox.run(words)?.success()?;
                println!("{victim} stopped: {} took {} ms", words.join(" "), begun.elapsed().as_millis());
            }
            nothing_is_left(&sandbox, &podman, victim)?;
            ensure!(!is_alive(pid), "{victim} is left over");
            sandbox.tell("start", &[])?.success()?;
            assert_eq!(one(sandbox.sh("echo again"))?, "again", "{victim} was stopped");
        }
    }
    Ok(())
}

fn nothing_is_left(sandbox: &Sandbox, podman: &Podman, victim: &str) -> anyhow::Result<()> {
    until("the container to be removed", || {
        Ok((!sandbox.folder().join("engine.left").exists()).then_some(()))
    })?;
    assert_eq!(containers(podman, &sandbox.folder())?, "", "{victim}");
    Ok(())
}

fn parent(pid: i32) -> anyhow::Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("its parent")?;
    Ok(line.trim().parse()?)
}

fn recorded(sandbox: &Sandbox, process: &str) -> anyhow::Result<i32> {
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(sandbox.folder().join("run.json"))?)?;
    let pid = find(&run, process).with_context(|| format!("{process} in {run}"))?;
    Ok(i32::try_from(pid)?)
}

fn find(value: &serde_json::Value, process: &str) -> Option<i64> {
    let object = value.as_object()?;
    let own = object.get(process).and_then(|process| process["pid"].as_i64());
    own.or_else(|| object.values().find_map(|value| find(value, process)))
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_left() -> anyhow::Result<()> {
    for (mut home, podman) in Podman::everyone()? {
        let project = home.project("project")?;
        let project = project.to_str().context("a path")?.to_owned();
        let start = |home: &Home, engine: &str, image: &str, agent: &[&str]| {
            let mut args = vec!["start", "--name", "box", "--isolation", "oci", "--engine", engine];
            if !image.is_empty() {
                args.extend(["--image", image]);
            }
            args.push(&project);
            args.extend(agent);
            home.run(&args)
        };
        let agent = ["--", "cat"];
        let cases: [(&str, &str, &[&str], &str, i32); 6] = [
            // No registry listens there.
            ("podman", "127.0.0.1:1/no/such:1", &agent, "cannot get the image `127.0.0.1:1/no/such:1`", 4),
            ("podman", "UPPER//odd", &agent, "UPPER//odd", 4),
            ("podman", SILENT_IMAGE, &[], "names no command, and none was given", 4),
            ("podman", BARE_IMAGE, &["--", "sh", "-c", "true"], "does not have the agent's program", 4),
            ("podman", "", &agent, "makes containers of images", 64),
            ("docker", IMAGE, &agent, "docker", 4),
        ];
        let listed = podman.say(&["ps", "--all", "--quiet"])?;
        for (engine, image, agent, expected, code) in cases {
            let output = start(&home, engine, image, agent)?;
            ensure!(output.code() == code && output.errors().contains(expected), "{expected:?}: {output}");
            ensure!(
                home.run(["list", "--json"])?.success()?.text().trim() == "[]",
                "{expected}: a sandbox is left"
            );
        }
        drop(listed);
        // What runs the shim, and nothing else.
        let programs = home.project("programs")?;
        symlink("/usr/bin/setpriv", programs.join("setpriv"))?;
        home.variable("PATH", &programs);
        let output = start(&home, "podman", IMAGE, &agent)?;
        ensure!(output.code() == 4 && output.errors().contains("podman is not installed"), "{output}");
    }
    Ok(())
}

#[test]
fn a_launch_can_be_shown() -> anyhow::Result<()> {
    for (home, _) in Podman::everyone()? {
        let project = home.project("project")?;
        let mut args = vec!["start", "-n", "--name", "box"];
        args.extend(flags(IMAGE));
        args.extend([project.to_str().context("a path")?, "--", "cat"]);
        let output = home.run(&args)?.success()?;
        ensure!(
            output.text().contains("/podman run") && output.text().contains("--cap-drop=all"),
            "{output}"
        );
        ensure!(home.run(["list", "--json"])?.success()?.text().trim() == "[]");
    }
    Ok(())
}
