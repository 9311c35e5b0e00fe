//! However the agent ends: told whole, started again within the policy, and given up with a reason.

use std::time::{Duration, Instant};

use agent_tests::{Part, Sandbox, Who, is_alive, until};
use anyhow::ensure;
use serde_json::{Value, json};

/// Ends once in the way of the script, then goes on as a `cat`: only the first end matters.
fn once(end: &str) -> String {
    format!("if [ -e ~/been ]; then exec cat; fi; touch ~/been; {end}")
}

/// Script, code, signal, what a shell reports, and whether `on-failure` starts it again.
type End = (&'static str, Option<i32>, Option<&'static str>, u8, bool);

/// How an agent can end by itself.
const ENDS: [End; 8] = [
    ("exit 0", Some(0), None, 0, false),
    ("exit 1", Some(1), None, 1, true),
    ("exit 42", Some(42), None, 42, true),
    ("exit 255", Some(255), None, 255, true),
    ("kill -TERM $$", None, Some("SIGTERM"), 143, true),
    ("kill -KILL $$", None, Some("SIGKILL"), 137, true),
    ("kill -SEGV $$", None, Some("SIGSEGV"), 139, true),
    ("kill -USR1 $$", None, Some("SIGUSR1"), 138, true),
];

#[test]
fn on_failure_starts_again_what_failed() -> anyhow::Result<()> {
    for (end, code, signal, status, again) in ENDS {
        let sandbox = Sandbox::builder().flags(["--restart", "on-failure"]).agent(&once(end)).start()?;
        ended_so(&sandbox, code, signal, status)?;
        if again { runs_again(&sandbox, 1)? } else { stays_ended(&sandbox)? }
    }
    Ok(())
}

#[test]
fn always_starts_again_whatever_ended() -> anyhow::Result<()> {
    for (end, code, signal, status, _) in ENDS {
        let sandbox = Sandbox::builder().flags(["--restart", "always"]).agent(&once(end)).start()?;
        ended_so(&sandbox, code, signal, status)?;
        runs_again(&sandbox, 1)?;
    }
    Ok(())
}

#[test]
fn never_starts_nothing_again() -> anyhow::Result<()> {
    for (end, code, signal, status, _) in ENDS {
        let sandbox = Sandbox::builder().flags(["--restart", "never"]).agent(&once(end)).start()?;
        ended_so(&sandbox, code, signal, status)?;
        stays_ended(&sandbox)?;
    }
    Ok(())
}

/// The host's kill of the agent's process is an end like another, and the sandbox does not end with it.
#[test]
fn the_agent_is_killed_from_outside() -> anyhow::Result<()> {
    for (policy, again) in [("always", true), ("on-failure", true), ("never", false)] {
        for who in agent_tests::Home::everyone() {
            let sandbox = Sandbox::builder().who(*who).flags(["--restart", policy]).start()?;
            let init = sandbox.pid(Part::Init)?;
            sandbox.kill_agent()?;
            let exit = ended_so(&sandbox, None, Some("SIGKILL"), 137)?;
            ensure!(exit["killed_by"] != "stop", "{exit:#}");
            if again {
                runs_again(&sandbox, 1)?;
            } else {
                stays_ended(&sandbox)?;
            }
            ensure!(is_alive(init));
        }
    }
    Ok(())
}

/// A new session belongs to the new agent, whose processes are not those of the one before.
#[test]
fn what_the_agent_left_behind_ends_with_its_session() -> anyhow::Result<()> {
    let sandbox =
        Sandbox::builder().flags(["--restart", "always"]).agent(&once("sleep 1000 & exit 3")).start()?;
    runs_again(&sandbox, 1)?;
    until("the first session's processes to be gone", || {
        let names = sandbox.sh("cat /proc/[0-9]*/comm")?.text();
        Ok((!names.lines().any(|name| name == "sleep")).then_some(()))
    })?;
    let sessions = sandbox.events()?.iter().filter(|event| event["event"] == "session-started").count();
    ensure!(sessions == 2, "{sessions} sessions");
    Ok(())
}

/// Three ends at once are enough: the reason is told, the sandbox is there to look at, `restart` revives it.
#[test]
fn an_agent_that_ends_at_once_is_parked() -> anyhow::Result<()> {
    for who in agent_tests::Home::everyone() {
        let sandbox = parked(*who, "on-failure", "[ -e ~/mended ] && exec cat; echo broken; exit 5")?;
        let status = sandbox.status()?;
        ensure!(status["state"] == "running" && status["agent"]["state"] == "parked", "{status:#}");
        let reason = status["agent"]["reason"].as_str().unwrap_or_default().to_owned();
        ensure!(reason.contains('3'), "{status:#}");
        ensure!(status["agent"]["last_exit"]["code"] == 5 && status["agent"]["pid"].is_null(), "{status:#}");
        let words = sandbox.tell("status", &[])?.success()?.text();
        ensure!(words.contains("parked") && words.contains(&reason), "{words}");
        let list = sandbox.run(["list"])?.success()?.text();
        ensure!(list.contains("parked"), "{list}");

        // Alive, and its session's output is there.
        ensure!(sandbox.tell("logs", &[])?.success()?.text().matches("broken").count() == 3);
        sandbox.sh("touch ~/mended")?.success()?;
        sandbox.tell("restart", &[])?.success()?;
        until("the revived agent", || {
            let agent = sandbox.status()?["agent"].clone();
            Ok((agent["pid"].is_u64() && agent["reason"].is_null()).then_some(()))
        })?;
    }
    Ok(())
}

