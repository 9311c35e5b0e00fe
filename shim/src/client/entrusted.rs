//! Calls that somebody else ends. `vhost-device-vsock` 0.3 goes deaf for good when a caller is gone before it could write its
//! answer, turns in circles when one is gone before it has asked, and never tells the machine of one that is gone with something
//! unread. So whoever calls gives its end of the connection to somebody who lives as long as the device, over a line of their own:
//! [`HEARD`] on it says that the answer has come, and an end of the line that the caller is gone.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

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

/// A call that somebody else holds as well, for as long as this lives and until the device has answered.
#[derive(Debug)]
pub(crate) struct Entrusted(OwnedFd);

/// A connected stream, and what its end is known by where somebody else holds it.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    _entrusted: Option<Entrusted>,
}

impl Stream {
    /// Of a call that may have been entrusted to somebody.
    pub(crate) fn new(socket: OwnedFd, entrusted: Option<Entrusted>) -> Self {
        Self { socket, _entrusted: entrusted }
    }
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Self {
        Self::new(socket, None)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

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

    /// The device has answered.
    pub(crate) fn heard(&mut self) {
        // Whoever is gone holds nothing.
        let _ = send(&self.0, &[HEARD], SendFlags::NOSIGNAL);
    }
}
