//! Init's ends of the pipes that commands write to and read from.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// Where a command's output arrives.
pub(crate) struct ReadEnd(AsyncFd<OwnedFd>);

/// Where a command's input goes.
pub(crate) struct WriteEnd(AsyncFd<OwnedFd>);

impl ReadEnd {
    /// Takes the reading end. The other end is a description of its own, so the command notices nothing.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(sys::watch(fd, Interest::READABLE)?))
    }

    /// Reads what is there, at least one byte; 0 where nobody can write any more.
    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buf)?)).await
    }

    /// Reads what is there now; `None` where nothing is.
    pub(crate) fn read_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(self.0.get_ref(), buf) {
            Ok(read) => Ok(Some(read)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl WriteEnd {
    /// Takes the writing end.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(sys::watch(fd, Interest::WRITABLE)?))
    }

    /// Writes what there is room for; waits for as long as there is none.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await
    }
}

impl AsFd for ReadEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
