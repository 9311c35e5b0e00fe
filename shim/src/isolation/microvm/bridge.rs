//! Putting a machine into a bridge of the host's: qemu's own helper may do that, where the host's administrator allows it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::job::Bridge;
use crate::isolation::launcher::{Failed, failed};

/// How long the helper may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A device of the host's that is in the bridge now, and goes when nobody has it open any more.
pub(super) fn join(bridge: &Bridge) -> Result<OwnedFd, Failed> {
    let doing = || format!("joining the bridge {}", bridge.name);
    try_to_join(bridge).map_err(failed(doing()))
}

fn try_to_join(bridge: &Bridge) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(WITHIN))?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    let mut helper = Command::new(&bridge.helper)
        .args([format!("--fd={number}"), "--use-vnet".to_owned(), format!("--br={}", bridge.name)])
        .stdin(Stdio::null())
        .spawn()?;
    drop(theirs);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received =
        recvmsg(&ours, &mut [io::IoSliceMut::new(&mut byte)], &mut messages, RecvFlags::CMSG_CLOEXEC);
    if received.is_err() {
        helper.kill()?;
    }
    let status = helper.wait()?;
    received?;
    let device = messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    // It has said why.
    device.ok_or_else(|| io::Error::other(format!("{} ended with {status}", bridge.helper.display())))
}
