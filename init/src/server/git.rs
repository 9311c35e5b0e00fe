//! Git's pack protocol for one client: the environment's own git gets the connection, and nothing stands between.

use std::{cell::Cell, collections::VecDeque, rc::Rc};

use agent_protocol::{
    ServerMessage,
    exit::How,
    failure::{Failure, FailureKind, MAX_MESSAGE_BYTES},
    message::{ExecRequest, GitId, GitRequest, GitService, Stdio},
};
use tokio::sync::watch;

use super::{
    Server,
    connection::{Incoming, Outgoing},
    exec::{ClientGone, Exit, ended},
    pipe::ReadEnd,
    reply,
};
use crate::sandbox::{Ask, Ends, GIT_PROTOCOL};

/// Runs of git that go on at once. Each packs what it sends: processors and memory are the bound.
const MAX_GIT: usize = 16;

/// Ends of runs kept for whoever asks later.
const KEPT_ENDS: usize = 64;

/// For one run, from its start to its end. The client decides what silence is.
const GIT_WITHIN_MS: u64 = 3600 * 1000;

/// What is still read of git's standard error once it has ended, bytes.
const LAST_ERRORS_BYTES: usize = 64 * 1024;

/// How a run has ended, or why it could not begin.
type End = Result<(), Failure>;

/// Runs of git, by number.
#[derive(Default)]
pub(crate) struct GitRuns {
    last: u64,
    open: Rc<Cell<usize>>,
    ends: VecDeque<(GitId, watch::Receiver<Option<End>>)>,
}

impl GitRuns {
    fn begin(&mut self) -> Result<(GitId, Run), Failure> {
        if self.open.get() >= MAX_GIT {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_GIT} transfers run already")));
        }
        self.open.set(self.open.get() + 1);
        self.last += 1;
        let (end, told) = watch::channel(None);
        if self.ends.len() == KEPT_ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back((GitId(self.last), told));
        Ok((GitId(self.last), Run { open: Rc::clone(&self.open), end }))
    }

    fn end(&self, id: GitId) -> Option<watch::Receiver<Option<End>>> {
        self.ends.iter().find(|(of, _)| *of == id).map(|(_, end)| end.clone())
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
    let (id, run) = server.shared.git.borrow_mut().begin()?;
    // Git speaks as soon as it runs, so this is said before; where it cannot run, that is told to who asks.
    if outgoing.message(&ServerMessage::GitReady(id)).await.is_err() {
        return Ok(());
    }
    let end = serve(server, request, incoming).await;
    let is_known = end.is_some();
    run.end.send_replace(end);
    if is_known {
        incoming.shut_down();
    }
    Ok(())
}

/// `None` where the client has gone before git had ended.
async fn serve(server: &Server, request: GitRequest, incoming: &Incoming) -> Option<End> {
    let client = match incoming.hand_over() {
        Ok(client) => client,
        Err(error) => return Some(Err(Failure::new(FailureKind::Limit, error.to_string()))),
    };
    let request = Box::new(command(request));
    let asked = server.ask(|reply| Ask::Exec { request, git: Some(client), reply }).await;
    let started = match asked.and_then(|started| started) {
        Ok(started) => started,
        Err(failure) => return Some(Err(failure)),
    };
    let Ends::Git { errors } = started.ends else { return None };
    let client = ClientGone { server, exec: started.id, disarmed: Cell::new(false) };
    let mut exit = started.exit;
    let end = tokio::select! {
        said = last_words(errors, &mut exit) => Some(said),
        () = incoming.closed() => None,
    };
    client.disarmed.set(end.is_some());
    end
}

/// The environment's own git, as one side of the protocol. What the repository makes it do happens in here, as the
/// agent's user, where the agent could have done it as well.
fn command(request: GitRequest) -> ExecRequest {
    let service: &[u8] = match request.service {
        GitService::UploadPack => b"upload-pack",
        GitService::ReceivePack => b"receive-pack",
    };
    // Whoever owns the folder: nobody's rights are borrowed here (safe.directory, git-config(1)).
    let argv = [b"git", &b"-c"[..], b"safe.directory=*", service].map(<[u8]>::to_vec).to_vec();
    let version = format!("version={}", request.version).into_bytes();
    ExecRequest {
        argv,
        env: vec![(b"LC_ALL".to_vec(), b"C".to_vec()), (GIT_PROTOCOL.into(), version)],
        directory: request.directory,
        user: None,
        stdin: false,
        stdio: Stdio::Detached,
        timeout_ms: Some(GIT_WITHIN_MS),
    }
}

/// Waits for the end of a run.
pub(super) async fn wait(
    server: &Server,
    id: GitId,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    let unknown = || Failure::new(FailureKind::Unknown, format!("there is no transfer {}", id.0));
    let mut end = server.shared.git.borrow().end(id).ok_or_else(unknown)?;
    let ended = tokio::select! {
        ended = end.wait_for(Option::is_some) => ended.ok().and_then(|end| (*end).clone()),
        _ = incoming.next() => return Ok(()),
    };
    // Its client left before it ended: how it ended then says nothing about git.
    ended.ok_or_else(unknown)??;
    reply(outgoing, &ServerMessage::Done).await;
    Ok(())
}

/// Reads git's standard error to its end, or as far as it goes once git has ended, and waits for that.
async fn last_words(errors: ReadEnd, exit: &mut Exit) -> End {
    let mut said = Vec::new();
    let mut buf = vec![0; MAX_MESSAGE_BYTES];
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
        said.extend_from_slice(&buf[..read]);
        let too_many = said.len().saturating_sub(MAX_MESSAGE_BYTES);
        said.drain(..too_many);
        if exit.borrow().is_some() {
            left = left.saturating_sub(read);
        }
    }
    match ended(exit).await.map(|exit| exit.how) {
        Some(How::Code(0)) => Ok(()),
        Some(How::Signal(signal)) => {
            Err(Failure::new(FailureKind::Git, format!("git was killed by signal {signal}")))
        }
        _ => Err(Failure::new(FailureKind::Git, String::from_utf8_lossy(&said).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_a_place_becomes_free_again() {
        let mut runs = GitRuns::default();
        let mut open: Vec<_> = (0..MAX_GIT).map(|_| runs.begin().unwrap()).collect();
        assert_eq!(runs.begin().err().unwrap().kind, FailureKind::Busy);
        open.pop();
        assert_eq!(runs.begin().unwrap().0, GitId(MAX_GIT as u64 + 1));
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let mut runs = GitRuns::default();
        for _ in 0..=KEPT_ENDS as u64 {
            drop(runs.begin().unwrap());
        }
        assert!(runs.end(GitId(1)).is_none());
        assert!(runs.end(GitId(2)).is_some());
    }

    #[test]
    fn the_command_is_gits_and_the_folder_its_last_argument_to_be() {
        let request = GitRequest { service: GitService::ReceivePack, directory: None, version: 2 };
        let command = command(request);
        assert_eq!(command.argv.last().unwrap(), b"receive-pack");
        assert_eq!(command.env[1], (b"GIT_PROTOCOL".to_vec(), b"version=2".to_vec()));
    }
}
