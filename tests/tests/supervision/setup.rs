//! Setup steps, and services that wait for each other.

use agent_protocol::{
    Request, ServerMessage,
    message::{Phase, UnitState, What},
};
use agent_tests::{Init, notify};
use serde_json::json;

#[test]
fn steps_run_in_order_and_the_agent_after_them() -> anyhow::Result<()> {
    let step = |name: &str| {
        let script = format!("echo {name} begins >>order; sleep 0.05; echo {name} ends >>order");
        json!({ "name": name, "argv": ["sh", "-c", script] })
    };
    let init = Init::start(json!({
        "steps": [step("one"), step("two"), step("three")],
        "agent": { "argv": ["sh", "-c", "echo agent >>order; sleep 1000"], "terminal": {} },
    }))?;
    let order = init.wait_for_file("order", |text| text.ends_with("agent\n"))?;
    let expected = "one begins\none ends\ntwo begins\ntwo ends\nthree begins\nthree ends\nagent\n";
    assert_eq!(order, expected);
    init.wait_for("the setup's end", |what| (*what == What::SetupDone).then_some(()))?;
    assert_eq!(init.status()?.phase, Phase::Running);
    Ok(())
}

#[test]
fn a_failing_step_stops_the_setup_and_restart_goes_on_from_it() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "steps": [
            { "name": "once", "argv": ["sh", "-c", "echo once >>order"] },
            { "name": "fails", "argv": ["sh", "-c", "echo fails >>order; echo no such luck >&2; test -e fixed"] },
            { "name": "after", "argv": ["sh", "-c", "echo after >>order"] },
        ],
        "agent": { "argv": ["sh", "-c", "echo agent >>order; sleep 1000"], "terminal": {} },
    }))?;
    let reason = init.wait_for("the setup to fail", |what| match what {
        What::SetupFailed { reason } => Some(reason.clone()),
        _ => None,
    })?;
    assert!(reason.contains("fails"), "{reason}");
    let status = init.status()?;
    assert_eq!(status.phase, Phase::SetupFailed);
    let state = |name: &str| status.units.iter().find(|unit| unit.name == name).map(|unit| unit.state);
    assert_eq!(state("agent"), Some(UnitState::Waiting));
    assert_eq!(state("fails"), Some(UnitState::Parked));
    assert_eq!(init.read("order"), "once\nfails\n");

    // The sandbox can be looked at, and repaired.
    assert_eq!(init.sh("cat order; touch fixed")?.stdout, b"once\nfails\n");
    assert!(matches!(init.ask(&Request::RestartAgent)?, ServerMessage::Done));
    let order = init.wait_for_file("order", |text| text.ends_with("agent\n"))?;
    assert_eq!(order, "once\nfails\nfails\nafter\nagent\n");
    assert_eq!(init.status()?.phase, Phase::Running);
    Ok(())
}

#[test]
fn a_step_that_takes_too_long_is_killed_with_all_it_started() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "steps": [{
            "name": "slow", "timeout_ms": 200,
            "argv": ["sh", "-c", "setsid sleep 1234 & sleep 1234"],
        }],
        "agent": { "argv": ["sleep", "1000"], "terminal": {} },
    }))?;
    let (_, exit) = init.exit_of("slow", 0)?;
    assert_eq!(exit.killed_by, agent_protocol::exit::KilledBy::Timeout);
    init.wait_for("the setup to fail", |what| matches!(what, What::SetupFailed { .. }).then_some(()))?;
    agent_tests::until("nothing of the step to be left", || {
        let left = init.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
        Ok((!String::from_utf8_lossy(&left.stdout).contains("sleep 1234")).then_some(()))
    })
}

#[test]
fn commands_run_while_the_setup_does() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "steps": [{ "name": "waits", "argv": ["sh", "-c", "until test -e go; do sleep 0.02; done"] }],
        "agent": { "argv": ["sleep", "1000"], "terminal": {} },
    }))?;
    assert_eq!(init.status()?.phase, Phase::Setup);
    assert_eq!(init.sh("echo here; touch go")?.stdout, b"here\n");
    init.wait_for("the setup's end", |what| (*what == What::SetupDone).then_some(()))
}

#[test]
fn services_start_when_those_before_them_are_ready_and_the_agent_last() -> anyhow::Result<()> {
    let service = |name: &str, after: &[&str]| {
        let script = format!(
            "echo {name} starts >>order; sleep 0.1; echo {name} ready >>order; {}; sleep 1000",
            notify("READY=1")
        );
        json!({ "name": name, "argv": ["sh", "-c", script], "readiness": "notify", "after": after })
    };
    let init = Init::start(json!({
        "services": [service("web", &["db", "queue"]), service("queue", &["db"]), service("db", &[])],
        "agent": { "argv": ["sh", "-c", "echo agent >>order; sleep 1000"], "terminal": {} },
    }))?;
    let order = init.wait_for_file("order", |text| text.ends_with("agent\n"))?;
    let expected = "db starts\ndb ready\nqueue starts\nqueue ready\nweb starts\nweb ready\nagent\n";
    assert_eq!(order, expected);
    Ok(())
}

#[test]
fn what_a_step_wrote_can_be_read_and_followed() -> anyhow::Result<()> {
    use agent_protocol::message::{LogFrom, LogRequest};
    use agent_tests::{Heard, Raw};
    let init = Init::start(json!({
        "steps": [{ "name": "talks", "argv": ["sh", "-c", "echo to out; echo to err >&2; exit 3"] }],
        "agent": { "argv": ["sleep", "1000"], "terminal": {} },
    }))?;
    init.exit_of("talks", 0)?;
    let request = LogRequest { unit: "talks".to_owned(), from: LogFrom::Offset(0), follow: false };
    let mut raw = Raw::ask(&init.socket(), &Request::Log(request))?;
    let mut log = Vec::new();
    while let Heard::Data { bytes, .. } = raw.hear()? {
        log.extend(bytes);
    }
    assert_eq!(String::from_utf8(log)?, "to out\nto err\n");
    Ok(())
}
