//! One end of a stream: a standard stream of the caller's, or a pipe that came from inside.
//!
//! The caller's standard streams share their open file description with other processes, the shell above
//! all, so `O_NONBLOCK` is never set on them. Each kind has its own way of not waiting: pipes take it as a
//! flag of the single call, sockets too, files do not wait, and a terminal is opened once more, which gives
//! a description of our own.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::{Errno, ReadWriteFlags},
    net::{RecvFlags, SendFlags},
};

/// What a pipe is offered once at a time where it cannot be told not to wait: what it takes whole when
/// `poll(2)` says that there is room (pipe(7), `PIPE_BUF`).
const WAITING_PIECE_BYTES: usize = 4096;

/// The same for a terminal that could not be opened once more.
const TERMINAL_PIECE_BYTES: usize = 256;

/// Offset that means "wherever the file is" to preadv2(2).
const CURRENT: u64 = u64::MAX;

/// What a descriptor refers to, as far as it decides how to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Pipe,
    File,
    Socket,
    /// `private` says that the description is ours alone and does not wait.
    Terminal {
        private: bool,
    },
    /// /dev/null and its like.
    Other,
}

#[derive(Debug)]
enum Handle<'a> {
    Borrowed(BorrowedFd<'a>),
    Owned(OwnedFd),
}

/// A descriptor and its nature.
#[derive(Debug)]
pub(crate) struct Endpoint<'a> {
    handle: Handle<'a>,
    nature: Nature,
}

/// Which way bytes go through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Endpoint<'static> {
    /// A pipe from inside; `None` where it is something else, or its other end.
    ///
    /// Anything else could wait for ever, be seekable, or be a socket that init reads our answers from.
    pub(crate) fn received(descriptor: OwnedFd, direction: Direction) -> Result<Option<Self>, Errno> {
        let stat = rustix::fs::fstat(&descriptor)?;
        let wanted = match direction {
            Direction::Read => OFlags::RDONLY,
            Direction::Write => OFlags::WRONLY,
        };
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        let right = kind(&stat) == FileType::Fifo && flags & (OFlags::RWMODE | OFlags::PATH) == wanted;
        Ok(right.then_some(Self { handle: Handle::Owned(descriptor), nature: Nature::Pipe }))
    }
}

impl<'a> Endpoint<'a> {
    /// A standard stream of the caller's.
    pub(crate) fn of_caller(descriptor: BorrowedFd<'a>, direction: Direction) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(descriptor)?;
        let handle = Handle::Borrowed(descriptor);
        Ok(match kind(&stat) {
            FileType::Fifo => Self { handle, nature: Nature::Pipe },
            FileType::Socket => Self { handle, nature: Nature::Socket },
            FileType::CharacterDevice if rustix::termios::isatty(descriptor) => {
                match reopen_terminal(descriptor, &stat, direction) {
                    Some(own) => {
                        Self { handle: Handle::Owned(own), nature: Nature::Terminal { private: true } }
                    }
                    None => Self { handle, nature: Nature::Terminal { private: false } },
                }
            }
            FileType::CharacterDevice => Self { handle, nature: Nature::Other },
            _ => Self { handle, nature: Nature::File },
        })
    }

    pub(crate) fn nature(&self) -> Nature {
        self.nature
    }

    /// Reads what is there.
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        match self.nature {
            Nature::Socket => rustix::net::recv(self, into, RecvFlags::DONTWAIT).map(|(count, _)| count),
            Nature::Pipe => {
                match rustix::io::preadv2(self, &mut [IoSliceMut::new(into)], CURRENT, ReadWriteFlags::NOWAIT)
                {
                    // Pipes take the flag since Linux 6.4; before, poll(2) has said that there is something.
                    Err(Errno::OPNOTSUPP) => rustix::io::read(self, into),
                    result => result,
                }
            }
            Nature::File | Nature::Terminal { .. } | Nature::Other => rustix::io::read(self, into),
        }
    }

    /// Writes what there is room for.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.nature {
            Nature::Socket => rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Nature::Pipe => {
                let whole = [IoSlice::new(bytes)];
                match rustix::io::pwritev2(self, &whole, CURRENT, ReadWriteFlags::NOWAIT) {
                    Err(Errno::OPNOTSUPP) => {
                        rustix::io::write(self, &bytes[..bytes.len().min(WAITING_PIECE_BYTES)])
                    }
                    result => result,
                }
            }
            Nature::Terminal { private: false } => {
                rustix::io::write(self, &bytes[..bytes.len().min(TERMINAL_PIECE_BYTES)])
            }
            Nature::Terminal { private: true } | Nature::File | Nature::Other => {
                rustix::io::write(self, bytes)
            }
        }
    }
}

impl AsFd for Endpoint<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.handle {
            Handle::Borrowed(fd) => *fd,
            Handle::Owned(fd) => fd.as_fd(),
        }
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A description of our own for a terminal. It fails where the terminal belongs to another user or to
/// another /dev, as after su(1) or in a container; then we share the caller's.
fn reopen_terminal(terminal: BorrowedFd<'_>, stat: &Stat, direction: Direction) -> Option<OwnedFd> {
    // Opening the multiplexer again would make a new terminal instead (tty(4), pts(4)).
    const MULTIPLEXER: (u32, u32) = (5, 2);
    if (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == MULTIPLEXER {
        return None;
    }
    let access = match direction {
        Direction::Read => OFlags::RDONLY,
        Direction::Write => OFlags::WRONLY,
    };
    let path = format!("/proc/self/fd/{}", terminal.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}
