//! A machine that lacks something, or runs out of it: said with what to do, exit code 4 where it is the machine's,
//! and nothing lost.

use std::{fs, process::Command};

use agent_tests::{Home, Output, Sandbox, Traces, Who, agent_shim, finish};
use anyhow::{Context, ensure};

const START: [&str; 8] = ["start", "--name", "box", "--env", "host", "project", "--", "cat"];

fn person(who: Who) -> anyhow::Result<Home> {
    let home = Home::new(who)?;
    home.project("project")?;
    Ok(home)
}

/// Nothing of the sandbox is there.
fn nothing_was_made(home: &Home) -> anyhow::Result<()> {
    ensure!(home.run(["list", "--json"])?.success()?.text() == "[]");
    let entries: Vec<_> = fs::read_dir(home.data().join("agents")).into_iter().flatten().flatten().collect();
    ensure!(entries.is_empty(), "{entries:?}");
    let processes = Traces::of(home)?.processes;
    ensure!(processes.is_empty(), "{processes:#?}");
    Ok(())
}

#[test]
fn bwrap_is_missing() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = person(*who)?;
        for (subcommand, code) in [("start", 4), ("run", 125)] {
            let mut shim = home.shim([&[subcommand], &START[1..]].concat());
            shim.env("PATH", "/nowhere:/nowhere/else");
            let output = with_that_path(&shim)?.exits(code)?;
            output
                .complains("bubblewrap is not installed")?
                .complains("/nowhere")?
                .complains("hint: install")?;
            nothing_was_made(&home)?;
        }
    }
    Ok(())
}

/// An empty PATH hides the program that changes the user too, so that one is named.
fn with_that_path(shim: &Command) -> anyhow::Result<Output> {
    let program = shim.get_program().to_owned();
    let mut named = Command::new(if program == "setpriv" { "/usr/bin/setpriv".into() } else { program });
    named.args(shim.get_args()).env_clear();
    for (name, value) in shim.get_envs() {
        if let Some(value) = value {
            named.env(name, value);
        }
    }
    if let Some(folder) = shim.get_current_dir() {
        named.current_dir(folder);
    }
    finish(named, b"")
}

#[test]
fn bwrap_is_too_old_or_does_not_work() -> anyhow::Result<()> {
    let old = "#!/bin/sh\n[ \"$1\" = --version ] && { echo bubblewrap 0.4.1; exit; }\n\
               echo 'bwrap: Unknown option --disable-userns' >&2; exit 1\n";
    let denied = "#!/bin/sh\necho 'bwrap: No permissions to create new namespace, likely because the kernel does \
                  not allow non-privileged user namespaces.' >&2; exit 1\n";
    let broken = "#!/bin/sh\necho 'bwrap: something else' >&2; exit 1\n";
    let silent = "#!/bin/sh\nexit 0\n";
    let crashing = "#!/bin/sh\nkill -SEGV $$\n";
    for (script, code, about) in [
        (old, 4, &["0.4.1 is too old", "0.8.0", "hint: upgrade"][..]),
        (denied, 4, &["user namespaces", "hint:"]),
        (broken, 3, &["something else"]),
        (silent, 3, &["bwrap"]),
        (crashing, 3, &["bwrap"]),
    ] {
        // Root's bwrap is executed where /tmp is another one, and the test's cannot be seen.
        let home = person(Who::Ordinary)?;
        home.project("bin")?;
        home.program("bin/bwrap", script)?;
        let mut shim = home.shim(START);
        shim.env("PATH", format!("{}:/usr/bin:/bin", home.path().join("bin").display()));
        let mut output = finish(shim, b"")?.exits(code)?;
        for words in about {
            output = output.complains(words)?;
        }
        nothing_was_made(&home)?;
    }
    Ok(())
}

/// Inside a user namespace that allows no further one, as in many containers.
#[test]
fn there_are_no_user_namespaces() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let bwrap = ["--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--"];
    let shim = agent_shim().to_string_lossy().into_owned();
    let outer = home.command("bwrap", [&bwrap[..], &[&shim], &START].concat());
    let output = finish(outer, b"")?.exits(4)?.complains("user namespaces are not available")?;
    output.complains("hint:")?;
    nothing_was_made(&home)
}

/// The same through the count, which is how some administrators switch them off.
#[test]
fn user_namespaces_are_switched_off() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let shim = agent_shim().to_string_lossy().into_owned();
    let inner = ["-r", "sh", "-c", script, "sh", &shim];
    // A namespace of the test's own: the count of the host stays as it is.
    let outer = home.command("unshare", [&inner[..], &START].concat());
    let output = finish(outer, b"")?;
    ensure!(!output.errors().contains("unshare failed"), "{output}");
    output.exits(4)?.complains("max_user_namespaces")?.complains("hint:")?;
    nothing_was_made(&home)
}

#[test]
fn init_is_missing() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let alone = home.project("bin")?.join("agent-shim");
    agent_tests::copy_program(agent_shim(), &alone)?;
    let mut shim = home.command(&alone, START);
    shim.env("AGENT_SHIM_INIT", "/no/such/init");
    finish(shim, b"")?.exits(4)?.complains("agent-init")?.complains("hint:")?;
    nothing_was_made(&home)
}

