//! What cannot be done is refused with a reason, something to do about it and the right exit code, and leaves nothing.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use agent_tests::{Home, Output, Sandbox, Traces, Who, finish};
use anyhow::ensure;
use serde_json::Value;

/// `start` and `run` with the same words behind them; `run` has the codes of what it runs.
const BOTH: [&str; 2] = ["start", "run"];

/// Runs the shim in a person's project, and looks that everything is as it was.
fn refused(home: &Home, words: &[&str]) -> anyhow::Result<Output> {
    let before = Traces::of(home)?;
    let output = home.run(words)?;
    let mut after = Traces::of(home)?;
    // The place for all sandboxes may be made by the first that is asked for.
    for folder in [home.data(), home.data().join("agents")] {
        let is_it = |entry: &String| Path::new(entry.split(' ').next().unwrap_or_default()) == folder;
        if !before.files.iter().any(is_it) {
            after.files.retain(|entry| !is_it(entry));
        }
    }
    ensure!(after == before, "before: {before:#?}\nafter: {after:#?}\n{output}");
    ensure!(output.errors().starts_with("error: "), "{output}");
    ensure!(output.stdout.is_empty(), "{output}");
    Ok(output)
}

fn person(who: Who) -> anyhow::Result<Home> {
    let home = Home::new(who)?;
    home.project("project")?;
    Ok(home)
}

#[test]
fn an_unknown_sandbox() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    for subcommand in ["stop", "restart", "destroy", "status", "logs", "events", "attach"] {
        refused(&home, &[subcommand, "nobody"])?.exits(1)?.complains("`nobody`")?.complains("hint:")?;
    }
    refused(&home, &["exec", "nobody", "--", "true"])?.exits(125)?.complains("`nobody`")?;
    refused(&home, &["start", "nobody"])?.exits(1)?.complains("`nobody`")?.complains("hint:")?;
    refused(&home, &["run", "nobody"])?.exits(125)?.complains("`nobody`")?;
    Ok(())
}

#[test]
fn a_bad_name() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let long = "x".repeat(200);
    for name in ["UPPER", "a b", "../up", ".", "", "-flag", "a/b", "tab\there", "ünder", &long] {
        let name = format!("--name={name}");
        for subcommand in BOTH {
            refused(&home, &[subcommand, &name, "--env", "host", "project", "--", "true"])?.exits(64)?;
        }
    }
    refused(&home, &["status", "../up"])?.exits(64)?;
    refused(&home, &["destroy", "--force", ".."])?.exits(64)?;
    Ok(())
}

#[test]
fn a_name_that_is_taken() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        // The agent's own, which says that it got somewhere, may still come.
        let about_starts = || -> anyhow::Result<Vec<_>> {
            let others = ["unit-ready", "active"];
            let is_other = |event: &Value| others.iter().any(|other| event["event"] == *other);
            Ok(sandbox.events()?.into_iter().filter(|event| !is_other(event)).collect())
        };
        let before = about_starts()?;
        let words = ["--name", "box", "--env", "host", "project", "--", "true"];
        for (subcommand, code) in [("start", 2), ("run", 125)] {
            let output = sandbox.run([&[subcommand], &words[..]].concat())?;
            output.exits(code)?.complains("`box`")?.complains("hint:")?;
        }
        sandbox.run(["start", "box"])?.exits(2)?.complains("running already")?.complains("hint:")?;
        ensure!(about_starts()? == before && sandbox.status()?["state"] == "running");
        // Stopped, it is still taken.
        sandbox.tell("stop", &["--force"])?.success()?;
        sandbox.run([&["start"], &words[..]].concat())?.exits(2)?.complains("hint:")?;
        ensure!(sandbox.status()?["command"] == serde_json::json!(["cat"]));
    }
    Ok(())
}

#[test]
fn a_project_that_is_none() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    home.file("file", b"")?;
    for (path, why) in
        [("./missing", "No such file"), ("/file/../missing", "No such file"), ("./file", "ot a directory")]
    {
        for (subcommand, code) in [("start", 3), ("run", 125)] {
            refused(&home, &[subcommand, "--env", "host", path, "--", "true"])?
                .exits(code)?
                .complains(path)?
                .complains(why)?;
        }
    }
    Ok(())
}

#[test]
fn a_project_that_may_not_be_read() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let closed = home.project("closed")?;
    fs::create_dir(closed.join("inner"))?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000))?;
    refused(&home, &["start", "--env", "host", "./closed/inner", "--", "true"])?
        .exits(3)?
        .complains("Permission denied")?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    Ok(())
}

#[test]
fn mounts_and_secrets_that_cannot_be() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = person(*who)?;
        home.file("file", b"")?;
        let cases: [(&[&str], i32, &str); 9] = [
            (&["--mount", "./missing:/mnt"], 3, "./missing"),
            (&["--mount", "./file"], 64, "SRC:DST"),
            (&["--mount", "./file:relative"], 64, "absolute"),
            (&["--mount", "./file:/"], 3, "/"),
            (&["--mount", "./file:/mnt/../workspace"], 3, "/mnt/../workspace"),
            (&["--mount", "./file:/proc/x"], 3, "/proc"),
            (&["--secret", "key=./missing"], 3, "./missing"),
            (&["--secret", "key"], 64, "="),
            (&["--secret", "../key=./file"], 3, "../key"),
        ];
        for (flags, code, about) in cases {
            let words =
                [&["start", "--name", "box", "--env", "host"], flags, &["project", "--", "true"]].concat();
            refused(&home, &words)?.exits(code)?.complains(about)?;
        }
    }
    Ok(())
}

