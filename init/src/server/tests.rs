use agent_protocol::message::TerminalSize;
use tokio::task::LocalSet;

use super::*;
use crate::{output::Outputs, session::terminal::Terminal};

/// A server, and the questions that its tasks ask of a loop that the test plays.
fn server() -> (Server, mpsc::Receiver<Ask>) {
    let terminal = Terminal::new(TerminalSize { columns: 80, rows: 24 });
    let shared = Rc::new(Shared::new(terminal, Outputs::new(std::iter::empty())));
    let (asks, asked) = mpsc::channel(1);
    (Server { shared, asks, token: Token::default(), admission: Admission::SameUser }, asked)
}

fn inside<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    LocalSet::new().block_on(&runtime, work())
}

#[test]
fn a_question_that_broke_the_loop_is_told_from_a_loop_that_has_ended() {
    inside(async || {
        let (server, mut asked) = server();
        let (answer, ()) = tokio::join!(server.ask(Ask::Status), async { drop(asked.recv().await) });
        assert_eq!(answer.unwrap_err().kind, FailureKind::Internal);
        drop(asked);
        assert_eq!(server.ask(Ask::Status).await.unwrap_err().kind, FailureKind::Stopping);
    });
}
