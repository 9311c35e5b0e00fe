//! Calls that outlive their caller. `vhost-device-vsock` 0.3 goes deaf for good when a caller is gone before it could write its
//! answer, and turns in circles when one is gone before it has asked. So whoever calls gives its end of the connection to somebody
//! who lives as long as the device, over a line of their own: [`HEARD`] on it says that the answer has come, and an end of the line
//! without it that the caller is gone.

use std::{io::IoSlice, mem::MaybeUninit, os::fd::AsFd, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, send, sendmsg, socket_with,
};

use super::error::{ConnectionError, io_error};
use rustix::io::Errno;

/// What the name of the socket for them ends in, behind that of the device's.
pub(crate) const SUFFIX: &str = ".calls";

/// Said once the device has answered.
pub(crate) const HEARD: u8 = b'+';

/// A call that somebody else holds as well.
#[derive(Debug)]
pub(crate) struct Entrusted(OwnedFd);

impl Entrusted {
    /// Gives a socket that is not connected yet to whoever keeps the calls of the device at `path`. `None` where nobody does.
    pub(crate) fn give(path: &[u8], socket: &OwnedFd) -> Result<Option<Self>, ConnectionError> {
        let doing = || io_error("entrusting a call");
        let path = [path, SUFFIX.as_bytes()].concat();
        let address = SocketAddrUnix::new(path).map_err(doing())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let line = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(doing())?;
        match rustix::net::connect(&line, &address) {
            Ok(()) => {}
            Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::AGAIN) => return Err(ConnectionError::Stuck("too many calls wait for an answer")),
            Err(error) => return Err(doing()(error)),
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let held = [socket.as_fd()];
        // The space is for one.
        let _ = control.push(SendAncillaryMessage::ScmRights(&held));
        sendmsg(&line, &[IoSlice::new(b"!")], &mut control, SendFlags::NOSIGNAL).map_err(doing())?;
        Ok(Some(Self(line)))
    }

    /// The device has answered: from here on the call ends with the caller.
    pub(crate) fn take_back(self) {
        // Whoever is gone holds nothing.
        let _ = send(&self.0, &[HEARD], SendFlags::NOSIGNAL);
    }
}
