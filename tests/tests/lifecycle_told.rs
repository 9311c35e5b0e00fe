//! What is told about a sandbox, to people and to programs.

use std::fs;

use agent_tests::{Home, Sandbox, Traces, Who, finish, layer, until};
use anyhow::{Context, ensure};
use serde_json::Value;

#[test]
fn list_and_status_have_one_shape() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).agent("echo up; exec cat").start()?;
        sandbox.wait_for_event("unit-ready")?;
        let status = sandbox.status()?;
        shape(&status)?;
        ensure!(status["state"] == "running" && status["isolation"] == layer().name, "{status:#}");
        ensure!(status["project"] == sandbox.project().to_string_lossy().as_ref(), "{status:#}");
        ensure!(
            status["agent"]["state"] == "running" && status["agent"]["last_exit"].is_null(),
            "{status:#}"
        );
        let list = sandbox.run(["list", "--json"])?.success()?.json()?;
        ensure!(keys(&list[0]) == keys(&status) && keys(&list[0]["agent"]) == keys(&status["agent"]));
        ensure!(list[0]["name"] == "box" && list[0]["created_at"] == status["created_at"], "{list:#}");

        sandbox.tell("stop", &["--force"])?.success()?;
        let stopped = sandbox.status()?;
        shape(&stopped)?;
        ensure!(keys(&stopped) == keys(&status), "{stopped:#}");
        ensure!(stopped["state"] == "stopped" && stopped["agent"]["state"] == "exited", "{stopped:#}");
        ensure!(
            stopped["agent"]["pid"].is_null() && stopped["agent"]["last_exit"].is_object(),
            "{stopped:#}"
        );
        ensure!(stopped["created_at"] == status["created_at"], "{stopped:#}");
    }
    Ok(())
}

#[test]
fn an_empty_list_is_one() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    ensure!(home.run(["list", "--json"])?.success()?.json()? == serde_json::json!([]));
    home.run(["list"])?.success()?;
    ensure!(!home.data().exists(), "a question made a folder");
    Ok(())
}

#[test]
fn events_are_objects_with_number_and_time() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.sh("exit 3")?.exits(3)?;
    sandbox.wait_for_event("exec-exited")?;
    sandbox.tell("stop", &[])?.success()?;
    sandbox.tell("start", &[])?.success()?;
    sandbox.wait_for("the second start", |event| {
        event["event"] == "unit-started" && event["seq"].as_u64() > Some(9)
    })?;
    let text = sandbox.tell("events", &["--json"])?.success()?.text();
    let mut last = 0;
    let mut names = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let seq = event["seq"].as_u64().context("no seq")?;
        ensure!(seq == last + 1, "{seq} behind {last}: {text}");
        last = seq;
        ensure!(is_rfc3339(&event["time"]), "{line}");
        names.push(event["event"].as_str().context("no name")?.to_owned());
    }
    for name in [
        "sandbox-starting",
        "booted",
        "unit-started",
        "exec-started",
        "exec-exited",
        "stopping",
        "unit-exited",
        "ended",
        "sandbox-stopped",
    ] {
        ensure!(names.iter().any(|have| have == name), "no {name} in {names:?}");
    }
    let after = sandbox.tell("events", &["--json", "--after", &(last - 2).to_string()])?.success()?.text();
    ensure!(after.lines().count() == 2, "{after}");
    Ok(())
}

#[test]
fn exits_are_told_alike_everywhere() -> anyhow::Result<()> {
    let sandbox =
        Sandbox::builder().flags(["--restart", "never"]).agent("ulimit -c 0; kill -SEGV $$").start()?;
    let event = sandbox.wait_for_event("unit-exited")?["exit"].clone();
    let status = until("the exit in the status", || {
        Ok(Some(sandbox.status()?["agent"]["last_exit"].clone()).filter(|exit| !exit.is_null()))
    })?;
    ensure!(event == status, "{event:#} {status:#}");
    for field in [
        "status",
        "code",
        "signal",
        "core_dumped",
        "killed_by",
        "out_of_memory",
        "output_truncated",
        "ran_ms",
        "at",
    ] {
        ensure!(status.get(field).is_some(), "no {field} in {status:#}");
    }
    ensure!(
        status["signal"] == "SIGSEGV" && status["status"] == 139 && status["core_dumped"] == false,
        "{status:#}"
    );
    sandbox.tell("stop", &[])?.success()?;
    let kept = sandbox.status()?["agent"]["last_exit"].clone();
    ensure!(kept == event, "after the stop: {kept:#}");
    Ok(())
}

#[test]
fn logs_are_what_the_agent_wrote() -> anyhow::Result<()> {
    let script = "printf 'one\\ntwo\\n\\033[31mred\\033[0m\\033]0;title\\007\\n'; exec cat";
    let sandbox = Sandbox::builder().agent(script).start()?;
    until("the output in the log", || {
        Ok(sandbox.tell("logs", &[])?.success()?.text().contains("red").then_some(()))
    })?;
    let output = sandbox.tell("logs", &[])?.success()?;
    ensure!(!output.stdout.contains(&0x1b) && !output.stdout.contains(&0x07), "{output}");
    ensure!(output.text().replace('\r', "") == "one\ntwo\nred", "{output}");
    let raw = sandbox.tell("logs", &["--raw"])?.success()?;
    ensure!(raw.text().contains("\x1b[31mred"), "{raw}");
    ensure!(sandbox.tell("logs", &["--tail", "1"])?.success()?.text().trim() == "red");
    sandbox.tell("logs", &["--unit", "nothing"])?.exits(1)?;
    Ok(())
}

