//! A start of which something is killed, at any moment: it comes up or it does not, and what does not leaves nothing.

use std::process::{Child, Stdio};
use std::time::Duration;

use agent_tests::{Home, Traces, Who, layer, until};
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long after the first process is there a victim is killed. A start takes milliseconds; what comes later finds it done.
const MOMENTS: [u64; 7] = [0, 2, 4, 6, 9, 14, 30];

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// What the layer's process runs to make a sandbox.
    Tool,
    Layer,
    Monitor,
    /// Both at once, the layer's process first.
    LayerAndMonitor,
    /// And the command as well, so that nobody is left who could undo anything.
    Everyone,
}

#[test]
fn what_makes_a_sandbox_is_killed() -> anyhow::Result<()> {
    at_every_moment(Victim::Tool)
}

#[test]
fn the_layers_process_is_killed() -> anyhow::Result<()> {
    at_every_moment(Victim::Layer)
}

#[test]
fn the_monitor_is_killed() -> anyhow::Result<()> {
    at_every_moment(Victim::Monitor)
}

#[test]
fn the_layers_process_and_the_monitor_are_killed() -> anyhow::Result<()> {
    at_every_moment(Victim::LayerAndMonitor)
}

#[test]
fn everybody_is_killed() -> anyhow::Result<()> {
    at_every_moment(Victim::Everyone)
}

fn at_every_moment(victim: Victim) -> anyhow::Result<()> {
    // A machine takes seconds to come up, and its own tests kill its parts.
    let moments = if layer().shares_kernel { &MOMENTS[..] } else { &MOMENTS[..1] };
    for who in Home::everyone() {
        for moment in moments {
            killed(*who, victim, Duration::from_millis(*moment))
                .with_context(|| format!("{victim:?} after {moment} ms as {who:?} on {}", layer().name))?;
        }
    }
    Ok(())
}

fn killed(who: Who, victim: Victim, after: Duration) -> anyhow::Result<()> {
    let home = Home::new(who)?;
    home.project("project")?;
    let mut shim = home.shim(["start", "--name", "box", "--env", "host", "project", "--", "cat"]);
    let mut start = shim.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let monitor = until("the monitor", || {
        Ok(start.try_wait()?.map_or_else(|| child_of(start.id().cast_signed()), |_| Some(0)))
    })?;
    let layers = until("the layer's process", || {
        Ok(start.try_wait()?.map_or_else(|| child_of(monitor), |_| Some(0)))
    })?;
    std::thread::sleep(after);
    match victim {
        Victim::Tool => child_of(layers).into_iter().for_each(end),
        Victim::Layer => end(layers),
        Victim::Monitor => end(monitor),
        Victim::LayerAndMonitor => [layers, monitor].into_iter().for_each(end),
        Victim::Everyone => [layers, monitor, start.id().cast_signed()].into_iter().for_each(end),
    }
    ended(&mut start)?;
    settled(&home, victim)
}

/// What is running is running, and what is not is gone; after `destroy`, everything is.
fn settled(home: &Home, victim: Victim) -> anyhow::Result<()> {
    let state = until("it to be one or the other", || {
        let list = home.run(["list", "--json"])?.success()?.json()?;
        let state = list[0]["state"].as_str().unwrap_or("none").to_owned();
        Ok((state != "starting" && state != "stopping").then_some(state))
    })?;
    if state == "running" {
        home.run(["exec", "box", "--", "true"])?.success()?;
    } else {
        // The next one finds nothing in its way.
        let words = ["start", "--name", "box", "--env", "host", "project", "--", "cat"];
        let words = if state == "none" { &words[..] } else { &["start", "box"][..] };
        home.run(words)?.success().with_context(|| format!("the start after it was {state}"))?;
        home.run(["exec", "box", "--", "true"])?.success()?;
    }
    home.run(["destroy", "--force", "box"])?.success()?;
    until("nothing to be left", || {
        let left = Traces::of(home)?.processes;
        if left.is_empty() {
            return Ok(Some(()));
        }
        println!("{victim:?}, {state}: {left:?}");
        Ok(None)
    })
}

/// The number is that of a child of ours or of its children, as it was an instant ago.
fn end(pid: i32) {
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn child_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_ascii_whitespace().find_map(|pid| pid.parse().ok())
}

fn ended(start: &mut Child) -> anyhow::Result<()> {
    until("the command to end", || Ok(start.try_wait()?)).map(drop)
}
