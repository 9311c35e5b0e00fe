//! When a unit counts as ready.

use agent_protocol::message::{UnitState, What};
use agent_tests::{Init, notify, speak};
use serde_json::{Value, json};

/// Starts an agent that gets ready in this way once the file `go` is there; returns once it is.
fn gets_ready(readiness: &Value, script: &str) -> anyhow::Result<()> {
    let script = format!("until test -e go; do sleep 0.02; done; {script}; sleep 1000");
    let init = Init::start(json!({
        "agent": { "argv": ["sh", "-c", script], "terminal": {}, "readiness": readiness },
    }))?;
    assert_eq!(init.unit("agent")?.state, UnitState::Starting, "{readiness}");
    init.sh("touch go")?;
    init.wait_for("the agent to be ready", |what| match what {
        What::UnitReady { unit } if unit == "agent" => Some(()),
        _ => None,
    })?;
    assert_eq!(init.unit("agent")?.state, UnitState::Running, "{readiness}");
    Ok(())
}

#[test]
fn by_saying_so() -> anyhow::Result<()> {
    gets_ready(&json!("notify"), &notify("READY=1"))
}

#[test]
fn by_its_first_output_unless_it_said_so_before() -> anyhow::Result<()> {
    gets_ready(&json!("first-output"), "echo hello")?;
    gets_ready(&json!("first-output"), &notify("READY=1"))
}

#[test]
fn by_a_command_that_succeeds() -> anyhow::Result<()> {
    let command = json!({ "command": { "argv": ["test", "-e", "up"], "interval_ms": 50 } });
    gets_ready(&command, "touch up")
}

#[test]
fn by_having_run_long_enough_or_by_running_at_all() -> anyhow::Result<()> {
    for readiness in [json!({ "delay_ms": 100 }), json!("none")] {
        let init = Init::start(json!({
            "agent": { "argv": ["sleep", "1000"], "terminal": {}, "readiness": readiness },
        }))?;
        init.wait_for("the agent to be ready", |what| matches!(what, What::UnitReady { .. }).then_some(()))?;
    }
    Ok(())
}

#[test]
fn who_is_not_ready_in_time_is_killed_and_tried_again() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", "echo try >>tries; sleep 1000"],
            "terminal": {}, "readiness": "notify", "ready_timeout_ms": 150,
            "restart": { "backoff": { "initial_ms": 10 }, "fast_fail": { "count": 2 } },
        },
    }))?;
    let reason = init.wait_for("the agent to be parked", |what| match what {
        What::UnitParked { reason, .. } => Some(reason.clone()),
        _ => None,
    })?;
    let agent = init.unit("agent")?;
    assert_eq!((agent.state, agent.reason), (UnitState::Parked, Some(reason)));
    assert_eq!(init.read("tries"), "try\ntry\n");
    assert_eq!(agent.last_exit.unwrap().killed_by, agent_protocol::exit::KilledBy::Timeout);
    Ok(())
}

/// Whoever is inside can write to the socket; only the unit itself, and who shares its group, is believed.
#[test]
fn a_stranger_cannot_speak_for_a_unit() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", format!("until test -e go; do sleep 0.02; done; {}; sleep 1000", notify("STATUS=mine"))],
            "terminal": {}, "readiness": "notify",
        },
    }))?;
    // It lives on, so that it is its group that gives it away and not its being gone.
    let forged = speak(&["READY=1\\nSTATUS=forged"], "open(F,\">go\"); sleep 1000");
    let done = init.sh(&format!(
        "NOTIFY_SOCKET=/run/agent-notify; export NOTIFY_SOCKET; {forged} & until test -e go; do sleep 0.02; done"
    ))?;
    assert_eq!(done.stderr, b"", "the forged notification was sent");
    let text = init.wait_for("a status text", |what| match what {
        What::UnitStatusText { text, .. } => Some(text.clone()),
        _ => None,
    })?;
    assert_eq!(text, "mine");
    let agent = init.unit("agent")?;
    assert_eq!((agent.state, agent.status_text.as_deref()), (UnitState::Starting, Some("mine")));
    Ok(())
}
