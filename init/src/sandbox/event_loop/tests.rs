use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_protocol::message::{AttachFrom, AttachRequest, LeaseWish, TerminalSize};
use serde_json::json;
use tokio::task::LocalSet;

use tokio::sync::oneshot;

use super::*;
use crate::{
    output::Outputs,
    session::{
        Session,
        terminal::{Notice, Step},
    },
};

/// A loop as it is before its first turn.
fn idle(spec: &serde_json::Value) -> Loop {
    let spec = InitSpec::from_json(spec.to_string().as_bytes()).unwrap();
    let main = Session::new(TerminalSize { columns: 80, rows: 24 });
    let shared = Rc::new(Shared::new(main, Outputs::new(std::iter::empty())));
    Loop::new(spec, shared, None, None, Vec::new())
}

fn inside<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    LocalSet::new().block_on(&runtime, work())
}

#[test]
fn a_fault_in_one_answer_is_survived_and_told() {
    inside(async || {
        let mut init = idle(&json!({ "version": 1, "name": "box" }));
        let shared = Rc::clone(&init.shared);
        let (reply, answer) = oneshot::channel();
        // Any fault would do; this one is a borrow that is in the way.
        let in_the_way = shared.main.terminal.borrow_mut();
        init.survive(|this| this.handle(Event::Ask(Ask::Status(reply))));
        drop(in_the_way);
        assert!(answer.await.is_err(), "who asked is not left waiting");

        let (reply, answer) = oneshot::channel();
        init.survive(|this| this.handle(Event::Ask(Ask::Status(reply))));
        let status = answer.await.unwrap();
        assert_eq!(status.warnings, ["init met a fault of its own 1 times"]);
    });
}

/// Two loops in one process would take each other's children for their own, so those that start some take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a collector of an agent's terminal is told about its sessions.
fn told(session: &Session) -> Vec<(&'static str, u64)> {
    let request = AttachRequest {
        lease: LeaseWish::Watch,
        size: None,
        from: AttachFrom::Offset(session.terminal.borrow().end()),
    };
    let (mut cursor, attached) = session.terminal.borrow_mut().attach(&request).unwrap();
    let mut told = Vec::new();
    loop {
        match session.terminal.borrow_mut().step(&mut cursor, 1, &mut Vec::new()) {
            Step::Notice(Notice::Started(started)) => told.push(("started", started.session.0)),
            Step::Notice(Notice::Ended(ended)) => told.push(("ended", ended.session.0)),
            Step::Wait => break,
            _ => {}
        }
    }
    session.terminal.borrow_mut().detach(attached.viewer);
    told
}

#[test]
fn a_restart_on_request_ends_the_old_session_before_it_starts_the_new_one() {
    let _turn = turn();
    inside(async || {
        let agent = json!({ "argv": ["/bin/sleep", "9"], "terminal": {} });
        let mut init = idle(
            &json!({ "version": 1, "name": "box", "control": { "listen": { "fd": 3 } }, "agent": agent }),
        );
        init.supervise(supervise::Event::Timer);
        let (reply, answer) = oneshot::channel();
        init.handle(Event::Ask(Ask::RestartAgent(reply)));
        answer.await.unwrap().unwrap();
        let (first, _) = *init.roles.values().next().unwrap();
        // It is not really waited for: tests that run beside this one have children too.
        let exit = children::Exit::Signal { signal: Signal::TERM, core_dumped: false };
        let usage = children::Usage { user: Duration::ZERO, system: Duration::ZERO, max_rss_kib: 0 };
        init.ended(&Reaped { child: first, exit, usage });
        assert_eq!(told(&init.shared.main), [("started", 1), ("ended", 1), ("started", 2)]);
        for (child, _) in init.roles.values() {
            init.children.kill_tree(*child, Signal::KILL).unwrap();
        }
    });
}

#[test]
fn what_a_run_left_behind_is_gone_before_the_next_one_starts() {
    let _turn = turn();
    inside(async || {
        let folder = std::env::temp_dir().join(format!("agent-init-left-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let said = folder.join("said");
        // A daemon as they are made, deaf to SIGTERM; the unit itself stays.
        let script = format!(
            "(setsid sh -c 'trap \"\" TERM; echo $$ >{0}.new; mv {0}.new {0}; sleep 20' &); sleep 20",
            said.display()
        );
        let agent = json!({ "argv": ["/bin/sh", "-c", script] });
        let mut init =
            idle(&json!({ "version": 1, "name": "box", "env": { "PATH": "/usr/bin:/bin" }, "agent": agent }));
        init.supervise(supervise::Event::Timer);
        let give_up = std::time::Instant::now() + Duration::from_secs(10);
        let daemon = loop {
            match std::fs::read_to_string(&said) {
                Ok(pid) => break pid.trim().to_owned(),
                Err(error) => assert!(std::time::Instant::now() < give_up, "no daemon: {error}"),
            }
            std::thread::yield_now();
        };
        let is_there = || {
            let stat = std::fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
        };
        let (first, _) = *init.roles.values().next().unwrap();
        init.children.forget_for_test(first);
        let run = init
            .units
            .start(&mut init.children, &init.defaults, &init.spec, &init.shared, UnitId::Agent)
            .unwrap();
        init.children.kill_tree(run.child, Signal::KILL).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!is_there(), "the daemon of the first run");
    });
}

#[test]
fn a_flood_of_signals_from_inside_is_logged_once_for_each() {
    let mut init = idle(&json!({ "version": 1, "name": "box" }));
    init.is_first = true;
    for signal in [Signal::TERM, Signal::HUP, Signal::TERM, Signal::TERM] {
        init.signalled(Received { signal, origin: Origin::Inside, pid: 7 });
    }
    assert_eq!(init.ignored, HashSet::from([Signal::TERM, Signal::HUP]));
    assert!(!init.stopping);
}
