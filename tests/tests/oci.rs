//! What is special about containers: two runtimes, the lack of both, and commands that can be typed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use agent_tests::{Home, Part, Sandbox, Traces, Who, finish, skip, until, until_gone};
use anyhow::{Context, ensure};

const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Everything that is installed, but of the runtimes this one alone. `None`, said and counted, where it is not there.
fn only_with(home: &Home, runtime: Option<&str>) -> anyhow::Result<Option<String>> {
    let folder = home.path().join("bin");
    fs::create_dir(&folder)?;
    let mut found = runtime.is_none();
    for place in ["/usr/local/bin", "/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_runtime = RUNTIMES.iter().any(|one| name == *one);
            if is_runtime && Some(name.to_string_lossy().as_ref()) != runtime {
                continue;
            }
            found |= is_runtime;
            // The first one counts, as in PATH.
            let _ = symlink(entry.path(), folder.join(name));
        }
    }
    if !found {
        skip(&format!("{} is not installed", runtime.unwrap_or("a runtime")));
    }
    Ok(found.then(|| folder.display().to_string()))
}

fn container(who: Who, runtime: &str) -> anyhow::Result<Option<Sandbox>> {
    let mut home = Home::new(who)?;
    let Some(path) = only_with(&home, Some(runtime))? else { return Ok(None) };
    home.variable("PATH", path);
    home.variable("AGENT_SHIM_ISOLATION", "oci");
    Sandbox::builder().home(home).start().map(Some)
}

/// The same inside, whoever made it and for whom.
#[test]
fn each_runtime_makes_the_same_container() -> anyhow::Result<()> {
    for who in Home::everyone() {
        for runtime in RUNTIMES {
            let Some(sandbox) = container(*who, runtime)? else { continue };
            ensure!(sandbox.status()?["isolation"] == "oci");
            let found = sandbox.sh("id -u; id -g; cat /proc/self/uid_map; grep -c . /proc/self/gid_map")?;
            let words: Vec<String> =
                found.success()?.text().split_ascii_whitespace().map(str::to_owned).collect();
            ensure!(
                words[..3] == ["1000", "1000", "1000"] && words[4..] == ["1", "1"],
                "{runtime}: {words:?}"
            );
            let status =
                sandbox.sh("grep -E '^(Cap|NoNewPrivs|Seccomp_filters)' /proc/1/status /proc/self/status")?;
            for line in status.success()?.text().lines() {
                let value = line.rsplit('\t').next().unwrap_or_default();
                let closed = if line.contains("Cap") {
                    value.bytes().all(|digit| digit == b'0')
                } else {
                    value == if line.contains("NoNewPrivs") { "1" } else { "2" }
                };
                ensure!(closed, "{runtime}: {line}");
            }
            let written = sandbox.sh("touch /x /usr/x /etc/x /dev/x /run/x 2>&1 | grep -c 'Read-only'")?;
            ensure!(written.text() == "5", "{runtime}: {written}");
            sandbox.sh("echo work > /workspace/file; echo home > ~/file; echo tmp > /tmp/file")?.success()?;
            sandbox.kill(Part::Init)?;
            sandbox.tell("start", &[])?.success()?;
            ensure!(
                sandbox.sh("cat /workspace/file ~/file /tmp/file")?.success()?.text() == "work\nhome\ntmp"
            );
        }
    }
    Ok(())
}

/// Whatever of ours is killed, a runtime's container goes on, and ends when it is told to.
#[test]
fn each_runtimes_container_outlives_its_launcher() -> anyhow::Result<()> {
    for runtime in RUNTIMES {
        let Some(sandbox) = container(Who::Ordinary, runtime)? else { continue };
        let init = sandbox.pid(Part::Init)?;
        for part in [Part::Layer, Part::Monitor] {
            sandbox.kill(part)?;
            ensure!(sandbox.sh("echo on")?.success()?.text() == "on", "{runtime} without {part:?}");
        }
        sandbox.tell("stop", &[])?.success()?;
        until_gone(init)?;
        until("nothing to be left", || Ok(Traces::of(&sandbox)?.processes.is_empty().then_some(())))?;
    }
    Ok(())
}

