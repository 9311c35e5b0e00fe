//! A stream socket of any family, read and written without blocking the loop, with descriptors where it can.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt, sockopt::PeerCredentials};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recv, sendmsg,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// One accepted connection. Both halves share it: one task at a time reads, one writes.
pub(crate) struct Socket(AsyncFd<OwnedFd>);

/// The other end of a connection.
pub(crate) enum Peer {
    /// A process, unless this PID namespace cannot see it, and its user as this user namespace sees it.
    Unix { pid: Option<i32>, uid: u32 },
    /// A machine.
    Vsock { cid: u32 },
}

/// A listening socket that init was given or made.
pub(crate) struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Takes a socket that listen(2) was already called on.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(sys::watch(fd, Interest::READABLE)?))
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = self.0.async_io(Interest::READABLE, |fd| Ok(accept_with(fd, flags)?)).await?;
        Ok(Socket(sys::watch(fd, Interest::READABLE | Interest::WRITABLE)?))
    }
}

impl Socket {
    /// A connection whose other end the test has.
    #[cfg(test)]
    pub(crate) fn with_client() -> (Self, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Self(sys::watch(ours.into(), Interest::READABLE | Interest::WRITABLE).unwrap()), theirs)
    }

    /// Writes until nothing more fits.
    #[cfg(test)]
    pub(crate) fn fill(&self) {
        while rustix::net::send(self, &[b'.'; 1024], SendFlags::NOSIGNAL).is_ok() {}
        while rustix::net::send(self, b".", SendFlags::NOSIGNAL).is_ok() {}
    }

    /// Reads what is there, at least one byte; 0 is the end.
    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        // Tried before waiting: `closed` may have taken the readiness of bytes that are still there.
        match recv(self.0.get_ref(), &mut *buf, RecvFlags::empty()) {
            Err(rustix::io::Errno::AGAIN) => {}
            read => return Ok(read?.0),
        }
        self.0
            .async_io(Interest::READABLE, |fd| {
                let (read, _) = recv(fd, &mut *buf, RecvFlags::empty())?;
                Ok(read)
            })
            .await
    }

    /// Fills `buf`; an early end is an error.
    pub(crate) async fn read_exact(&self, buf: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(())
    }

    /// Waits until the peer has closed its side or is gone, whether or not unread bytes are left.
    pub(crate) async fn closed(&self) {
        while let Ok(mut guard) = self.0.ready(Interest::READABLE).await {
            if guard.ready().is_read_closed() {
                return;
            }
            guard.clear_ready();
        }
    }

    /// Who is at the other end, where the kernel says so.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let fd = self.0.get_ref();
        let address: SockaddrStorage = getpeername(fd.as_raw_fd()).ok()?;
        if let Some(vsock) = address.as_vsock_addr() {
            return Some(Peer::Vsock { cid: vsock.cid() });
        }
        let credentials = getsockopt(fd, PeerCredentials).ok()?;
        // The kernel writes 0 for a process that this PID namespace cannot see.
        let pid = Some(credentials.pid()).filter(|pid| *pid != 0);
        Some(Peer::Unix { pid, uid: credentials.uid() })
    }

    /// Writes all of `parts`, one behind the other.
    pub(crate) async fn write_all(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.send_all(parts, &[]).await
    }

    /// Writes all of `bytes`; `fds` travel with the first of them (`SCM_RIGHTS`, unix(7)).
    pub(crate) async fn write_with_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_all(&mut [IoSlice::new(bytes)], fds).await
    }

    async fn send_all(&self, mut parts: &mut [IoSlice<'_>], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let sent = self
                .0
                .async_io(Interest::WRITABLE, |socket| {
                    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                        return Err(io::Error::other("more than three descriptors in one message"));
                    }
                    Ok(sendmsg(socket, parts, &mut control, SendFlags::NOSIGNAL)?)
                })
                .await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            fds = &[];
            IoSlice::advance_slices(&mut parts, sent);
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
