//! A sandbox from its first start to its end, as a person drives it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agent_tests::{Home, Output, Part, Sandbox, Traces, Who, finish, layer, until, until_gone};
use anyhow::ensure;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The shim, run by a person in this folder.
fn inside(home: &Home, folder: &std::path::Path, words: &[&str]) -> anyhow::Result<Output> {
    let mut shim = home.shim(words);
    shim.current_dir(folder);
    finish(shim, b"")
}

#[test]
fn start_prints_the_name_once_the_agent_runs() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        home.project("project")?;
        let words =
            ["start", "--name", "web", "--env", "host", "project", "--", "sh", "-c", "touch began; cat"];
        let output = home.run(words)?.success()?;
        ensure!(output.stdout == b"web\n" && output.is_quiet(), "{output}");
        // Init answers, and the agent was executed.
        let status = home.run(["status", "web", "--json"])?.success()?.json()?;
        ensure!(status["state"] == "running" && status["agent"]["pid"].is_u64(), "{status:#}");
        home.run(["exec", "web", "--", "true"])?.success()?;
        until("the agent's first act", || Ok(home.path().join("project/began").exists().then_some(())))?;
        home.run(["destroy", "--force", "web"])?.success()?;
    }
    Ok(())
}

#[test]
fn a_second_start_goes_on_with_home_and_work() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).flags(["-e", "KEPT=yes"]).start()?;
        sandbox.sh("echo home > ~/file; echo tmp > /tmp/file; echo work > /workspace/file")?.success()?;
        sandbox.tell("stop", &[])?.success()?;
        let output = sandbox.tell("start", &[])?.success()?;
        ensure!(output.text() == "box");
        let kept = sandbox.sh("cat ~/file /tmp/file /workspace/file; echo $KEPT")?.success()?.text();
        ensure!(kept == "home\ntmp\nwork\nyes", "{kept}");
        let status = sandbox.status()?;
        ensure!(status["starts"] == 2 && status["command"] == serde_json::json!(["cat"]), "{status:#}");
    }
    Ok(())
}

#[test]
fn a_fresh_start_discards_home_and_tmp_and_nothing_else() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        sandbox
            .sh("mkdir ~/d; echo 1 > ~/d/f; chmod 0 ~/d; touch /tmp/file; echo work > /workspace/file")?
            .success()?;
        sandbox.tell("stop", &["--force"])?.success()?;
        sandbox.tell("start", &["--fresh"])?.success()?;
        let left = sandbox.sh("ls -A ~ /tmp; cat /workspace/file")?.success()?.text();
        ensure!(!left.contains("file") && left.ends_with("work") && !left.contains("\nd\n"), "{left}");
    }
    Ok(())
}

#[test]
fn flags_of_a_later_start_replace_the_earlier_ones() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().flags(["-e", "A=1", "-e", "B=1", "--restart", "never"]).start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let policy = || -> anyhow::Result<serde_json::Value> {
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(sandbox.folder().join("sandbox.json"))?)?;
        Ok(record["restart"].clone())
    };
    sandbox.tell("start", &["-e", "B=2", "--no-network", "--", "sleep", "1000"])?.success()?;
    ensure!(sandbox.sh("echo $A$B")?.success()?.text() == "12");
    ensure!(policy()? == "never", "the policy is {}", policy()?);
    let status = sandbox.status()?;
    ensure!(status["network"] == "none" && status["command"][0] == "sleep", "{status:#}");
    Ok(())
}

#[test]
fn two_starts_at_once_make_one_sandbox() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let project = home.project("project")?;
        let start = || -> anyhow::Result<Output> {
            home.run(["start", "--name", "box", "--env", "host", &*project.to_string_lossy(), "--", "cat"])
        };
        let outputs = thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            running.into_iter().map(|one| one.join().expect("no panic")).collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut codes: Vec<i32> = outputs.iter().map(Output::code).collect();
        codes.sort_unstable();
        ensure!(codes == [0, 2, 2, 2], "{outputs:#?}");
        let list = home.run(["list", "--json"])?.success()?.json()?;
        ensure!(list.as_array().map(Vec::len) == Some(1) && list[0]["state"] == "running", "{list:#}");
        ensure!(list[0]["starts"] == 1, "{list:#}");
        home.run(["destroy", "--force", "box"])?.success()?;
        // The monitor and a machine's parts end with it, and not before it.
        until("the last processes to be gone", || Ok(Traces::of(&home)?.processes.is_empty().then_some(())))?;
    }
    Ok(())
}

#[test]
fn two_starts_at_once_of_a_stopped_sandbox() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let codes = thread::scope(|scope| {
        let running: Vec<_> = (0..3).map(|_| scope.spawn(|| sandbox.tell("start", &[]))).collect();
        let outputs = running.into_iter().map(|one| one.join().expect("no panic"));
        outputs.map(|output| Ok(output?.code())).collect::<anyhow::Result<Vec<i32>>>()
    })?;
    ensure!(codes.iter().filter(|code| **code == 0).count() == 1, "{codes:?}");
    ensure!(codes.iter().all(|code| [0, 2].contains(code)), "{codes:?}");
    ensure!(sandbox.status()?["starts"] == 2);
    Ok(())
}

