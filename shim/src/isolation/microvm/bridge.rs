//! Putting a machine into a bridge of the host's: qemu's own helper may do that, where the host's administrator allows it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::MachineError;
use crate::programs::{Answer, Question};

/// How long the helper may take.
const HELPED_WITHIN: Duration = Duration::from_secs(10);

/// A device of the host's that is in the bridge now, and goes when nobody has it open any more.
pub(super) fn join(helper: &Path, bridge: &str) -> Result<OwnedFd, MachineError> {
    ask(helper, bridge).map_err(|why| MachineError::NotBridged {
        name: bridge.to_owned(),
        helper: helper.display().to_string(),
        why,
    })
}

fn ask(helper: &Path, bridge: &str) -> Result<OwnedFd, String> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
    let question = Question {
        program: helper,
        args: ["--fd=0", "--use-vnet", &format!("--br={bridge}")].map(Into::into).into(),
        variables: Vec::new(),
        user: None,
        patience: HELPED_WITHIN,
    };
    let answer = question.ask_over(OwnedFd::from(theirs).into());
    match (&answer, answer.complaint()) {
        (Answer::Ended { stderr, .. }, Some(_)) if !stderr.trim().is_empty() => Err(stderr.trim().to_owned()),
        (_, Some(complaint)) => Err(format!("of the helper, {complaint}")),
        // What it has sent waits for us.
        (_, None) => receive(&ours).map_err(|error| format!("the helper sent no device: {error}")),
    }
}

fn receive(from: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(from, &mut [io::IoSliceMut::new(&mut byte)], &mut messages, flags)?;
    let device = messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    device.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn helped_by(script: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let helper = folder.path().join("helper");
        std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        join(&helper, "br0").unwrap_err().to_string()
    }

    #[test]
    fn why_a_helper_did_not_help_is_told() {
        let error = helped_by("echo access denied >&2; exit 1");
        assert_eq!(error, "a machine cannot be put into the bridge br0: access denied");
        assert!(helped_by("exit 3").ends_with("it exited with status 3"));
        assert!(helped_by("exit 0").contains("sent no device"));
        assert!(helped_by("echo x >&0; exit 0").contains("sent no device"));
        assert!(join(Path::new("/nowhere"), "br0").unwrap_err().to_string().contains("cannot be executed"));
    }
}
