//! A part that is stopped by a signal is named, delays nobody else, and can always be killed.

use std::time::{Duration, Instant};

use agent_tests::{Home, Output, Part, Sandbox, Who, is_alive, layer, state, until};
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A second is promised; a loaded machine gets more. The real times are printed.
const SOON: Duration = Duration::from_secs(3);

/// How each part is called where it is stuck.
fn name(part: Part) -> &'static str {
    match part {
        Part::Monitor => "the monitor",
        Part::Layer => "the isolation layer",
        Part::Init if layer().shares_kernel => "init",
        Part::Init => "the machine",
        Part::Agent => "the agent",
    }
}

/// The parts without which init goes on.
fn dispensable() -> impl Iterator<Item = Part> {
    Part::all().iter().copied().filter(|part| *part != Part::Init)
}

#[test]
fn is_named_within_a_second() -> anyhow::Result<()> {
    for who in Home::everyone() {
        for part in Part::all().iter().copied() {
            let name = name(part);
            let sandbox = stuck(*who, part)?;
            let list = soon(&sandbox, part, &["list", "--json"])?.success()?.json()?;
            says_where(&list[0], name)?;
            let status = soon(&sandbox, part, &["status", "box", "--json"])?.success()?.json()?;
            says_where(&status, name)?;
            let words = soon(&sandbox, part, &["status", "box"])?.success()?.text();
            ensure!(words.contains(name) && words.contains("stopped by a signal"), "{words}");
            let words = soon(&sandbox, part, &["list"])?.success()?;
            ensure!(words.text().contains("stuck") && words.errors().contains(name), "{words}");
        }
    }
    Ok(())
}

#[test]
fn ends_by_force_within_a_second() -> anyhow::Result<()> {
    for who in Home::everyone() {
        for part in Part::all().iter().copied() {
            let sandbox = stuck(*who, part)?;
            let pids: Vec<_> = Part::all().iter().map(|part| sandbox.pid(*part)).collect();
            soon(&sandbox, part, &["stop", "--force", "box"])?.success()?;
            let list = soon(&sandbox, part, &["list", "--json"])?.success()?.json()?;
            ensure!(list[0]["state"] == "stopped" && list[0]["stuck"].is_null(), "{list:#}");
            for pid in pids {
                let pid = pid?;
                until("its processes to be gone", || Ok((!is_alive(pid)).then_some(())))?;
            }
            // As good as new.
            sandbox.tell("start", &[])?.success()?;
            sandbox.sh("true")?.success()?;
        }
    }
    Ok(())
}

#[test]
fn is_destroyed_within_a_second() -> anyhow::Result<()> {
    for who in Home::everyone() {
        for part in Part::all().iter().copied() {
            let sandbox = stuck(*who, part)?;
            soon(&sandbox, part, &["destroy", "--force", "box"])?.success()?;
            ensure!(!sandbox.folder().exists());
        }
    }
    Ok(())
}

#[test]
fn everything_at_once() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for part in Part::all().iter().copied() {
        stop(&sandbox, part)?;
    }
    let list = soon(&sandbox, Part::Init, &["list", "--json"])?.success()?.json()?;
    says_where(&list[0], name(Part::Init))?;
    soon(&sandbox, Part::Init, &["stop", "--force", "box"])?.success()?;
    ensure!(sandbox.status()?["state"] == "stopped");
    Ok(())
}

/// Goes on as if nothing had been, once it is let go.
#[test]
fn goes_on_when_it_is_let_go() -> anyhow::Result<()> {
    for part in Part::all().iter().copied() {
        let sandbox = stuck(Who::Myself, part)?;
        sandbox.signal(part, Signal::SIGCONT)?;
        let status = until("it to be stuck no more", || {
            let status = sandbox.status()?;
            Ok(status["stuck"].is_null().then_some(status))
        })?;
        ensure!(status["state"] == "running", "{status:#}");
        sandbox.sh("exit 9")?.exits(9)?;
        let exited = sandbox.wait_for_event("exec-exited")?;
        ensure!(exited["exit"]["code"] == 9, "{exited:#}");
    }
    Ok(())
}