#[test]
fn a_stop_is_done_once() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        let (init, monitor) = (sandbox.pid(Part::Init)?, sandbox.pid(Part::Monitor)?);
        let output = sandbox.tell("stop", &[])?.success()?;
        ensure!(output.text() == "box", "{output}");
        until_gone(init)?;
        until_gone(monitor)?;
        let status = sandbox.status()?;
        ensure!(
            status["state"] == "stopped" && status["agent"]["last_exit"]["killed_by"] == "stop",
            "{status:#}"
        );
        ensure!(status["ended"]["at"].is_string(), "{status:#}");
        sandbox.tell("stop", &[])?.exits(2)?;
    }
    Ok(())
}

#[test]
fn two_stops_at_once() -> anyhow::Result<()> {
    let sandbox =
        Sandbox::builder().agent("trap 'sleep 0.3; exit' TERM HUP; while :; do sleep 0.05; done").start()?;
    let codes = thread::scope(|scope| {
        let running: Vec<_> = (0..2).map(|_| scope.spawn(|| sandbox.tell("stop", &[]))).collect();
        let outputs = running.into_iter().map(|one| one.join().expect("no panic"));
        outputs.map(|output| Ok(output?.code())).collect::<anyhow::Result<Vec<i32>>>()
    })?;
    ensure!(codes.contains(&0) && codes.iter().all(|code| [0, 2].contains(code)), "{codes:?}");
    ensure!(sandbox.status()?["state"] == "stopped");
    Ok(())
}

/// Ten seconds of grace, and then it is killed: the longest of these tests, and the only one that waits for it.
#[test]
fn an_agent_that_does_not_want_to_end() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .agent("trap '' TERM HUP INT; (trap '' TERM HUP; exec setsid sleep 1000) & while :; do sleep 1; done")
        .start()?;
    let init = sandbox.pid(Part::Init)?;
    let begun = Instant::now();
    sandbox.tell("stop", &[])?.success()?;
    ensure!(begun.elapsed() < Duration::from_secs(25), "it took {:?}", begun.elapsed());
    until_gone(init)?;
    let exit = sandbox.status()?["agent"]["last_exit"].clone();
    ensure!(exit["signal"] == "SIGKILL" && exit["killed_by"] == "stop", "{exit:#}");
    Ok(())
}

#[test]
fn restart_of_a_stopped_one_starts_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let output = sandbox.tell("restart", &[])?.success()?;
    ensure!(output.text() == "box" && sandbox.status()?["state"] == "running");
    Ok(())
}

#[test]
fn rm_removes_it_at_its_end() -> anyhow::Result<()> {
    for who in Home::everyone() {
        for end in [&["stop", "box"][..], &["stop", "--force", "box"], &["destroy", "--force", "box"]] {
            let sandbox = Sandbox::builder().who(*who).flags(["--rm"]).start()?;
            sandbox.run(end)?.success()?;
            until("it to be removed", || Ok((!sandbox.folder().exists()).then_some(())))?;
            sandbox.tell("status", &[])?.exits(1)?;
        }
        // The end that nobody asked for is one too.
        let sandbox = Sandbox::builder().who(*who).flags(["--rm"]).start()?;
        sandbox.kill(Part::Init)?;
        until("it to be removed", || Ok((!sandbox.folder().exists()).then_some(())))?;
    }
    Ok(())
}

#[test]
fn run_ends_with_its_agent() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        home.project("project")?;
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
            let output =
                home.run(["run", "--name", "box", "--env", "host", "project", "--", "sh", "-c", script])?;
            output.exits(code)?;
            let status = home.run(["status", "box", "--json"])?.success()?.json()?;
            ensure!(
                status["state"] == "stopped" && status["agent"]["last_exit"]["status"] == code,
                "{status:#}"
            );
            home.run(["destroy", "box"])?.success()?;
        }
        let output =
            home.run(["run", "--rm", "--env", "host", "project", "--", "echo", "said"])?.success()?;
        ensure!(output.text().contains("said"), "{output}");
        ensure!(home.run(["list", "--json"])?.success()?.text() == "[]");
        ensure!(Traces::of(&home)?.processes.is_empty());
    }
    Ok(())
}

