//! Agents beside the main one, as processes: each has a terminal of its own, and goes whole.

use agent_protocol::{
    Request, ServerMessage,
    exit::{How, KilledBy},
    failure::FailureKind,
    frame::Kind,
    message::{
        AddAgent, AttachFrom, AttachRequest, AttachTo, LeaseWish, LogFrom, LogRequest, Next, UnitKind,
        UnitState, What,
    },
};
use agent_tests::{Heard, Init, Raw, until};
use anyhow::ensure;
use serde_json::json;

fn main_agent() -> serde_json::Value {
    json!({ "argv": ["sh", "-c", "echo I am $WHO; exec sleep 1000"], "env": { "WHO": "main" }, "terminal": {} })
}

fn add(init: &Init, name: &str, agent: &serde_json::Value, like_main: bool) -> anyhow::Result<ServerMessage> {
    init.ask(&Request::AddAgent(AddAgent { name: name.to_owned(), agent: agent.to_string(), like_main }))
}

fn refused(answer: &ServerMessage) -> (FailureKind, String) {
    match answer {
        ServerMessage::Failed(failure) => (failure.kind, failure.message.clone()),
        other => panic!("{other:?}"),
    }
}

fn attach(init: &Init, unit: &str, lease: LeaseWish) -> anyhow::Result<Raw> {
    let attach = AttachRequest { lease, size: None, from: AttachFrom::Offset(0) };
    Raw::ask(&init.socket(), &Request::AttachTo(AttachTo { unit: unit.to_owned(), attach }))
}

/// Reads a terminal until it has shown this.
fn shown(viewer: &mut Raw, text: &str) -> anyhow::Result<()> {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        match viewer.hear()? {
            Heard::Data { kind: Kind::Terminal, bytes, .. } => all.extend(bytes),
            Heard::Message(_) => {}
            other => {
                anyhow::bail!("{other:?} instead of `{text}`, behind {:?}", String::from_utf8_lossy(&all))
            }
        }
    }
    Ok(())
}

fn log(init: &Init, unit: &str) -> anyhow::Result<String> {
    let request = LogRequest { unit: unit.to_owned(), from: LogFrom::Offset(0), follow: false };
    let mut reader = Raw::ask(&init.socket(), &Request::Log(request))?;
    let mut all = Vec::new();
    loop {
        match reader.hear()? {
            Heard::Data { bytes, .. } => all.extend(bytes),
            Heard::Message(_) => {}
            Heard::End => return Ok(String::from_utf8_lossy(&all).into_owned()),
        }
    }
}

#[test]
fn each_has_its_own_terminal_and_the_main_ones_variables() -> anyhow::Result<()> {
    let other = json!({ "argv": ["sh", "-c", "echo I am other; exec cat"], "terminal": {} });
    let init = Init::start(json!({ "agent": main_agent(), "agents": { "other": other } }))?;
    let added = add(&init, "fix", &json!({ "terminal": {}, "env": { "WHO": "fix" } }), true)?;
    ensure!(matches!(added, ServerMessage::Done), "{added:?}");
    let keys = json!({ "argv": ["sh", "-c", "echo $WHO again; exec cat"], "terminal": {} });
    add(&init, "keys", &keys, true)?;
    for (unit, text) in
        [("agent", "I am main"), ("other", "I am other"), ("fix", "I am fix"), ("keys", "main again")]
    {
        shown(&mut attach(&init, unit, LeaseWish::Watch)?, text)?;
        assert_eq!(log(&init, unit)?.trim_end(), text);
        assert_eq!(init.unit(unit)?.kind, UnitKind::Agent);
    }
    let mut viewer = attach(&init, "keys", LeaseWish::IfFree)?;
    viewer.send(Kind::Terminal, 0, b"typed\r")?;
    shown(&mut viewer, "typed")?;
    assert!(!log(&init, "other")?.contains("typed") && !log(&init, "agent")?.contains("typed"));
    assert_eq!(init.status()?.units[0].name, "agent");
    Ok(())
}

#[test]
fn a_killed_one_comes_back_and_nobody_else_notices() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": main_agent() }))?;
    add(&init, "fix", &json!({ "terminal": {} }), true)?;
    let pids = || anyhow::Ok((init.unit("agent")?.pid, init.unit("fix")?.pid));
    let before = until("both to run", || {
        let pids = pids()?;
        Ok((pids.0.is_some() && pids.1.is_some()).then_some(pids))
    })?;
    init.sh(&format!("kill -9 {}", before.1.unwrap()))?;
    let (_, exit) = init.exit_of("fix", 0)?;
    assert_eq!((exit.how, exit.killed_by), (How::Signal(9), KilledBy::Unknown));
    let fix = until("another", || Ok(init.unit("fix")?.pid.filter(|pid| Some(*pid) != before.1)))?;
    assert!(matches!(init.ask(&Request::RestartUnit { name: "fix".to_owned() })?, ServerMessage::Done));
    until("one more", || Ok(init.unit("fix")?.pid.filter(|pid| *pid != fix)))?;
    assert_eq!(pids()?.0, before.0);
    assert_eq!(init.unit("fix")?.restarts, 2);
    let unknown = init.ask(&Request::RestartUnit { name: "x".to_owned() })?;
    assert_eq!(refused(&unknown).0, FailureKind::Unknown);
    Ok(())
}

