use agent_protocol::message::TerminalSize;
use serde_json::json;
use tokio::task::LocalSet;

use super::*;
use crate::{output::Outputs, session::terminal::Terminal};

/// A loop as it is before its first turn.
fn idle(spec: serde_json::Value) -> Loop {
    let spec = InitSpec::from_json(spec.to_string().as_bytes()).unwrap();
    let terminal = Terminal::new(TerminalSize { columns: 80, rows: 24 });
    let shared = Rc::new(Shared::new(terminal, Outputs::new(std::iter::empty())));
    Loop::new(spec, shared, Vec::new())
}

fn inside<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    LocalSet::new().block_on(&runtime, work())
}

#[test]
fn a_fault_in_one_answer_is_survived_and_told() {
    inside(async || {
        let mut init = idle(json!({ "version": 1, "name": "box" }));
        let shared = Rc::clone(&init.shared);
        let (reply, answer) = oneshot::channel();
        // Any fault would do; this one is a borrow that is in the way.
        let in_the_way = shared.terminal.borrow_mut();
        init.survive(|this| this.handle(Event::Ask(Ask::Status(reply))));
        drop(in_the_way);
        assert!(answer.await.is_err(), "who asked is not left waiting");

        let (reply, answer) = oneshot::channel();
        init.survive(|this| this.handle(Event::Ask(Ask::Status(reply))));
        let status = answer.await.unwrap();
        assert_eq!(status.warnings, ["init met a fault of its own 1 times"]);
    });
}
