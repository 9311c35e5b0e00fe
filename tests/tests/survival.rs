//! What is killed on the host takes nothing with it that could live, and the next command goes on from there.

use std::time::{Duration, Instant};

use agent_tests::{Home, Part, Sandbox, is_alive, layer, until};
use anyhow::{Context, ensure};
use serde_json::Value;

/// How long `list` may take to be right after a kill. A second is promised; a loaded machine gets more.
const RIGHT_WITHIN: Duration = Duration::from_secs(3);

/// An agent that counts.
const COUNTING: &str = "i=0; while echo line $((i += 1)); do sleep 0.02; done";

#[test]
fn the_monitor_is_killed() -> anyhow::Result<()> {
    nothing_dies_with(&[Part::Monitor])
}

#[test]
fn the_layers_process_is_killed() -> anyhow::Result<()> {
    nothing_dies_with(&[Part::Layer])
}

#[test]
fn the_monitor_is_killed_and_the_layers_process_after_it() -> anyhow::Result<()> {
    nothing_dies_with(&[Part::Monitor, Part::Layer])
}

#[test]
fn the_layers_process_is_killed_and_the_monitor_after_it() -> anyhow::Result<()> {
    nothing_dies_with(&[Part::Layer, Part::Monitor])
}

/// Kills these, and looks whether the sandbox goes on, and a new monitor with it.
fn nothing_dies_with(parts: &[Part]) -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).agent(COUNTING).start()?;
        sandbox.sh("echo kept > ~/file")?.success()?;
        sandbox.wait_for_event("exec-exited")?;
        let before = sandbox.events()?;
        let (init, agent) = (sandbox.pid(Part::Init)?, sandbox.status()?["agent"]["pid"].clone());
        let monitor = sandbox.pid(Part::Monitor)?;

        let killed_at = Instant::now();
        for part in parts {
            sandbox.kill(*part)?;
        }
        let listed = listed(&sandbox)?;
        ensure!(killed_at.elapsed() < RIGHT_WITHIN, "list took {:?}", killed_at.elapsed());
        ensure!(listed["state"] == "running" && listed["agent"]["state"] == "running", "{listed:#}");
        ensure!(is_alive(init) && listed["agent"]["pid"] == agent, "{listed:#}");
        ensure!(sandbox.sh("cat ~/file")?.success()?.text() == "kept");

        if parts.contains(&Part::Monitor) {
            sandbox.wait_for_event("monitor-adopted")?;
            let watching = until("the new monitor in the status", || {
                Ok(sandbox.status()?["monitor"]["pid"].as_i64().filter(|pid| *pid != i64::from(monitor)))
            })?;
            ensure!(is_alive(watching.try_into()?), "the new monitor, process {watching}, is gone");
        }
        events_go_on(&sandbox, &before)?;
        logs_go_on(&sandbox)?;

        sandbox.tell("stop", &[])?.success()?;
        ensure!(self::listed(&sandbox)?["state"] == "stopped");
        agent_tests::until_gone(init)?;
    }
    Ok(())
}

/// Many new monitors in a row lose and repeat nothing.
#[test]
fn monitors_are_killed_one_after_the_other() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().agent(COUNTING).start()?;
    let before = sandbox.events()?;
    for round in 1..=5 {
        sandbox.kill(Part::Monitor)?;
        sandbox.sh("true")?.success()?;
        until("a new monitor", || {
            let events = sandbox.events()?;
            let adopted = events.iter().filter(|event| event["event"] == "monitor-adopted").count();
            Ok((adopted == round).then_some(()))
        })?;
    }
    events_go_on(&sandbox, &before)?;
    logs_go_on(&sandbox)?;
    let names: Vec<Value> = sandbox.events()?.into_iter().map(|event| event["event"].clone()).collect();
    let count = |name: &str| names.iter().filter(|event| *event == name).count();
    ensure!(count("exec-started") == 6 && count("exec-exited") == 6, "{names:?}");
    ensure!(count("monitor-adopted") == 5 && count("events-lost") == 0, "{names:?}");
    Ok(())
}

/// What happened while nobody watched is told by init, and nothing is lost.
#[test]
fn the_agent_ends_while_there_is_no_monitor() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .agent("echo first; while ! [ -e ~/go ]; do sleep 0.02; done; touch ~/last; exit 7")
        .start()?;
    sandbox.wait_for_event("unit-ready")?;
    sandbox.kill(Part::Monitor)?;
    // By the host: a command would bring a new monitor.
    std::fs::write(sandbox.folder().join("home/go"), "")?;
    until("the agent's last word", || Ok(sandbox.folder().join("home/last").exists().then_some(())))?;
    let exited = sandbox.wait_for_event("unit-exited")?;
    ensure!(exited["exit"]["code"] == 7, "{exited:#}");
    let events = sandbox.events()?;
    ensure!(!events.iter().any(|event| event["event"] == "events-lost"), "{events:#?}");
    numbered(&events)
}

