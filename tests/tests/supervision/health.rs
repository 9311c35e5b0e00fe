//! Health commands, the watchdog, and what programs say about themselves.

use agent_protocol::{
    exit::{How, KilledBy},
    message::{UnitState, What},
};
use agent_tests::{Init, notify, speak, until};
use serde_json::json;

#[test]
fn an_unhealthy_agent_is_started_anew() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", "touch healthy; echo up >>starts; sleep 1000"],
            "terminal": {}, "readiness": "none",
            "health": { "argv": ["test", "-e", "healthy"], "interval_ms": 50, "retries": 2, "start_delay_ms": 100 },
            "restart": { "backoff": { "initial_ms": 10 } },
        },
    }))?;
    init.wait_for_file("starts", |text| text == "up\n")?;
    init.sh("rm healthy")?;
    let failures = init.wait_for("the second failure", |what| match what {
        What::UnitUnhealthy { failures: failures @ 2.., .. } => Some(*failures),
        _ => None,
    })?;
    assert_eq!(failures, 2);
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!(exit.killed_by, KilledBy::Health);
    init.wait_for_file("starts", |text| text == "up\nup\n")?;
    until("the agent to run again", || {
        let agent = init.unit("agent")?;
        Ok((agent.state == UnitState::Running && agent.restarts == 1).then_some(()))
    })
}

#[test]
fn a_health_command_that_hangs_counts_as_failed_and_is_killed() -> anyhow::Result<()> {
    let init = Init::start(json!({
        "agent": {
            "argv": ["sleep", "1000"], "terminal": {}, "readiness": "none",
            "health": { "argv": ["sh", "-c", "setsid sleep 4321 & sleep 4321"], "interval_ms": 50, "timeout_ms": 100, "retries": 1 },
            "restart": { "policy": "never" },
        },
    }))?;
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!(exit.killed_by, KilledBy::Health);
    until("the probes to be gone", || {
        let left = init.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
        Ok((!String::from_utf8_lossy(&left.stdout).contains("sleep 4321")).then_some(()))
    })
}

#[test]
fn an_agent_that_promised_signs_of_life_and_hangs_is_started_anew() -> anyhow::Result<()> {
    let alive = notify("WATCHDOG=1");
    // The first run falls silent; the second one keeps its promise.
    let script = format!(
        "echo $WATCHDOG_USEC >>starts; {alive}; \
         if test -e second; then while :; do {alive}; sleep 0.1; done; fi; touch second; sleep 1000"
    );
    let init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", script], "terminal": {}, "watchdog_ms": 1500,
            "restart": { "backoff": { "initial_ms": 10 } },
            "stop": { "grace_ms": 300 },
        },
    }))?;
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!(exit.killed_by, KilledBy::Watchdog);
    assert_eq!(exit.how, How::Signal(6), "SIGABRT first, for a core or a trace");
    assert!(exit.ran_ms >= 1500, "{exit:?}");
    init.wait_for_file("starts", |text| text == "1500000\n1500000\n")?;
    assert_eq!(init.unit("agent")?.restarts, 1);
    Ok(())
}

#[test]
fn a_cry_for_help_counts_as_a_missed_sign_of_life() -> anyhow::Result<()> {
    let script = format!("trap '' ABRT; {}; sleep 1000", notify("WATCHDOG=trigger"));
    let init = Init::start(json!({
        "agent": {
            "argv": ["sh", "-c", script], "terminal": {}, "watchdog_ms": 60000,
            "restart": { "policy": "never" }, "stop": { "grace_ms": 100 },
        },
    }))?;
    let (_, exit) = init.exit_of("agent", 0)?;
    assert_eq!((exit.killed_by, exit.how), (KilledBy::Watchdog, How::Signal(9)), "deaf to SIGABRT");
    Ok(())
}

/// A status is for people, and comes from inside.
#[test]
fn what_a_unit_says_about_itself_is_shown_and_made_harmless() -> anyhow::Result<()> {
    let third = "STATUS=\\x1b[2Jgone\\x07\\xff!";
    let script = speak(&["STATUS=loading 10%", third], "sleep 1000");
    let init = Init::start(json!({ "agent": { "argv": ["sh", "-c", script], "terminal": {} } }))?;
    // Not everything that is said is an event of its own; what was said last is always shown.
    let text = init.wait_for("a status text", |what| match what {
        What::UnitStatusText { text, .. } => Some(text.clone()),
        _ => None,
    })?;
    assert_eq!(text, "loading 10%");
    let last = until("the last status", || {
        Ok(init.unit("agent")?.status_text.filter(|text| text.contains("gone")))
    })?;
    assert!(!last.contains(['\x1b', '\x07']), "{last:?}");
    Ok(())
}

#[test]
fn a_long_status_is_cut() -> anyhow::Result<()> {
    let long = format!("STATUS={}", "x".repeat(1000));
    let script = speak(&[&long], "sleep 1000");
    let init = Init::start(json!({ "agent": { "argv": ["sh", "-c", script], "terminal": {} } }))?;
    let text = until("the status", || Ok(init.unit("agent")?.status_text))?;
    assert!((200..=256).contains(&text.len()), "{} bytes", text.len());
    Ok(())
}