#[test]
fn the_name_may_be_left_out_inside_the_project() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let project = sandbox.project().to_owned();
    let deep = project.join("src/deep");
    fs::create_dir_all(&deep)?;
    for folder in [&project, &deep] {
        ensure!(inside(&sandbox, folder, &["exec", "--", "echo", "in"])?.success()?.text() == "in");
        ensure!(inside(&sandbox, folder, &["status", "--json"])?.success()?.json()?["name"] == "box");
        inside(&sandbox, folder, &["logs"])?.success()?;
        inside(&sandbox, folder, &["events"])?.success()?;
        inside(&sandbox, folder, &["restart"])?.success()?;
    }
    inside(&sandbox, sandbox.path(), &["status"])?.exits(1)?.complains("hint:")?;
    // Through a link too: the project is where it is.
    let link = sandbox.path().join("link");
    std::os::unix::fs::symlink(&project, &link)?;
    inside(&sandbox, &link, &["status"])?.success()?;

    inside(&sandbox, &deep, &["stop", "--force"])?.success()?;
    ensure!(inside(&sandbox, &project, &["start"])?.success()?.text() == "box");

    let more = ["start", "--name", "more", "--env", "host", ".", "--", "cat"];
    inside(&sandbox, &project, &more)?.success()?;
    let output = inside(&sandbox, &project, &["status"])?.exits(64)?;
    output.complains("box")?.complains("more")?.complains("hint:")?;
    // A project inside the project is nearer.
    inside(&sandbox, &deep, &["start", "--name", "inner", "--env", "host", ".", "--", "cat"])?.success()?;
    ensure!(inside(&sandbox, &deep, &["status", "--json"])?.success()?.json()?["name"] == "inner");
    for name in ["more", "inner"] {
        sandbox.run(["destroy", "--force", name])?.success()?;
    }
    inside(&sandbox, &project, &["destroy", "--force"])?.success()?;
    Ok(())
}

#[test]
fn a_name_is_made_of_the_folders() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = home.project("My Project")?;
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut shim = home.shim(["start", "--env", "host"]);
        shim.arg(&project).args(["--", "cat"]);
        names.push(finish(shim, b"")?.success()?.text());
    }
    ensure!(names[0].contains("project") && names[0] != names[1], "{names:?}");
    for name in names {
        home.run(["destroy", "--force", &name])?.success()?;
    }
    Ok(())
}

#[test]
fn a_start_that_is_called_off() -> anyhow::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let home = Home::new(Who::Ordinary)?;
        home.project("project")?;
        // A layer that never comes up holds the start long enough.
        home.project("bin")?;
        for program in layer().programs.iter().copied().flatten() {
            home.program(&format!("bin/{program}"), "#!/bin/sh\nexec sleep 1000\n")?;
        }
        let mut shim = home.shim(["start", "--name", "box", "--env", "host", "project", "--", "cat"]);
        shim.env("PATH", format!("{}:/usr/bin:/bin", home.path().join("bin").display()));
        let mut child = shim.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        until("the start to be under way", || {
            let list = home.run(["list", "--json"])?.success()?.json()?;
            Ok((list[0]["state"] == "starting").then_some(()))
        })?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(5), "{signal}: {status}");
        ensure!(home.run(["list", "--json"])?.success()?.text() == "[]");
        let left = Traces::of(&home)?.processes;
        ensure!(left.is_empty(), "{left:#?}");
    }
    Ok(())
}

/// What is written inside belongs to the person, and what the person wrote can be changed inside.
#[test]
fn the_project_is_the_persons() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder()
            .who(*who)
            .agent("pwd > where; mkdir folder; touch folder/file; cat")
            .start()?;
        let made = sandbox.project().join("folder/file");
        until("the agent to write", || Ok(made.exists().then_some(())))?;
        let found = fs::metadata(&made)?;
        ensure!(found.uid() == sandbox.uid(), "it belongs to {}", found.uid());
        ensure!(fs::read_to_string(sandbox.project().join("where"))? == "/workspace\n");
        sandbox.file("project/mine", b"1\n")?;
        sandbox.sh("echo 2 >> mine && rm -r folder")?.success()?;
        ensure!(fs::read_to_string(sandbox.project().join("mine"))? == "1\n2\n");
        ensure!(sandbox.sh("pwd")?.success()?.text() == "/workspace");
        // A home and a tmp of its own.
        let places = sandbox.sh("echo $HOME; [ -w ~ ] && [ -w /tmp ] && echo writable")?.success()?.text();
        ensure!(places.starts_with("/home/") && places.ends_with("writable"), "{places}");
    }
    Ok(())
}

#[test]
fn nothing_else_of_the_persons_is_visible() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        home.file("home/secret", b"secret")?;
        home.file("beside", b"secret")?;
        let sandbox = Sandbox::builder().home(home).start()?;
        let place = sandbox.path().display();
        for path in ["home/secret", "beside", "home", "data", "project", "run"] {
            sandbox.sh(&format!("ls {place}/{path}"))?.exits(2)?;
        }
        let environment = sandbox.sh("env")?.success()?.text();
        ensure!(!environment.contains(&place.to_string()), "{environment}");
        let found = sandbox.sh("ls -A ~ /home /root /tmp 2> /dev/null")?.text();
        ensure!(!found.contains("secret") && !found.contains("as-"), "{found}");
    }
    Ok(())
}

/// A person without a terminal, a shell without anything: the command still starts.
#[test]
fn an_empty_environment_is_enough() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    home.project("project")?;
    let mut shim: Command = home.shim(["start", "--name", "box", "--env", "host", "project", "--", "cat"]);
    for name in ["LANG", "TMPDIR", "XDG_RUNTIME_DIR", "HOME"] {
        shim.env_remove(name);
    }
    finish(shim, b"")?.success()?;
    home.run(["destroy", "--force", "box"])?.success()?;
    Ok(())
}