/// The end of init is the end of the sandbox: it is said to be, and home and work stay for the next start.
#[test]
fn init_is_killed() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        sandbox.sh("echo kept > ~/file")?.success()?;
        let monitor = sandbox.pid(Part::Monitor)?;
        // `agent-init`, or what a machine is for the host; the kernel keeps 15 letters.
        let called = std::fs::read_to_string(format!("/proc/{}/comm", sandbox.pid(Part::Init)?))?;
        let called = called.trim().trim_start_matches("agent-");
        let killed_at = Instant::now();
        sandbox.kill(Part::Init)?;
        // Its layer's process ends an instant later; the parts of a machine end each other.
        let listed = until("its end to be seen", || {
            let listed = listed(&sandbox)?;
            let is_seen = ["stopping", "stopped"].contains(&listed["state"].as_str().unwrap_or_default());
            ensure!(is_seen || !layer().shares_kernel, "{listed:#}");
            Ok((listed["state"] == "stopped").then_some(listed))
        })?;
        let within = RIGHT_WITHIN * layer().patience;
        ensure!(killed_at.elapsed() < within, "list took {:?}", killed_at.elapsed());
        ensure!(listed["agent"]["state"] == "exited", "{listed:#}");
        let end = sandbox.wait_for_event("sandbox-stopped")?;
        let reason = end["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(called) && reason.contains("killed"), "{called}: {end:#}");
        ensure!(end["code"] == 137, "{end:#}");
        agent_tests::until_gone(monitor)?;

        sandbox.tell("exec", &["--", "true"])?.exits(125)?.complains("hint:")?;
        sandbox.tell("stop", &[])?.exits(2)?;
        sandbox.tell("start", &[])?.success()?;
        ensure!(sandbox.sh("cat ~/file")?.success()?.text() == "kept");
    }
    Ok(())
}

/// With everybody dead who could have told, the end is told as unknown, and nothing else is wrong.
#[test]
fn everything_is_killed_at_once() -> anyhow::Result<()> {
    for order in [[Part::Monitor, Part::Layer, Part::Init], [Part::Init, Part::Layer, Part::Monitor]] {
        let sandbox = Sandbox::builder().start()?;
        let pids = order.map(|part| sandbox.signal(part, nix::sys::signal::Signal::SIGKILL));
        for pid in pids {
            // The second may be gone by the end of the first.
            agent_tests::until_gone(pid.unwrap_or(0))?;
        }
        // Whoever looked for the next one to kill may have started a monitor, which is about to find nothing to watch.
        until("its end to be seen", || {
            let listed = listed(&sandbox)?;
            ensure!(listed["state"] == "stopped", "{listed:#}");
            Ok((listed["monitor"]["state"] == "none").then_some(()))
        })?;
        let end = sandbox.wait_for_event("sandbox-stopped")?;
        ensure!(!end["reason"].as_str().unwrap_or_default().is_empty(), "{end:#}");
        numbered(&sandbox.events()?)?;
        sandbox.tell("start", &[])?.success()?;
        ensure!(self::listed(&sandbox)?["state"] == "running");
    }
    Ok(())
}

/// The kill of one sandbox is nothing to another.
#[test]
fn the_neighbour_does_not_notice() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let project = sandbox.project().to_owned();
    sandbox
        .run(["start", "--name", "other", "--env", "host", &project.to_string_lossy(), "--", "cat"])?
        .success()?;
    let before = sandbox.events()?.len();
    sandbox.run(["stop", "--force", "other"])?.success()?;
    ensure!(listed(&sandbox)?["state"] == "running" && sandbox.events()?.len() == before);
    sandbox.run(["destroy", "other"])?.success()?;
    Ok(())
}

/// The sandbox as `list` has it.
fn listed(sandbox: &Sandbox) -> anyhow::Result<Value> {
    let list = sandbox.run(["list", "--json"])?.success()?.json()?;
    let found = list.as_array().and_then(|all| all.iter().find(|one| one["name"] == sandbox.name()));
    found.cloned().with_context(|| format!("{} is not in {list:#}", sandbox.name()))
}

/// The events of before are all there, and the numbers go on behind them.
fn events_go_on(sandbox: &Sandbox, before: &[Value]) -> anyhow::Result<()> {
    sandbox.sh("exit 9")?.exits(9)?;
    sandbox.wait_for("the exit of a command", |event| {
        event["event"] == "exec-exited" && event["exit"]["code"] == 9
    })?;
    let after = sandbox.events()?;
    ensure!(after.starts_with(before), "the events {before:#?} changed to {after:#?}");
    ensure!(after.len() > before.len());
    ensure!(!after.iter().any(|event| event["event"] == "events-lost"), "{after:#?}");
    numbered(&after)
}

/// Each has the number behind that of the one before.
fn numbered(events: &[Value]) -> anyhow::Result<()> {
    let numbers: Vec<Option<u64>> = events.iter().map(|event| event["seq"].as_u64()).collect();
    let expected: Vec<Option<u64>> = (1..=events.len() as u64).map(Some).collect();
    ensure!(numbers == expected, "{events:#?}");
    Ok(())
}

/// The log has every line from the first one on, and grows.
fn logs_go_on(sandbox: &Sandbox) -> anyhow::Result<()> {
    let lines = |text: &str| text.lines().filter(|line| line.starts_with("line ")).count();
    let now = lines(&sandbox.tell("logs", &[])?.success()?.text());
    let text = until("more lines in the log", || {
        let text = sandbox.tell("logs", &[])?.success()?.text();
        Ok((lines(&text) > now + 2).then_some(text))
    })?;
    let whole = &text[..text.rfind('\n').unwrap_or(0)];
    for (at, line) in whole.lines().enumerate() {
        ensure!(line.trim_end() == format!("line {}", at + 1), "line {} of the log is {line:?}", at + 1);
    }
    Ok(())
}
