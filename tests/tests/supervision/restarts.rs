//! When an ended unit is started again, and when not.

use agent_protocol::{
    Request, ServerMessage,
    exit::{How, KilledBy},
    message::{UnitState, What},
};
use agent_tests::{Init, until};
use serde_json::{Value, json};

/// An agent that notes its start and does this; restarts are quick.
fn agent(policy: &str, script: &str) -> Value {
    json!({
        "argv": ["sh", "-c", format!("echo start >>starts; {script}")],
        "terminal": {},
        "restart": { "policy": policy, "backoff": { "initial_ms": 20, "jitter_percent": 0 } },
    })
}

fn parked(init: &Init) -> anyhow::Result<String> {
    init.wait_for("the agent to be parked", |what| match what {
        What::UnitParked { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

#[test]
fn never_means_never() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": agent("never", "exit 3") }))?;
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!(exit.how, How::Code(3));
    until("the agent to have exited", || Ok((init.unit("agent")?.state == UnitState::Exited).then_some(())))?;
    assert_eq!(init.read("starts"), "start\n");
    assert_eq!(init.sh("echo alive")?.stdout, b"alive\n");
    Ok(())
}

#[test]
fn on_failure_means_not_after_success() -> anyhow::Result<()> {
    // Two failures, then success.
    let script = "n=$(wc -l <starts); test $n -ge 3";
    let init = Init::start(json!({ "agent": agent("on-failure", script) }))?;
    init.wait_for("the third run's end", |what| match what {
        What::UnitExited { exit, .. } if exit.how == How::Code(0) => Some(()),
        _ => None,
    })?;
    let agent = init.unit("agent")?;
    assert_eq!((agent.state, agent.restarts), (UnitState::Exited, 2));
    assert_eq!(init.read("starts"), "start\nstart\nstart\n");
    Ok(())
}

#[test]
fn always_means_after_success_too() -> anyhow::Result<()> {
    let init =
        Init::start(json!({ "agent": agent("always", "test $(wc -l <starts) = 2 && sleep 1000; exit 0") }))?;
    init.wait_for_file("starts", |text| text == "start\nstart\n")?;
    assert_eq!(init.exit_of("agent", 0)?.1.how, How::Code(0));
    Ok(())
}

#[test]
fn a_kill_is_a_failure_and_viewers_do_not_matter() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": agent("on-failure", "sleep 1000") }))?;
    let first = init.unit("agent")?.pid.expect("a pid");
    init.sh(&format!("kill -9 {first}"))?;
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!((exit.how, exit.killed_by), (How::Signal(9), KilledBy::Unknown));
    until("another agent", || Ok(init.unit("agent")?.pid.filter(|pid| *pid != first)))?;
    Ok(())
}

#[test]
fn three_quick_exits_park_it_with_the_reason_and_restart_revives_it() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": agent("always", "test -e fixed || exit 9; sleep 1000") }))?;
    let reason = parked(&init)?;
    assert!(reason.contains('3') && reason.contains("exit code 9"), "{reason}");
    let agent = init.unit("agent")?;
    assert_eq!(agent.state, UnitState::Parked);
    assert_eq!(agent.reason.as_deref(), Some(reason.as_str()));
    let delays: Vec<u64> = init
        .events()?
        .into_iter()
        .filter_map(|event| match event.what {
            What::UnitBackoff { delay_ms, .. } => Some(delay_ms),
            _ => None,
        })
        .collect();
    assert_eq!(delays, [20, 40], "each wait is twice the one before");

    // Alive for inspection, and repaired.
    assert_eq!(init.sh("cat starts; touch fixed")?.stdout, b"start\nstart\nstart\n");
    assert!(matches!(init.ask(&Request::RestartAgent)?, ServerMessage::Done));
    init.wait_for_file("starts", |text| text.lines().count() == 4)?;
    let agent = init.unit("agent")?;
    assert!(matches!(agent.state, UnitState::Starting | UnitState::Running), "{agent:?}");
    assert_eq!(agent.reason, None);
    Ok(())
}

#[test]
fn a_program_that_is_not_there_is_parked_at_once() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": { "argv": ["/no/such/program"], "terminal": {} } }))?;
    let reason = parked(&init)?;
    assert!(reason.contains("not found"), "{reason}");
    let failed = init.wait_for("the failure", |what| match what {
        What::UnitFailed { reason, .. } => Some(reason.clone()),
        _ => None,
    })?;
    assert!(failed.contains("/no/such/program"), "{failed}");
    Ok(())
}

#[test]
fn restart_ends_the_run_and_all_it_started_and_begins_a_new_one() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": agent("on-failure", "setsid sleep 2345 & exec sleep 1000") }))?;
    init.wait_for_file("starts", |text| text == "start\n")?;
    let first = init.unit("agent")?.pid;
    assert!(matches!(init.ask(&Request::RestartAgent)?, ServerMessage::Done));
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!(exit.killed_by, KilledBy::Restart);
    init.wait_for_file("starts", |text| text == "start\nstart\n")?;
    assert_ne!(init.unit("agent")?.pid, first);
    until("what the first run left behind to be gone", || {
        let left = init.sh("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx 2345")?;
        Ok((left.stdout == b"1\n").then_some(()))
    })
}
