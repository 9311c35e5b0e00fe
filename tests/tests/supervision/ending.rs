//! The ordered end and its deadlines.

use std::time::{Duration, Instant};

use agent_protocol::{
    Request, ServerMessage,
    exit::{How, KilledBy},
    failure::FailureKind,
    message::{AttachFrom, AttachRequest, LeaseWish, Next, What},
};
use agent_tests::{Heard, Init, Raw};
use serde_json::{Value, json};

/// A service that notes when it is told to stop.
fn service(name: &str, after: &[&str]) -> Value {
    let script =
        format!("trap 'sleep 0.1; echo {name} >>order; exit 0' TERM; echo up; while :; do sleep 0.02; done");
    json!({ "name": name, "argv": ["sh", "-c", script], "readiness": "first-output", "after": after })
}

#[test]
fn services_stop_after_the_agent_each_after_those_that_need_it() -> anyhow::Result<()> {
    let agent = "trap 'sleep 0.1; echo agent >>order; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let mut init = Init::start(json!({
        "services": [service("db", &[]), service("queue", &["db"]), service("web", &["queue", "db"])],
        "agent": { "argv": ["sh", "-c", agent], "terminal": {}, "stop": { "hangup": false } },
    }))?;
    init.wait_for("the agent to be ready", |what| match what {
        What::UnitReady { unit } if unit == "agent" => Some(()),
        _ => None,
    })?;
    assert_eq!(init.stop(false)?, 0);
    assert_eq!(init.read("order"), "agent\nweb\nqueue\ndb\n");
    Ok(())
}

#[test]
fn who_does_not_listen_is_killed_when_its_time_is_up() -> anyhow::Result<()> {
    let mut init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", "trap '' TERM HUP INT; echo up; while :; do sleep 0.02; done"],
            "terminal": {}, "stop": { "grace_ms": 300 },
        },
    }))?;
    init.wait_for("the agent to be ready", |what| matches!(what, What::UnitReady { .. }).then_some(()))?;
    let events = Raw::ask(
        &init.socket(),
        &Request::Events(agent_protocol::message::EventsRequest { after: 0, follow: true }),
    )?;
    let began = Instant::now();
    init.stop(false)?;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "it was not given its grace: {took:?}");
    let exit = last_exit(events)?;
    assert_eq!((exit.how, exit.killed_by), (How::Signal(9), KilledBy::Stop));
    Ok(())
}

/// The last exit that a reader of events sees before the end.
fn last_exit(mut events: Raw) -> anyhow::Result<agent_protocol::exit::ExitRecord> {
    let mut last = None;
    let mut ended = false;
    loop {
        match events.hear()? {
            Heard::Message(ServerMessage::Event(event)) => match event.what {
                What::UnitExited { exit, .. } => last = Some(exit),
                What::Ended { .. } => ended = true,
                _ => {}
            },
            Heard::End => break,
            _ => {}
        }
    }
    assert!(ended, "the last event is the end");
    last.ok_or_else(|| anyhow::anyhow!("nothing exited"))
}

#[test]
fn what_refuses_to_die_does_not_hold_up_the_end() -> anyhow::Result<()> {
    let deaf = "trap '' TERM HUP INT; while :; do sleep 0.02; done";
    let mut init = Init::start(json!({
        "services": [{ "name": "deaf", "argv": ["sh", "-c", deaf], "stop": { "grace_ms": 600_000 } }],
        "agent": { "argv": ["sh", "-c", deaf], "terminal": {}, "stop": { "grace_ms": 600_000 } },
        "shutdown": { "total_ms": 1000 },
    }))?;
    init.sh("setsid -f sh -c \"trap '' TERM; while :; do sleep 0.02; done\" </dev/null >/dev/null 2>&1")?;
    let began = Instant::now();
    init.stop(false)?;
    // The grace of ten minutes gives way to the total of a second.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn force_asks_nobody() -> anyhow::Result<()> {
    let mut init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", "trap 'echo asked >>asked' TERM HUP; echo up; while :; do sleep 0.02; done"],
            "terminal": {}, "stop": { "grace_ms": 600_000 },
        },
        "shutdown": { "total_ms": 600_000 },
    }))?;
    init.wait_for("the agent to be ready", |what| matches!(what, What::UnitReady { .. }).then_some(()))?;
    init.stop(true)?;
    assert_eq!(init.read("asked"), "");
    Ok(())
}

#[test]
fn a_second_stop_with_force_shortens_the_first_and_nothing_new_starts() -> anyhow::Result<()> {
    let mut init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", "trap '' TERM HUP; echo up; while :; do sleep 0.02; done"],
            "terminal": {}, "stop": { "grace_ms": 600_000 },
        },
        "shutdown": { "total_ms": 600_000 },
    }))?;
    init.wait_for("the agent to be ready", |what| matches!(what, What::UnitReady { .. }).then_some(()))?;
    let mut first = Raw::ask(&init.socket(), &Request::Stop { force: false })?;
    assert!(matches!(first.message()?, ServerMessage::Done));
    let refused = init.exec(&agent_tests::shell("echo too late"))?.expect_err("a command during the end");
    assert_eq!(refused.kind, FailureKind::Stopping);
    match init.ask(&Request::RestartAgent)? {
        ServerMessage::Failed(failure) => assert!(failure.message.contains("stopping"), "{failure}"),
        other => panic!("{other:?}"),
    }
    init.stop(true)?;
    first.until_end()
}

#[test]
fn the_end_of_the_agent_is_the_end_of_the_sandbox_where_that_was_asked_for() -> anyhow::Result<()> {
    for (script, code) in [("exit 7", 7), ("kill -TERM $$", 143), ("exit 0", 0)] {
        let mut init = Init::start(json!({
            "agent": {
                "argv": ["sh", "-c", format!("until test -e go; do sleep 0.02; done; {script}")],
                "terminal": {}, "restart": { "policy": "never" },
            },
            "on_agent_exit": "end", "linger_ms": 0,
        }))?;
        init.sh("touch go")?;
        assert_eq!(init.ended()?, code, "{script}");
    }
    Ok(())
}

/// Init stays until a viewer knows how it ended, so that `run` has an exit code to give.
#[test]
fn the_exit_waits_for_a_viewer_but_not_for_ever() -> anyhow::Result<()> {
    let spec = |linger: u64| {
        json!({
            "agent": {
                "argv": ["sh", "-c", "until test -e go; do sleep 0.02; done; exit 5"],
                "terminal": {}, "restart": { "policy": "never" },
            },
            "on_agent_exit": "end", "linger_ms": linger,
        })
    };
    let mut init = Init::start(spec(600_000))?;
    init.sh("touch go")?;
    init.exit_of("agent", 0)?;
    // Nobody watched; the one who comes now is told.
    let request = AttachRequest { lease: LeaseWish::Watch, size: None, from: AttachFrom::Offset(0) };
    let mut viewer = Raw::ask(&init.socket(), &Request::Attach(request))?;
    let ended = loop {
        match viewer.hear()? {
            Heard::Message(ServerMessage::SessionEnded(ended)) => break ended,
            Heard::End => anyhow::bail!("the viewer was told nothing"),
            _ => {}
        }
    };
    assert_eq!((ended.exit.how, ended.next), (How::Code(5), Next::End));
    assert_eq!(init.ended()?, 5);

    let mut init = Init::start(spec(100))?;
    init.sh("touch go")?;
    assert_eq!(init.ended()?, 5);
    Ok(())
}
