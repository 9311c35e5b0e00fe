//! Git's pack protocol for one client: the environment's own git gets the connection, and nothing stands between.

use std::{
    cell::Cell,
    collections::VecDeque,
    io::{self, PipeReader},
    rc::Rc,
};

use agent_protocol::{
    ServerMessage,
    exit::ExitRecord,
    failure::{Failure, FailureKind},
    message::{ExecId, GitEnded, GitRequest, MAX_GIT_ERRORS_BYTES},
};
use tokio::sync::watch;

use super::{
    Server,
    connection::{Incoming, Outgoing},
    exec::{ClientGone, ended},
    pipe::ReadEnd,
    reply,
};
use crate::sandbox::{Ask, GitExit, GitStreams};

/// Runs of git that go on at once. Each packs what it sends: processors and memory are the bound.
const MAX_GIT: usize = 16;

/// Ends of runs kept for whoever asks later.
const KEPT_ENDS: usize = 64;

/// What is still read of git's standard error once it has ended, bytes.
const LAST_ERRORS_BYTES: usize = 64 * 1024;

/// How a run has ended, or why it could not begin.
type End = Result<GitEnded, Failure>;

/// Runs of git, by number.
#[derive(Default)]
pub(crate) struct GitRuns {
    open: Rc<Cell<usize>>,
    ends: VecDeque<(ExecId, watch::Receiver<Option<End>>)>,
}

impl GitRuns {
    fn begin(&mut self, exec: ExecId) -> Result<Run, Failure> {
        if self.open.get() >= MAX_GIT {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_GIT} transfers run already")));
        }
        self.open.set(self.open.get() + 1);
        let (end, told) = watch::channel(None);
        if self.ends.len() == KEPT_ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back((exec, told));
        Ok(Run { open: Rc::clone(&self.open), end })
    }

    fn end(&self, exec: ExecId) -> Option<watch::Receiver<Option<End>>> {
        self.ends.iter().find(|(of, _)| *of == exec).map(|(_, end)| end.clone())
    }
}

/// One run, counted for as long as it lives.
struct Run {
    open: Rc<Cell<usize>>,
    end: watch::Sender<Option<End>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

/// Lets git speak with the client until one of them ends.
pub(super) async fn run(
    server: &Server,
    request: GitRequest,
    incoming: &Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    if incoming.has_more() {
        return Err(Failure::new(FailureKind::BadRequest, "git is spoken once init is ready for it"));
    }
    let exec = server.ask(Ask::GitNumber).await??;
    let run = server.shared.git.borrow_mut().begin(exec)?;
    // Git speaks as soon as it runs, so this is said before; where it cannot run, that is told to who asks.
    if outgoing.message(&ServerMessage::GitReady(exec)).await.is_err() {
        return Ok(());
    }
    let end = serve(server, exec, request, incoming).await;
    let is_known = !matches!(end, Ok(None));
    run.end.send_replace(end.transpose());
    if is_known {
        incoming.shut_down();
    }
    Ok(())
}

/// `None` where the client has gone before git had ended.
async fn serve(
    server: &Server,
    exec: ExecId,
    request: GitRequest,
    incoming: &Incoming,
) -> Result<Option<GitEnded>, Failure> {
    let (errors, its_errors) = io::pipe().map_err(|error| no_streams(&error))?;
    let client = incoming.hand_over().map_err(|error| no_streams(&error))?;
    let streams = GitStreams { client, errors: its_errors.into() };
    let mut exit: GitExit = server.ask(|reply| Ask::Git { exec, request, streams, reply }).await??;
    let client = ClientGone { server, exec, disarmed: Cell::new(false) };
    let mut last = exit.clone();
    let finished = async {
        let errors = last_words(errors, &mut exit).await;
        ended(&mut last).await.map(|exit: ExitRecord| GitEnded { exec, exit, errors })
    };
    let finished = tokio::select! {
        finished = finished => finished,
        () = incoming.closed() => None,
    };
    client.disarmed.set(finished.is_some());
    Ok(finished)
}

/// Waits for the end of a run.
pub(super) async fn wait(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    let unknown = || Failure::new(FailureKind::Unknown, format!("there is no transfer {}", exec.0));
    let mut end = server.shared.git.borrow().end(exec).ok_or_else(unknown)?;
    let ended = tokio::select! {
        ended = end.wait_for(Option::is_some) => ended.ok().and_then(|end| (*end).clone()),
        _ = incoming.next() => return Ok(()),
    };
    // Its client left before it ended: how it ended then says nothing about git.
    let ended = ended.ok_or_else(unknown)??;
    reply(outgoing, &ServerMessage::GitEnded(Box::new(ended))).await;
    Ok(())
}

/// Reads git's standard error to its end, or as far as it goes once git has ended; the last of it is kept.
async fn last_words(errors: PipeReader, exit: &mut GitExit) -> String {
    let mut kept = Vec::new();
    let Ok(errors) = ReadEnd::new(errors.into()) else { return String::new() };
    let mut buf = vec![0; MAX_GIT_ERRORS_BYTES];
    let mut left = LAST_ERRORS_BYTES;
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = errors.read(&mut buf) => read.unwrap_or(0),
            _ = exit.wait_for(Option::is_some) => errors.read_now(&mut buf).ok().flatten().unwrap_or(0),
        };
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&buf[..read]);
        let too_many = kept.len().saturating_sub(MAX_GIT_ERRORS_BYTES);
        kept.drain(..too_many);
        if exit.borrow().is_some() {
            left = left.saturating_sub(read);
        }
    }
    text(&kept)
}

/// What is not UTF-8 grows when it is made so.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    text.truncate(text.floor_char_boundary(MAX_GIT_ERRORS_BYTES));
    text
}

fn no_streams(error: &io::Error) -> Failure {
    Failure::new(FailureKind::Limit, format!("making git's streams: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_a_place_becomes_free_again() {
        let mut runs = GitRuns::default();
        let mut open: Vec<_> = (0..MAX_GIT as u64).map(|n| runs.begin(ExecId(n)).unwrap()).collect();
        assert_eq!(runs.begin(ExecId(99)).err().unwrap().kind, FailureKind::Busy);
        open.pop();
        assert!(runs.begin(ExecId(99)).is_ok());
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let mut runs = GitRuns::default();
        for n in 0..=KEPT_ENDS as u64 {
            drop(runs.begin(ExecId(n)).unwrap());
        }
        assert!(runs.end(ExecId(0)).is_none());
        assert!(runs.end(ExecId(1)).is_some());
    }

    #[test]
    fn what_git_says_is_cut_at_a_character() {
        assert!(text(&[0xff; MAX_GIT_ERRORS_BYTES]).len() <= MAX_GIT_ERRORS_BYTES);
        assert_eq!(text(b"fatal: x\n"), "fatal: x\n");
    }
}