#[test]
fn environments_that_cannot_be() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    home.file("good", b"# comment\n\nA=1\nexport B=2\n")?;
    home.file("bad", b"A=1\n\nnot a variable\n")?;
    home.file("binary", b"A=\xff\xfe\n")?;
    home.file("nul", b"A=1\0\n")?;
    for (file, about) in [
        ("bad", "bad:3"),
        ("missing", "missing"),
        ("binary", "binary"),
        ("nul", "NUL"),
        ("project", "project"),
    ] {
        let words = ["start", "--name", "box", "--env", "host", "--env-file", file, "project", "--", "true"];
        refused(&home, &words)?.exits(3)?.complains(about)?;
    }
    refused(&home, &["start", "--env", "host", "-e", "NOVALUE", "project", "--", "true"])?.exits(64)?;
    refused(&home, &["start", "--env", "host", "-e", "=x", "project", "--", "true"])?.exits(64)?;
    Ok(())
}

#[test]
fn a_usage_that_makes_no_sense() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    let cases: [&[&str]; 12] = [
        &[],
        &["fly"],
        &["start", "--env", "host", "project"],
        &["start", "--env", "moon", "project", "--", "true"],
        &["start", "--isolation", "none", "project", "--", "true"],
        &["start", "--memory", "much", "project", "--", "true"],
        &["start", "--cpus", "0", "project", "--", "true"],
        &["start", "--pids", "0", "project", "--", "true"],
        &["start", "--restart", "sometimes", "project", "--", "true"],
        &["exec", "box"],
        &["exec", "box", "--timeout", "0", "--", "true"],
        &["list", "--no-such-flag"],
    ];
    for words in cases {
        let before = Traces::of(&home)?;
        let output = home.run(words)?.exits(64)?;
        ensure!(!output.errors().is_empty() && output.stdout.is_empty(), "{output}");
        ensure!(Traces::of(&home)? == before, "{output}");
    }
    Ok(())
}

#[test]
fn an_agent_that_cannot_be_executed() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = person(*who)?;
        home.file("project/plain", b"#!/bin/sh\n")?;
        home.program("project/nothing", "#!/nonexistent/interpreter\n")?;
        home.file("project/garbage", b"\x7fELFgarbage")?;
        fs::set_permissions(home.path().join("project/garbage"), fs::Permissions::from_mode(0o755))?;
        for (agent, of_run) in [
            ("no-such-command", 127),
            ("/no/such/file", 127),
            ("./plain", 126),
            ("/workspace", 126),
            ("./garbage", 126),
        ] {
            for (subcommand, code) in [("start", 3), ("run", of_run)] {
                let words = [subcommand, "--name", "box", "--env", "host", "project", "--", agent];
                refused(&home, &words)?
                    .exits(code)?
                    .complains("cannot start sandbox `box`")?
                    .complains(agent)?;
            }
        }
        // What the kernel says of a missing interpreter is what it says of a missing program.
        refused(&home, &["run", "--name", "box", "--env", "host", "project", "--", "./nothing"])?
            .exits(127)?;
    }
    Ok(())
}

#[test]
fn a_command_that_cannot_be_executed() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.file("project/plain", b"#!/bin/sh\n")?;
    for (command, code) in
        [("no-such-command", 127), ("/no/such/file", 127), ("./plain", 126), ("/workspace", 126)]
    {
        sandbox.tell("exec", &["--", command])?.exits(code)?.complains("error: ")?;
        sandbox.tell("exec", &["-t", "--", command])?.exits(code)?;
    }
    sandbox.tell("exec", &["-w", "/no/folder", "--", "true"])?.exits(125)?.complains("/no/folder")?;
    sandbox.tell("exec", &["-u", "nobody-at-all", "--", "true"])?.exits(125)?.complains("nobody-at-all")?;
    sandbox.sh("true")?.success()?;
    Ok(())
}

#[test]
fn a_stopped_sandbox() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    sandbox.tell("exec", &["--", "true"])?.exits(125)?.complains("hint:")?;
    sandbox.tell("attach", &[])?.exits(2)?.complains("hint:")?;
    sandbox.tell("stop", &[])?.exits(2)?.complains("not running")?;
    sandbox.tell("stop", &["--force"])?.exits(2)?.complains("not running")?;
    Ok(())
}

