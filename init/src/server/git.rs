//! Git's pack protocol for one client: the environment's own git, or ours, gets the connection, and nothing stands between.

use std::{cell::Cell, os::fd::OwnedFd};

use agent_protocol::{
    exit::{ExitRecord, How},
    failure::{Failure, FailureKind},
    message::{ExecRequest, GitRequest, GitService, Stdio},
};

use super::connection::Incoming;
use crate::sandbox::{GIT_PROTOCOL, MAX_GIT_ERRORS_BYTES};

/// Runs of git that go on at once. Each packs what it sends: processors and memory are the bound.
const MAX_GIT: u32 = 16;

/// For one run, from its start to its end. The client decides what silence is.
const GIT_WITHIN_MS: u64 = 3600 * 1000;

/// One of the places for runs, for as long as it is held.
pub(super) struct Place<'a>(&'a Cell<u32>);

impl<'a> Place<'a> {
    pub(super) fn take(open: &'a Cell<u32>) -> Result<Self, Failure> {
        if open.get() >= MAX_GIT {
            return Err(Failure::new(FailureKind::Busy, "too many transfers run already"));
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

/// Our own side of the protocol, where the sandbox has it: it needs no git in the environment.
const BUILT_IN: &str = "/run/agent/git";

/// One side of the protocol; the loop adds the folder. What the repository makes it do happens in here, as the agent's
/// user, where the agent could have done it as well.
///
/// Two commands, the first one first: the other is for where it is not there. Ours fetches quicker, and leaves to git what
/// only git can read. A push is git's, whose hooks the agent may rely on.
pub(super) fn commands(request: &GitRequest) -> [ExecRequest; 2] {
    // Whoever owns the folder: nobody's rights are borrowed here (safe.directory, git-config(1)).
    let git = ["git", "-c", "safe.directory=*"];
    match request.service {
        GitService::UploadPack => {
            let service = "upload-pack";
            [command(request, &[BUILT_IN, service]), command(request, &[&git[..], &[service]].concat())]
        }
        GitService::ReceivePack => {
            let service = "receive-pack";
            // The files of a branch that is checked out follow it, where nothing of the agent's is lost by that.
            let follow = ["-c", "receive.denyCurrentBranch=updateInstead", service];
            [command(request, &[&git[..], &follow].concat()), command(request, &[BUILT_IN, service])]
        }
    }
}

fn command(request: &GitRequest, words: &[&str]) -> ExecRequest {
    let version = match request.version {
        0 => "version=0",
        1 => "version=1",
        _ => "version=2",
    };
    ExecRequest {
        argv: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![(GIT_PROTOCOL.into(), version.into())],
        directory: request.directory.clone(),
        user: None,
        stdin: false,
        stdio: Stdio::Detached,
        timeout_ms: Some(GIT_WITHIN_MS),
    }
}

/// Git has ended: where it failed, its client is told what it said, the way that the protocol says such things.
pub(super) fn ended(exit: &ExitRecord, errors: &OwnedFd, incoming: &Incoming) {
    if exit.how != How::Code(0) {
        let mut said = vec![0; MAX_GIT_ERRORS_BYTES];
        let read = rustix::io::pread(errors, &mut said, 0).unwrap_or(0);
        said.truncate(said[..read].iter().position(|byte| *byte == 0).unwrap_or(read));
        incoming.last_word(&error_packet(&said));
    }
    incoming.shut_down();
}

/// An error as the protocol has it (gitprotocol-pack(5), `ERR`): a packet's length has four digits and counts itself.
fn error_packet(said: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut packet = b"0000ERR ".to_vec();
    packet.extend_from_slice(said.strip_prefix(b"fatal: ").unwrap_or(said).trim_ascii_end());
    let length = packet.len();
    for (digit, shift) in packet.iter_mut().zip([12, 8, 4, 0]) {
        *digit = DIGITS[(length >> shift) & 0xf];
    }
    packet
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
        assert_eq!(error_packet(b"fatal: no\n"), b"000aERR no");
        assert_eq!(error_packet(&[b'x'; MAX_GIT_ERRORS_BYTES])[..4], *b"0408");
    }

    #[test]
    fn there_are_two_ways_and_the_folder_is_the_last_argument_to_be() {
        let request = |service| GitRequest { service, directory: None, version: 2 };
        let words = |command: &ExecRequest| {
            command
                .argv
                .iter()
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let [first, second] = commands(&request(GitService::UploadPack));
        assert_eq!(words(&first), "/run/agent/git upload-pack");
        assert_eq!(words(&second), "git -c safe.directory=* upload-pack");
        let [first, second] = commands(&request(GitService::ReceivePack));
        assert_eq!(
            words(&first),
            "git -c safe.directory=* -c receive.denyCurrentBranch=updateInstead receive-pack"
        );
        assert_eq!(words(&second), "/run/agent/git receive-pack");
        assert_eq!(first.env[0], (b"GIT_PROTOCOL".to_vec(), b"version=2".to_vec()));
    }
}