#[test]
fn one_that_is_removed_goes_with_all_it_started_and_its_viewers_are_let_go() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": main_agent() }))?;
    let daemon = "trap \"\" TERM HUP; echo $$ >pid.new; mv pid.new daemon; sleep 1000";
    let script = format!("(setsid sh -c '{daemon}' &); echo up; trap '' TERM; sleep 1000; exec sleep 1000");
    let agent = json!({ "argv": ["sh", "-c", script], "terminal": {}, "stop": { "grace_ms": 100 } });
    add(&init, "fix", &agent, false)?;
    let mut viewer = attach(&init, "fix", LeaseWish::Watch)?;
    shown(&mut viewer, "up")?;
    let daemon = init.wait_for_file("daemon", |pid| pid.ends_with('\n'))?;
    let removed = init.ask(&Request::RemoveAgent { name: "fix".to_owned(), force: false })?;
    ensure!(matches!(removed, ServerMessage::Done), "{removed:?}");
    let there = format!("kill -0 {}", daemon.trim());
    // It is dead, and a moment later also reaped.
    agent_tests::until("what it left behind to be gone", || {
        Ok((init.sh(&there)?.exit.how == How::Code(1)).then_some(()))
    })?;
    loop {
        match viewer.hear()? {
            Heard::Message(ServerMessage::SessionEnded(ended)) => assert_eq!(ended.next, Next::Exited),
            Heard::End => break,
            _ => {}
        }
    }
    init.wait_for("the removal", |what| {
        matches!(what, What::UnitRemoved { unit } if unit == "fix").then_some(())
    })?;
    assert!(init.unit("fix").is_err());
    let again = init.ask(&Request::RemoveAgent { name: "fix".to_owned(), force: false })?;
    assert_eq!(refused(&again).0, FailureKind::Unknown);
    // The name is free, and its log begins anew.
    add(&init, "fix", &json!({ "argv": ["sh", "-c", "echo new; exec cat"], "terminal": {} }), false)?;
    shown(&mut attach(&init, "fix", LeaseWish::Watch)?, "new")?;
    assert_eq!(log(&init, "fix")?.trim_end(), "new");
    Ok(())
}

#[test]
fn what_cannot_be_an_agent_is_refused() -> anyhow::Result<()> {
    let init = Init::start(json!({ "agent": main_agent() }))?;
    let fine = json!({ "terminal": {} });
    for (name, agent) in
        [("../x", &fine), ("agent", &fine), ("fix", &json!({})), ("fix", &json!({ "terminal": {}, "x": 1 }))]
    {
        let (kind, why) = refused(&add(&init, name, agent, true)?);
        assert_eq!(kind, FailureKind::BadRequest, "{name}: {why}");
    }
    assert_eq!(refused(&add(&init, "fix", &fine, false)?).0, FailureKind::BadRequest, "no program");
    add(&init, "fix", &fine, true)?;
    assert_eq!(refused(&add(&init, "fix", &fine, true)?).0, FailureKind::WrongState);
    let main = init.ask(&Request::RemoveAgent { name: "agent".to_owned(), force: true })?;
    assert_eq!(refused(&main), (FailureKind::WrongState, "`agent` cannot be removed".to_owned()));
    let unknown = attach(&init, "x", LeaseWish::Watch)?.message()?;
    assert_eq!(refused(&unknown).0, FailureKind::Unknown);
    Ok(())
}

#[test]
fn a_missing_folder_parks_one_and_the_others_run() -> anyhow::Result<()> {
    let lost = json!({ "argv": ["sleep", "1000"], "workdir": "/no/such/folder", "terminal": {} });
    let init = Init::start(json!({ "agent": main_agent(), "agents": { "lost": lost } }))?;
    let lost = until("it to be parked", || {
        Ok(Some(init.unit("lost")?).filter(|unit| unit.state == UnitState::Parked))
    })?;
    assert!(lost.reason.unwrap().contains("/no/such/folder"));
    assert!(init.unit("agent")?.pid.is_some());
    Ok(())
}

#[test]
fn the_main_agents_exit_is_the_sandboxs() -> anyhow::Result<()> {
    let other = json!({ "argv": ["sh", "-c", "touch up; exec sleep 1000"], "terminal": {} });
    let main = json!({ "argv": ["sh", "-c", "until test -e up; do sleep 0.01; done; exit 7"], "terminal": {}, "restart": { "policy": "never" } });
    let mut init = Init::start(json!({
        "agent": main, "agents": { "other": other }, "on_agent_exit": "end", "linger_ms": 0,
    }))?;
    assert_eq!(init.ended()?, 7);
    Ok(())
}