/// A parked agent that a restart does not mend is parked again, after as many tries.
#[test]
fn a_restart_of_what_is_still_broken_parks_again() -> anyhow::Result<()> {
    let sandbox = parked(Who::Myself, "always", "exit 0")?;
    let starts = |sandbox: &Sandbox| -> anyhow::Result<usize> {
        Ok(sandbox.events()?.iter().filter(|event| event["event"] == "unit-started").count())
    };
    ensure!(starts(&sandbox)? == 3);
    sandbox.tell("restart", &[])?.success()?;
    until("the agent to be parked again", || {
        let events = sandbox.events()?;
        Ok((events.iter().filter(|event| event["event"] == "unit-parked").count() == 2).then_some(()))
    })?;
    ensure!(starts(&sandbox)? == 6);
    sandbox.tell("stop", &[])?.success()?;
    // What it was is still told.
    ensure!(sandbox.status()?["agent"]["state"] == "parked");
    Ok(())
}

/// A new monitor knows of the restarts that it did not see.
#[test]
fn parked_while_there_is_no_monitor() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .flags(["--restart", "always"])
        .agent("while ! [ -e ~/go ]; do sleep 0.02; done; exit 1")
        .start()?;
    sandbox.kill(Part::Monitor)?;
    std::fs::write(sandbox.folder().join("home/go"), "")?;
    sandbox.wait_for_event("unit-parked")?;
    let names: Vec<Value> = sandbox.events()?.iter().map(|event| event["event"].clone()).collect();
    ensure!(names.iter().filter(|name| *name == "unit-exited").count() == 3, "{names:?}");
    ensure!(!names.contains(&json!("events-lost")), "{names:?}");
    Ok(())
}

/// Restarting one that runs ends its processes and gives it a new session, and is said to be what ended it.
#[test]
fn restart_while_it_runs() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().agent("trap '' HUP; echo started; cat").start()?;
    sandbox.wait_for_event("unit-ready")?;
    let (init, before) = (sandbox.pid(Part::Init)?, sandbox.status()?["agent"]["pid"].clone());
    sandbox.tell("restart", &[])?.success()?;
    let exit = sandbox.wait_for_event("unit-exited")?["exit"].clone();
    ensure!(exit["killed_by"] == "restart", "{exit:#}");
    sandbox
        .wait_for("the second start", |event| event["event"] == "unit-started" && event["attempt"] == 2)?;
    ensure!(!sandbox.sh(&format!("kill -0 {before}"))?.status.success() && is_alive(init));
    Ok(())
}

fn parked(who: Who, policy: &str, script: &str) -> anyhow::Result<Sandbox> {
    let sandbox = Sandbox::builder().who(who).flags(["--restart", policy]).agent(script).start()?;
    let begun = Instant::now();
    let parked = sandbox.wait_for_event("unit-parked")?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "it took {:?} to give up", begun.elapsed());
    ensure!(parked["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{parked:#}");
    Ok(sandbox)
}

fn ended_so(sandbox: &Sandbox, code: Option<i32>, signal: Option<&str>, status: u8) -> anyhow::Result<Value> {
    let told = sandbox.wait_for_event("unit-exited")?["exit"].clone();
    ensure!(told["code"] == json!(code) && told["signal"] == json!(signal), "{told:#}");
    ensure!(told["status"] == json!(status), "{told:#}");
    let kept = until("the exit in the status", || {
        Ok(Some(sandbox.status()?["agent"]["last_exit"].clone()).filter(|exit| !exit.is_null()))
    })?;
    ensure!(kept == told, "the status has {kept:#}, the event {told:#}");
    Ok(told)
}

fn runs_again(sandbox: &Sandbox, restarts: u64) -> anyhow::Result<()> {
    until("the agent to run again", || {
        let agent = sandbox.status()?["agent"].clone();
        let again = agent["restarts"] == restarts && agent["pid"].is_u64();
        Ok(again.then_some(()))
    })
}

fn stays_ended(sandbox: &Sandbox) -> anyhow::Result<()> {
    let status = sandbox.status()?;
    ensure!(status["state"] == "running" && status["agent"]["state"] == "exited", "{status:#}");
    ensure!(status["agent"]["restarts"] == 0 && status["agent"]["next_start_ms"].is_null(), "{status:#}");
    // Its sandbox is there to look at.
    sandbox.sh("true")?.success()?;
    ensure!(!sandbox.events()?.iter().any(|event| event["event"] == "unit-backoff"));
    Ok(())
}