/// What is not readable is shown as an error, and the others as they are.
#[test]
fn state_that_is_damaged() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let project = sandbox.project().to_string_lossy().into_owned();
    for content in ["", "{", "null", "{\"version\": 0}", "{\"version\": 1}", "\0\0\0\0"] {
        sandbox.run(["start", "--name", "other", "--env", "host", &project, "--", "cat"])?.success()?;
        sandbox.run(["stop", "--force", "other"])?.success()?;
        let record = sandbox.data().join("agents/other/sandbox.json");
        fs::write(&record, content)?;
        for words in [&["status", "other"][..], &["start", "other"]] {
            let output = sandbox.run(words)?.exits(3)?.complains("damaged")?.complains("sandbox.json")?;
            output.complains("destroy")?.complains("hint:")?;
        }
        others_are_listed(&sandbox, "damaged")?;
        ensure!(fs::read_to_string(&record)? == content, "the damaged file was changed");
        sandbox.run(["destroy", "--force", "other"])?.success()?;
    }
    Ok(())
}

#[test]
fn state_of_a_newer_version() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let project = sandbox.project().to_string_lossy().into_owned();
    sandbox.run(["start", "--name", "other", "--env", "host", &project, "--", "cat"])?.success()?;
    let record = sandbox.data().join("agents/other/sandbox.json");
    let content = r#"{"version": 99, "what": {"only": "the future knows"}}"#;
    fs::write(&record, content)?;
    for words in [&["status", "other"][..], &["start", "other"]] {
        sandbox.run(words)?.exits(3)?.complains("version 99")?.complains("hint: use the newer")?;
    }
    others_are_listed(&sandbox, "version 99")?;
    ensure!(fs::read_to_string(&record)? == content, "the file of the newer version was changed");
    sandbox.run(["destroy", "--force", "other"])?.success()?;
    Ok(())
}

/// `run.json` only helps: whatever is in it, the kernel is asked.
#[test]
fn a_start_that_is_written_down_wrongly() -> anyhow::Result<()> {
    for content in ["", "{", "[]", "{\"version\": 99}", r#"{"version":1,"number":1}"#] {
        let sandbox = Sandbox::builder().start()?;
        let init = sandbox.pid(agent_tests::Part::Init)?;
        fs::write(sandbox.folder().join("run.json"), content)?;
        ensure!(sandbox.status()?["state"] == "running");
        sandbox.sh("true")?.success()?;
        sandbox.tell("stop", &[])?.success()?;
        agent_tests::until_gone(init)?;
        sandbox.tell("start", &[])?.success()?;
        fs::write(sandbox.folder().join("run.json"), content)?;
        sandbox.run(["destroy", "--force", "box"])?.success()?;
    }
    Ok(())
}

/// A record of processes that are other ones by now: nobody else is killed for it.
#[test]
fn a_start_that_names_somebody_elses_process() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    let mut bystander = std::process::Command::new("sleep").arg("1000").spawn()?;
    let path = sandbox.folder().join("run.json");
    let mut run: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    for part in ["monitor", "supervisor", "init"] {
        run[part] = serde_json::json!({ "pid": bystander.id(), "start_ticks": 1 });
    }
    run["stage"] = "running".into();
    run["ended"] = serde_json::Value::Null;
    fs::write(&path, run.to_string())?;
    ensure!(sandbox.status()?["state"] == "stopped");
    sandbox.run(["destroy", "--force", "box"])?.success()?;
    let alive = bystander.try_wait()?.is_none();
    bystander.kill()?;
    bystander.wait()?;
    ensure!(alive, "a process that was never ours was killed");
    Ok(())
}

#[test]
fn a_data_folder_that_cannot_be_read() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    if home.uid() == 0 {
        return Ok(());
    }
    let words = ["start", "--name", "box", "--env", "host", "project", "--", "cat"];
    home.run(words)?.success()?;
    home.run(["stop", "--force", "box"])?.success()?;
    let agents = home.data().join("agents");
    fs::set_permissions(&agents, fs::Permissions::from_mode(0o000))?;
    for words in [&["list"][..], &["status", "box"], &words] {
        home.run(words)?.exits(3)?.complains("Permission denied")?.complains("agents")?;
    }
    fs::set_permissions(&agents, fs::Permissions::from_mode(0o700))?;
    home.run(["destroy", "box"])?.success()?;
    Ok(())
}

#[test]
fn no_place_for_data() -> anyhow::Result<()> {
    let home = person(Who::Ordinary)?;
    for (variable, value) in [("HOME", None), ("HOME", Some("relative"))] {
        let mut shim = home.shim(["list"]);
        shim.env_remove("XDG_DATA_HOME");
        match value {
            Some(value) => shim.env(variable, value),
            None => shim.env_remove(variable),
        };
        finish(shim, b"")?.exits(4)?.complains("XDG_DATA_HOME")?.complains("hint:")?;
    }
    Ok(())
}

fn others_are_listed(sandbox: &Sandbox, reason: &str) -> anyhow::Result<()> {
    let list = sandbox.run(["list", "--json"])?.success()?.json()?;
    let all: Vec<_> = list.as_array().into_iter().flatten().collect();
    ensure!(all.len() == 2 && all[0]["name"] == "box" && all[0]["state"] == "running", "{list:#}");
    ensure!(all[1]["name"] == "other" && all[1]["state"] == "error", "{list:#}");
    ensure!(all[1]["reason"].as_str().is_some_and(|words| words.contains(reason)), "{list:#}");
    Ok(())
}