#[test]
fn a_dry_run_shows_everything_and_does_nothing() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        home.project("project")?;
        let start = ["--name", "box", "--env", "host", "project", "--", "my-agent", "--flag"];
        for subcommand in ["start", "run"] {
            let shown = home.run([&[subcommand, "-n"], &start[..]].concat())?.success()?.text();
            let program = layer().programs[0].iter().any(|program| shown.contains(program));
            ensure!(program && shown.contains("/workspace"), "no launch in {shown}");
            let json = home.run([&[subcommand, "-n", "--json"], &start[..]].concat())?.success()?.json()?;
            ensure!(json["spec"]["agent"]["argv"] == serde_json::json!(["my-agent", "--flag"]), "{json:#}");
            ensure!(json["plan"].is_object() && json["record"]["name"] == "box", "{json:#}");
        }
        let list = home.run(["list", "--json"])?.success()?.text();
        let agents = home.data().join("agents");
        ensure!(list == "[]" && fs::read_dir(agents).map_or(0, Iterator::count) == 0, "{list}");
        ensure!(Traces::of(&home)?.processes.is_empty());
    }
    Ok(())
}

#[test]
fn dry_runs_of_what_is_there_change_nothing() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // That the agent got somewhere may still come.
    let about_words = || -> anyhow::Result<Vec<_>> {
        let is_agents = |event: &Value| ["unit-ready", "active"].iter().any(|name| event["event"] == *name);
        Ok(sandbox.events()?.into_iter().filter(|event| !is_agents(event)).collect())
    };
    let before = about_words()?;
    for words in [
        &["stop", "-n", "box"][..],
        &["stop", "-n", "--force", "box"],
        &["restart", "-n", "box"],
        &["destroy", "-n", "--force", "box"],
        &["exec", "-n", "box", "--", "touch", "/workspace/made"],
        &["attach", "-n", "box"],
    ] {
        let output = sandbox.run(words)?.success()?;
        ensure!(output.text().contains("box") && output.text().contains("would"), "{output}");
    }
    ensure!(about_words()? == before && !sandbox.project().join("made").exists());
    sandbox.tell("stop", &["--force"])?.success()?;
    let record = fs::read(sandbox.folder().join("sandbox.json"))?;
    sandbox.sh("true")?.exits(125)?;
    sandbox.run(["start", "-n", "-e", "NEW=1", "--fresh", "box"])?.success()?;
    ensure!(sandbox.status()?["state"] == "stopped");
    ensure!(fs::read(sandbox.folder().join("sandbox.json"))? == record, "a dry run changed the record");
    Ok(())
}

#[test]
fn debug_prints_the_launch_that_is_made() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    home.project("project")?;
    let output =
        home.run(["start", "-d", "--name", "box", "--env", "host", "project", "--", "cat"])?.success()?;
    let program = layer().programs[0].iter().any(|program| output.errors().contains(program));
    ensure!(output.text() == "box" && program, "{output}");
    if layer().name != "bwrap" {
        // A launcher of ours is the layer's process there, and the tool that is shown is its child.
        return Ok(());
    }
    let run: Value = serde_json::from_slice(&fs::read(home.data().join("agents/box/run.json"))?)?;
    let bwrap = run["supervisor"]["pid"].as_i64().context("bwrap's pid")?;
    let real = fs::read(format!("/proc/{bwrap}/cmdline"))?;
    let printed = output.errors().replace(['\'', '\\', '\n'], " ");
    for word in real.split(|byte| *byte == 0).filter(|word| !word.is_empty()) {
        let word = String::from_utf8_lossy(word);
        ensure!(printed.contains(&*word), "{word} of the real launch is not in {output}");
    }
    home.run(["destroy", "--force", "box"])?.success()?;
    Ok(())
}

#[test]
fn variables_are_set_for_everything_inside() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let file = home.file("vars", b"# a comment\n\nA=from file\nexport B=b=b\nC=\"quoted\"\n")?;
    let flags = ["--env-file", &*file.to_string_lossy(), "-e", "A=from flag", "-e", "D="].map(str::to_owned);
    let sandbox = Sandbox::builder()
        .home(home)
        .flags(flags)
        .agent("echo \"$A|$B|$C|${D-unset}\" > vars; cat")
        .start()?;
    let expected = "from flag|b=b|\"quoted\"|";
    ensure!(sandbox.sh("echo \"$A|$B|$C|${D-unset}\"")?.success()?.text() == expected);
    let told = until("the agent's words", || {
        Ok(fs::read_to_string(sandbox.project().join("vars")).ok().filter(|t| !t.is_empty()))
    })?;
    ensure!(told.trim_end() == expected, "{told}");
    let output =
        sandbox.run(["exec", "-e", "A=for this one", "box", "--", "sh", "-c", "echo $A"])?.success()?;
    ensure!(output.text() == "for this one");
    Ok(())
}