/// The attacker's program finds every way closed that it knows, whoever made the container: the other tests of this kind have the
/// runtime that is taken where both are there.
#[test]
fn each_runtimes_container_is_closed() -> anyhow::Result<()> {
    for who in Home::everyone() {
        for runtime in RUNTIMES {
            let Some(sandbox) = container(*who, runtime)? else { continue };
            agent_tests::copy_program(
                Path::new(env!("CARGO_BIN_EXE_probe")),
                &sandbox.project().join("probe"),
            )?;
            fs::set_permissions(sandbox.project().join("probe"), fs::Permissions::from_mode(0o755))?;
            for table in ["containers", "table"] {
                let output = sandbox.run(["exec", "box", "--", "/workspace/probe", table])?.success()?;
                let text = output.text();
                let (first, lines) = text.split_once('\n').context("no attempts")?;
                ensure!(first == format!("attempts {}", lines.lines().count()), "{output}");
                let open: Vec<_> =
                    lines.lines().filter(|line| line.split('\t').nth(1) != Some("closed")).collect();
                ensure!(open.is_empty(), "{runtime} as {who:?}: {open:#?}");
            }
            // Init is as it was, whatever was tried on it.
            ensure!(sandbox.sh("echo on")?.success()?.text() == "on", "{runtime}");
        }
    }
    Ok(())
}

/// Nothing of the runtime is in what an exec or the agent gets, and nothing of it runs any more.
#[test]
fn no_runtime_is_left_in_a_container() -> anyhow::Result<()> {
    for runtime in RUNTIMES {
        let Some(sandbox) = container(Who::Ordinary, runtime)? else { continue };
        let names = sandbox.sh("cat /proc/[0-9]*/comm")?.text();
        ensure!(!names.contains(runtime), "{names}");
        let processes = Traces::of(&sandbox)?.processes;
        let ours = processes.iter().filter(|one| one.contains(&format!("/{runtime} ")));
        ensure!(ours.count() == 0, "{processes:#?}");
    }
    Ok(())
}

#[test]
fn without_a_runtime_it_is_said_what_to_do() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let path = only_with(&home, None)?.unwrap_or_default();
    home.variable("PATH", path);
    home.project("project")?;
    let before = Traces::of(&home)?;
    let words = ["start", "--isolation", "oci", "--name", "box", "--env", "host", "project", "--", "cat"];
    let output = home.run(words)?.exits(4)?;
    output.complains("no runtime for containers is installed")?.complains("hint:")?.complains("crun")?;
    ensure!(home.run(["list", "--json"])?.success()?.text() == "[]");
    ensure!(Traces::of(&home)?.processes == before.processes);
    Ok(())
}

/// A runtime that fails is quoted, and nothing is left.
#[test]
fn what_a_runtime_says_when_it_fails_is_passed_on() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    home.project("project")?;
    home.project("bin")?;
    home.program("bin/crun", "#!/bin/sh\necho 'the moon is not right' >&2\nexit 1\n")?;
    home.variable("PATH", format!("{}:/usr/bin:/bin", home.path().join("bin").display()));
    let words = ["start", "--isolation", "oci", "--name", "box", "--env", "host", "project", "--", "cat"];
    home.run(words)?.exits(3)?.complains("crun failed: the moon is not right")?;
    home.program("bin/crun", "#!/bin/sh\nkill -9 $$\n")?;
    home.run(words)?.exits(3)?.complains("killed by signal 9")?;
    ensure!(home.run(["list", "--json"])?.success()?.text() == "[]");
    Ok(())
}

/// `start -n` can be typed: init comes up in the container, and finds that nobody has given it a spec.
#[test]
fn what_is_shown_can_be_typed() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    if !Path::new("/usr/bin/crun").exists() {
        skip("crun is not installed");
        return Ok(());
    }
    home.project("project")?;
    let words =
        ["start", "-n", "--isolation", "oci", "--name", "box", "--env", "host", "project", "--", "cat"];
    let shown = home.run(words)?.success()?.text();
    for folder in ["tmp", "home"] {
        home.project(&format!("data/agent-shim/agents/box/{folder}"))?;
    }
    for above in ["data/agent-shim/agents/box", "data/agent-shim/agents", "data/agent-shim"] {
        home.project(above)?;
    }
    let script = home.file("script", shown.as_bytes())?;
    let line = format!("exec 2>&1 3< /dev/null 4< /dev/null; bash {}; echo ended $?", script.display());
    let output = finish(home.command("bash", ["-c", &format!("({line}) > said")]), b"")?.success()?;
    let said = home.path().join("said");
    let said = until("init's words", || {
        let text = fs::read_to_string(&said).unwrap_or_default();
        Ok(text.contains("agent-init: ").then_some(text))
    })?;
    ensure!(said.contains("agent-init: error: the spec cannot be read"), "{said} {output}");
    ensure!(said.contains("ended 0"), "{said}");
    until("nothing to be left", || Ok(Traces::of(&home)?.processes.is_empty().then_some(())))
}
