//! Git's pack protocol for one client: the environment's own git gets the connection, and nothing stands between.

use std::cell::Cell;

use agent_protocol::{
    exit::How,
    failure::{Failure, FailureKind},
    message::{ExecRequest, GitRequest, GitService, Stdio},
};
use tokio::time::timeout;

use super::{
    REPLY_WITHIN, Server,
    connection::{Incoming, Outgoing},
    exec::{ClientGone, Exit, ended},
    pipe::ReadEnd,
};
use crate::sandbox::{Ask, Ends, GIT_PROTOCOL};

/// Runs of git that go on at once. Each packs what it sends: processors and memory are the bound.
const MAX_GIT: u32 = 16;

/// For one run, from its start to its end. The client decides what silence is.
const GIT_WITHIN_MS: u64 = 3600 * 1000;

/// The last of git's standard error that a client is told, bytes.
const KEPT_ERRORS_BYTES: usize = 1000;

/// What is still read of it once git has ended, bytes.
const LAST_ERRORS_BYTES: usize = 64 * 1024;

/// Lets git speak with the client until one of them ends.
pub(super) async fn run(
    server: &Server,
    request: GitRequest,
    incoming: &Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    if incoming.has_more() {
        return Err(Failure::new(FailureKind::BadRequest, "git speaks first"));
    }
    let _place = Place::take(&server.shared.git_runs)?;
    let client = incoming.hand_over().map_err(|error| Failure::new(FailureKind::Limit, error.to_string()))?;
    let request = Box::new(command(request));
    let asked = server.ask(|reply| Ask::Exec { request, git: Some(client), reply }).await;
    let started = asked.and_then(|started| started).inspect_err(|_| incoming.take_back())?;
    let Ends::Git { errors } = started.ends else { return Ok(()) };
    let client = ClientGone { server, exec: started.id, disarmed: Cell::new(false) };
    let mut exit = started.exit;
    let said = tokio::select! {
        said = last_words(errors, &mut exit) => said,
        () = incoming.closed() => return Ok(()),
    };
    client.disarmed.set(true);
    if let Some(said) = said {
        incoming.take_back();
        // A client may have gone, or be in the middle of something that ends here anyway.
        let _ = timeout(REPLY_WITHIN, outgoing.raw(&error_packet(&said))).await;
    }
    incoming.shut_down();
    Ok(())
}

/// One of the places for runs, for as long as it is held.
struct Place<'a>(&'a Cell<u32>);

impl<'a> Place<'a> {
    fn take(open: &'a Cell<u32>) -> Result<Self, Failure> {
        if open.get() >= MAX_GIT {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_GIT} transfers run already")));
        }
        open.set(open.get() + 1);
        Ok(Self(open))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// The environment's own git, as one side of the protocol; the loop adds the folder. What the repository makes it do
/// happens in here, as the agent's user, where the agent could have done it as well.
fn command(request: GitRequest) -> ExecRequest {
    let service = match request.service {
        GitService::UploadPack => "upload-pack",
        GitService::ReceivePack => "receive-pack",
    };
    // Whoever owns the folder: nobody's rights are borrowed here (safe.directory, git-config(1)).
    let argv = ["git", "-c", "safe.directory=*", service].map(Vec::from).to_vec();
    let version = format!("version={}", request.version);
    ExecRequest {
        argv,
        env: [("LC_ALL", "C"), (GIT_PROTOCOL, &version)]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
        directory: request.directory,
        user: None,
        stdin: false,
        stdio: Stdio::Detached,
        timeout_ms: Some(GIT_WITHIN_MS),
    }
}

/// Reads git's standard error to its end, or as far as it goes once git has ended, and waits for that. What it said last
/// where it failed.
async fn last_words(errors: ReadEnd, exit: &mut Exit) -> Option<String> {
    let mut said = Vec::new();
    let mut buf = vec![0; KEPT_ERRORS_BYTES];
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
        let too_many = said.len().saturating_sub(KEPT_ERRORS_BYTES);
        said.drain(..too_many);
        if exit.borrow().is_some() {
            left = left.saturating_sub(read);
        }
    }
    match ended(exit).await?.how {
        How::Code(0) => None,
        How::Signal(signal) => Some(format!("git was killed by signal {signal}")),
        How::Code(_) => Some(String::from_utf8_lossy(&said).trim().replace('\n', "; ")),
    }
}

/// An error as the protocol has it (gitprotocol-pack(5), `ERR`).
fn error_packet(said: &str) -> Vec<u8> {
    const LENGTH_BYTES: usize = 4;
    let packet = format!("ERR {}\n", said.trim_start_matches("fatal: "));
    format!("{:04x}{packet}", packet.len() + LENGTH_BYTES).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_a_place_becomes_free_again() {
        let open = Cell::new(0);
        let mut places: Vec<_> = (0..MAX_GIT).map(|_| Place::take(&open).unwrap()).collect();
        assert_eq!(Place::take(&open).err().unwrap().kind, FailureKind::Busy);
        places.pop();
        assert!(Place::take(&open).is_ok());
    }

    #[test]
    fn what_git_says_becomes_a_packet() {
        assert_eq!(error_packet("fatal: no"), b"000bERR no\n");
        // Bytes that are no text grow to three each.
        let longest = String::from_utf8_lossy(&[0xff; KEPT_ERRORS_BYTES]).into_owned();
        assert_eq!(error_packet(&longest)[..4], *b"0bc1");
    }

    #[test]
    fn the_command_is_gits_and_the_folder_its_last_argument_to_be() {
        let request = GitRequest { service: GitService::ReceivePack, directory: None, version: 2 };
        let command = command(request);
        assert_eq!(command.argv.last().unwrap(), b"receive-pack");
        assert_eq!(command.env[1], (b"GIT_PROTOCOL".to_vec(), b"version=2".to_vec()));
    }
}