/// What can go on with a part that is stuck does; what cannot says why in bounded time.
#[test]
fn commands_are_served_or_told_why() -> anyhow::Result<()> {
    for part in dispensable() {
        let sandbox = stuck(Who::Myself, part)?;
        let output = soon(&sandbox, part, &["exec", "box", "--", "echo", "served"])?.success()?;
        ensure!(output.text() == "served", "{part:?}: {output}");
    }
    let sandbox = stuck(Who::Myself, Part::Init)?;
    let begun = Instant::now();
    sandbox.tell("exec", &["--", "true"])?.exits(125)?.complains("stopped by a signal")?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "exec took {:?}", begun.elapsed());
    // A machine's init has more time to answer before it is given up.
    let bound = SOON * layer().patience;
    within(bound, &sandbox, Part::Init, &["stop", "box"])?
        .exits(3)?
        .complains("stopped by a signal")?
        .complains("--force")?;
    within(bound, &sandbox, Part::Init, &["restart", "box"])?.exits(3)?;
    Ok(())
}

/// A graceful stop needs neither the monitor nor the layer's process, and an agent that is stopped is woken for it.
#[test]
fn stops_in_order_where_init_can() -> anyhow::Result<()> {
    for part in dispensable() {
        let sandbox = Sandbox::builder()
            .agent("trap '' HUP; trap 'echo asked > ~/end; exit' TERM; echo up; while :; do sleep 0.05; done")
            .start()?;
        sandbox.wait_for_event("unit-ready")?;
        stop(&sandbox, part)?;
        soon(&sandbox, part, &["stop", "box"])?.success()?;
        let end = std::fs::read_to_string(sandbox.folder().join("home/end")).unwrap_or_default();
        ensure!(end == "asked\n", "with {part:?} stopped the agent was not asked to end");
    }
    Ok(())
}

/// One stuck sandbox, or many, delay no other.
#[test]
fn delays_no_other() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let project = sandbox.project().to_string_lossy().into_owned();
    let others = ["one", "two", "three"];
    for name in others {
        sandbox.run(["start", "--name", name, "--env", "host", &project, "--", "cat"])?.success()?;
    }
    for name in &others[..2] {
        let run = std::fs::read(sandbox.data().join("agents").join(name).join("run.json"))?;
        let run: Value = serde_json::from_slice(&run)?;
        let init = run["init"]["pid"].as_i64().context("init's pid")?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(init.try_into()?), Signal::SIGSTOP)?;
    }
    let list = soon(&sandbox, Part::Init, &["list", "--json"])?.success()?.json()?;
    let of = |name: &str| list.as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    for one in &others[..2] {
        says_where(of(one).context("it is not listed")?, name(Part::Init))?;
    }
    for name in ["box", "three"] {
        let one = of(name).context("it is not listed")?;
        ensure!(one["stuck"].is_null() && one["init"]["pid"].is_u64(), "{one:#}");
    }
    let begun = Instant::now();
    sandbox.sh("true")?.success()?;
    sandbox.run(["status", "three", "--json"])?.success()?;
    ensure!(begun.elapsed() < SOON, "a neighbour took {:?}", begun.elapsed());
    for name in others {
        sandbox.run(["destroy", "--force", name])?.success()?;
    }
    Ok(())
}

fn stuck(who: Who, part: Part) -> anyhow::Result<Sandbox> {
    let sandbox = Sandbox::builder().who(who).start()?;
    stop(&sandbox, part)?;
    Ok(sandbox)
}

fn stop(sandbox: &Sandbox, part: Part) -> anyhow::Result<()> {
    let pid = sandbox.signal(part, Signal::SIGSTOP)?;
    until("a process to be stopped", || Ok((state(pid) == Some('T')).then_some(())))
}

fn soon(sandbox: &Sandbox, part: Part, words: &[&str]) -> anyhow::Result<Output> {
    within(SOON, sandbox, part, words)
}

fn within(bound: Duration, sandbox: &Sandbox, part: Part, words: &[&str]) -> anyhow::Result<Output> {
    let begun = Instant::now();
    let output = sandbox.run(words)?;
    let took = begun.elapsed();
    println!("{part:?} stopped: {} took {} ms", words.join(" "), took.as_millis());
    ensure!(took < bound, "{part:?} stopped: {output} took {took:?}");
    Ok(output)
}

fn says_where(view: &Value, name: &str) -> anyhow::Result<()> {
    let place = view["stuck"].as_str().unwrap_or_default();
    ensure!(place.starts_with(name) && place.contains("stopped by a signal"), "{view:#}");
    ensure!(view["state"] == "running", "{view:#}");
    Ok(())
}
