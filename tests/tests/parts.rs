//! What carries a sandbox is killed while a command streams: the command goes on, or says within a deadline that it cannot.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
};

use agent_tests::{Home, Sandbox, layer, until, until_gone};
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A command that writes for ever.
const STREAM: &str = "i=0; while echo line $((i += 1)); do sleep 0.01; done";

#[test]
fn each_part_is_killed_while_a_command_streams() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let first = Sandbox::builder().who(*who).start()?;
        let names: Vec<String> = parts(&first)?.into_iter().map(|(name, _)| name).collect();
        drop(first);
        ensure!(names.len() >= 3, "{names:?}");
        for name in names {
            let sandbox = Sandbox::builder().who(*who).start()?;
            one_is_killed(&sandbox, &name).with_context(|| format!("{name} on {}", layer().name))?;
        }
    }
    Ok(())
}

fn one_is_killed(sandbox: &Sandbox, name: &str) -> anyhow::Result<()> {
    sandbox.sh("echo kept > /workspace/file; echo home > ~/file; sync")?.success()?;
    let (mut client, mut lines) = stream(sandbox)?;
    read(&mut lines, 3)?;
    let all = parts(sandbox)?;
    let (_, pid) = all.iter().find(|(one, _)| one == name).context("it is not there any more")?;
    kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    until_gone(*pid)?;

    let state = until("its state to be one or the other", || {
        let state = sandbox.status()?["state"].as_str().unwrap_or_default().to_owned();
        Ok((state == "running" || state == "stopped").then_some(state))
    })?;
    if state == "running" {
        // More than a pipe can have held from before.
        read(&mut lines, 20)?;
        ensure!(client.try_wait()?.is_none(), "it ended, although the sandbox runs");
        client.kill()?;
    } else {
        let status = until("the command to give up", || {
            // What is left in the pipe is read, or it would wait to write it.
            let mut line = String::new();
            while lines.read_line(&mut line)? > 0 {
                line.clear();
            }
            Ok(client.try_wait()?)
        })?;
        ensure!(!status.success(), "{status}");
        let end = sandbox.status()?["ended"].clone();
        let reason = end["reason"].as_str().unwrap_or_default();
        let told = if name == "init" { "init was killed" } else { name };
        let untold = !layer().shares_kernel && ["init", "supervisor"].contains(&name);
        ensure!(reason.contains(told) || untold, "{name} died: {end:#}");
        sandbox.tell("start", &[])?.success()?;
    }
    client.wait()?;
    ensure!(sandbox.sh("cat /workspace/file ~/file")?.success()?.text() == "kept\nhome");
    Ok(())
}

fn stream(sandbox: &Sandbox) -> anyhow::Result<(Child, BufReader<ChildStdout>)> {
    let mut exec = sandbox.shim(["exec", sandbox.name(), "--", "sh", "-c", STREAM]);
    let mut client = exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let lines = BufReader::new(client.stdout.take().context("the command's output")?);
    Ok((client, lines))
}

fn read(lines: &mut BufReader<ChildStdout>, count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        let mut line = String::new();
        ensure!(lines.read_line(&mut line)? > 0, "the stream ended");
    }
    Ok(())
}

/// Every process of the host's that carries it, by name.
fn parts(sandbox: &Sandbox) -> anyhow::Result<Vec<(String, i32)>> {
    let run: Value = serde_json::from_slice(&fs::read(sandbox.folder().join("run.json"))?)?;
    let pid = |id: &Value| id["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let mut parts = Vec::new();
    for name in ["monitor", "supervisor", "init"] {
        parts.push((name.to_owned(), pid(&run[name]).with_context(|| format!("no {name} in {run:#}"))?));
    }
    for part in run["parts"].as_array().into_iter().flatten() {
        let name = part["name"].as_str().context("a part without a name")?.to_owned();
        parts.push((name, pid(&part["id"]).or_else(|| pid(part)).context("a part without a number")?));
    }
    Ok(parts)
}
