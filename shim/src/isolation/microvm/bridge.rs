//! Putting a machine into a bridge of the host's: qemu's own helper may do that, where the host's administrator allows it.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::MachineError;

/// How long the helper may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Of what it says.
const MOST_WORDS_BYTES: u64 = 1000;

/// A device of the host's that is in the bridge now, and goes when nobody has it open any more.
pub(super) fn join(helper: &Path, bridge: &str) -> Result<OwnedFd, MachineError> {
    ask(helper, bridge).map_err(|error| MachineError::NotBridged {
        name: bridge.to_owned(),
        helper: helper.display().to_string(),
        why: error.to_string(),
    })
}

fn ask(helper: &Path, bridge: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(WITHIN))?;
    let (words, to_us) = io::pipe()?;
    let mut child = Command::new(helper)
        .args(["--fd=0", "--use-vnet", &format!("--br={bridge}")])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(to_us)
        .spawn()?;
    let device = receive(&ours);
    let status = end(&mut child, device.is_err())?;
    let device = device.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other(format!("the helper did nothing for {WITHIN:?}")),
        _ => error,
    })?;
    device.ok_or_else(|| {
        let mut said = Vec::new();
        // It has ended, and nobody else has the other end.
        let _ = words.take(MOST_WORDS_BYTES).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let said = said.trim();
        io::Error::other(if said.is_empty() { status } else { said.to_owned() })
    })
}

/// `None` where it has ended without sending one.
fn receive(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [io::IoSliceMut::new(&mut byte)], &mut messages, RecvFlags::CMSG_CLOEXEC)?;
    Ok(messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// How it has ended, by force where it does not answer.
fn end(child: &mut Child, by_force: bool) -> io::Result<String> {
    if by_force {
        child.kill()?;
    }
    Ok(format!("the helper ended with {}", child.wait()?))
}