/// A secret is a file that can be read and not written, and its content is nowhere else.
#[test]
fn a_secret_is_a_file_and_nothing_else() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let file = home.file("key", b"xyzzy-plugh")?;
        let flag = format!("api={}", file.display());
        let sandbox = Sandbox::builder().home(home).flags(["--secret", &flag]).start()?;
        ensure!(sandbox.sh("cat /run/secrets/api")?.success()?.text() == "xyzzy-plugh");
        ensure!(sandbox.sh("echo x > /run/secrets/api")?.code() != 0);
        ensure!(sandbox.sh("rm /run/secrets/api")?.code() != 0);
        let seen = sandbox.sh("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null; env")?.text();
        ensure!(!seen.contains("xyzzy"), "{seen}");
        for entry in fs::read_dir(sandbox.folder())?.flatten().filter(|entry| entry.path().is_file()) {
            let content = fs::read(entry.path())?;
            ensure!(!String::from_utf8_lossy(&content).contains("xyzzy"), "{}", entry.path().display());
        }
        for process in Traces::of(&sandbox)?.processes {
            ensure!(!process.contains("xyzzy"), "{process}");
        }
    }
    Ok(())
}

#[test]
fn mounts_are_writable_or_not() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let data = home.project("data folder")?;
        let file = home.file("data folder/file", b"1\n")?;
        let flags = [
            format!("{}:/mnt/rw", data.display()),
            format!("{}:/mnt/ro:ro", data.display()),
            format!("{}:/mnt/one:ro", file.display()),
        ];
        let flags = flags.into_iter().flat_map(|mount| ["--mount".to_owned(), mount]);
        let sandbox = Sandbox::builder().home(home).flags(flags).start()?;
        sandbox.sh("echo 2 >> /mnt/rw/file")?.success()?;
        ensure!(fs::read_to_string(&file)? == "1\n2\n");
        for write in ["echo 3 > /mnt/ro/file", "touch /mnt/ro/new", "rm /mnt/ro/file", "echo 3 > /mnt/one"] {
            ensure!(sandbox.sh(write)?.code() != 0, "{write}");
        }
        ensure!(sandbox.sh("cat /mnt/ro/file /mnt/one")?.success()?.text() == "1\n2\n1\n2");
    }
    Ok(())
}

#[test]
fn help_and_version_are_no_errors() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    for subcommand in [
        "run",
        "start",
        "attach",
        "exec",
        "stop",
        "restart",
        "destroy",
        "list",
        "status",
        "logs",
        "events",
        "completions",
    ] {
        let output = home.run([subcommand, "--help"])?.success()?;
        ensure!(output.text().contains("Usage: agent-shim") && output.stderr.is_empty(), "{output}");
    }
    ensure!(home.run(["--version"])?.success()?.text().starts_with("agent-shim "));
    ensure!(!home.data().exists());
    Ok(())
}

/// Whoever stops reading our output is no error, and gets no complaint.
#[test]
fn a_reader_that_goes_away() -> anyhow::Result<()> {
    // What is written before anybody reads it can be more than init keeps.
    let agent = "until [ -e go ]; do sleep 0.01; done; seq 200000; cat";
    let sandbox = Sandbox::builder().agent(agent).start()?;
    sandbox.file("project/go", b"")?;
    until("a long log", || Ok((sandbox.tell("logs", &[])?.stdout.len() > 500_000).then_some(())))?;
    let shim = agent_tests::agent_shim().to_string_lossy().into_owned();
    let shell = sandbox.command("sh", ["-c", &format!("{shim} logs box | head -1")]);
    let output = finish(shell, b"")?.success()?;
    ensure!(output.text().trim() == "1" && output.stderr.is_empty(), "{output}");
    Ok(())
}

fn shape(view: &Value) -> anyhow::Result<()> {
    for field in ["name", "state", "isolation", "project"] {
        ensure!(view[field].is_string(), "{field} of {view:#}");
    }
    for field in ["created_at", "started_at"] {
        ensure!(is_rfc3339(&view[field]), "{field} of {view:#}");
    }
    ensure!(view["agent"]["state"].is_string() && view["agent"]["restarts"].is_u64(), "{view:#}");
    for field in ["pid", "last_exit"] {
        ensure!(view["agent"].get(field).is_some(), "agent.{field} of {view:#}");
    }
    Ok(())
}

fn keys(value: &Value) -> Vec<&String> {
    value.as_object().into_iter().flat_map(serde_json::Map::keys).collect()
}

fn is_rfc3339(value: &Value) -> bool {
    // 2026-01-31T23:59:59.000Z
    let pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
    let text = value.as_str().unwrap_or_default();
    text.len() == pattern.len()
        && text
            .bytes()
            .zip(pattern.bytes())
            .all(|(have, want)| if want == b'd' { have.is_ascii_digit() } else { have == want })
}