/// Limits are kept or refused, never forgotten.
#[test]
fn limits_that_this_machine_cannot_keep() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    for flags in [["--memory", "512M"], ["--cpus", "1"]] {
        let output = home.run([&START[..3], &flags, &START[3..]].concat())?;
        if output.code() == 0 {
            // Delegated control groups, or a machine: the limit is there, and other tests look at what it does.
            home.run(["destroy", "--force", "box"])?.success()?;
            continue;
        }
        output.exits(4)?.complains("cgroup")?.complains(flags[0].trim_start_matches('-'))?;
        nothing_was_made(&home)?;
    }
    Ok(())
}

/// A data folder on a file system with so many kilobytes, in a mount namespace of the test's own.
fn on_a_small_disk(home: &Home, kilobytes: u32, script: &str) -> anyhow::Result<Output> {
    let data = home.path().join("data");
    let mount = format!(
        "mount -t tmpfs -o size={kilobytes}k,mode=0700,uid={0},gid={0} tmpfs {1} && \
         exec setpriv --reuid {0} --regid {0} --clear-groups sh -c '{script}'",
        home.uid(),
        data.display()
    );
    let mut outer = Command::new("unshare");
    outer.args(["-m", "sh", "-c", &mount]).env_clear().current_dir(home.path());
    let shim = home.shim(["list"]);
    for (name, value) in shim.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer.env("SHIM", agent_shim());
    finish(outer, b"")
}

/// At every fill of the disk a start works or is undone, says why, and the next one works after space was made.
#[test]
fn the_disk_is_full() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can mount a small disk");
        return Ok(());
    }
    let mut refused = 0;
    for who in Home::everyone() {
        for free_pages in [0, 1, 2, 3, 4, 6, 9] {
            let home = person(*who)?;
            let script = format!(
                "mkdir -m 700 -p data/agent-shim/agents
                 head -c 1M /dev/zero > data/fill 2> /dev/null
                 truncate -s $(( $(stat -c %s data/fill) - {free_pages} * 4096 )) data/fill
                 $SHIM start --name box --env host project -- cat; echo code $?
                 $SHIM list --json; rm data/fill; ls data/agent-shim/agents | tr \"\\n\" \" \"
                 $SHIM list --quiet | grep box > /dev/null || $SHIM start --name box --env host project -- cat
                 $SHIM exec box -- echo works; $SHIM destroy --force box; ls data/agent-shim/agents"
            );
            let output = on_a_small_disk(&home, 64, &script)?.success()?;
            let text = output.text();
            if text.contains("code 3") {
                refused += 1;
                ensure!(text.contains("[]"), "with {free_pages} pages: {output}");
                ensure!(output.errors().contains("No space left"), "with {free_pages} pages: {output}");
            } else {
                ensure!(text.contains("code 0"), "with {free_pages} pages: {output}");
            }
            ensure!(text.contains("works") && text.ends_with("box"), "with {free_pages} pages: {output}");
            let left = Traces::of(&home)?.processes;
            ensure!(left.is_empty(), "with {free_pages} pages: {left:#?}");
        }
    }
    ensure!(refused > 0, "no start was refused, so nothing was tested");
    Ok(())
}

/// A sandbox that runs while the disk fills goes on; what could not be written is said to be missing.
#[test]
fn the_disk_fills_while_it_runs() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can mount a small disk");
        return Ok(());
    }
    let home = person(Who::Myself)?;
    let script = "$SHIM start --name box --env host project -- cat
        head -c 1M /dev/zero > data/fill 2> /dev/null
        i=0; while [ $((i += 1)) -le 30 ]; do $SHIM exec box -- true || echo broken; done
        $SHIM list --json > /dev/null || echo no list; rm data/fill; sleep 0.2
        $SHIM exec box -- true; sleep 0.2; $SHIM events box --json; $SHIM stop box; $SHIM destroy box
        ls data/agent-shim/agents";
    let output = on_a_small_disk(&home, 128, script)?.success()?;
    let text = output.text();
    ensure!(!text.contains("broken") && !text.contains("no list"), "{output}");
    let events: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading the events of {output}"))?;
    let numbers: Vec<_> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    ensure!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] < pair[1]), "{output}");
    ensure!(events.iter().any(|event| event["event"] == "events-lost"), "{output}");
    ensure!(events.last().is_some_and(|event| event["event"] == "exec-exited"), "{output}");
    ensure!(text.ends_with("box\nbox"), "{output}");
    Ok(())
}

/// One that cannot be written to is left as it is.
#[test]
fn the_data_folder_is_read_only() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can mount");
        return Ok(());
    }
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let data = sandbox.path().join("data");
    let read_only = |words: &str| -> anyhow::Result<Output> {
        let script = format!("mount --bind -o ro {0} {0} && exec $SHIM {words}", data.display());
        let mut outer = Command::new("unshare");
        outer.args(["-m", "sh", "-c", &script]).env_clear().current_dir(sandbox.path());
        for (name, value) in sandbox.shim(["list"]).get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        outer.env("SHIM", agent_shim());
        finish(outer, b"")
    };
    let listed = read_only("list --json")?.success()?.json()?;
    ensure!(listed[0]["state"] == "stopped", "{listed:#}");
    for words in ["start box", "destroy box"] {
        read_only(words)?.exits(3)?.complains("Read-only file system")?;
    }
    let new = read_only("start --name new --env host project -- cat")?.exits(4)?;
    new.complains("Read-only file system")?.complains("data-folder-not-writable")?;
    sandbox.tell("start", &[])?.success()?;
    Ok(())
}
