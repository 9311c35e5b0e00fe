//! A pseudoterminal whose master side belongs to init.

use std::{io, os::fd::OwnedFd};

use agent_protocol::message::TerminalSize;
use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// The master side: what the program shows is read here, what a person types is written here.
pub(crate) struct Master {
    fd: AsyncFd<OwnedFd>,
    /// A program may close its terminal and come back to it by /dev/tty, to ask for a password: without a slave
    /// that stays open the master would report the end in between, once and for all.
    _slave: OwnedFd,
}

/// A new terminal of this size: the master, and the slave for the program that will own it.
pub(crate) fn open(size: TerminalSize) -> io::Result<(Master, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // Through the master, not through a path: /dev/pts could be replaced by what runs inside.
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    tcsetwinsize(&master, winsize(size))?;
    let fd = sys::watch(master, Interest::READABLE | Interest::WRITABLE)?;
    Ok((Master { fd, _slave: slave.try_clone()? }, slave))
}

impl Master {
    /// Reads what the program shows, at least one byte; 0 where the terminal is no more.
    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buf)?)).await;
        hung_up_is_the_end(read)
    }

    /// Reads what is there now; `None` where nothing is.
    pub(crate) fn read_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(self.fd.get_ref(), buf) {
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            read => hung_up_is_the_end(read.map_err(io::Error::from)).map(Some),
        }
    }

    /// Types all of `bytes`. Waits for as long as the program does not read; cancelling it may cut a line short.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                self.fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Types what fits at once, and drops the rest.
    pub(crate) fn write_now(&self, bytes: &[u8]) {
        // A program that does not read its answers loses them, as on any terminal.
        let _ = rustix::io::write(self.fd.get_ref(), bytes);
    }

    /// Changes the size; the kernel sends `SIGWINCH` where it differs.
    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        Ok(tcsetwinsize(self.fd.get_ref(), winsize(size))?)
    }
}

/// Reading a master whose slaves are all closed fails with `EIO` (pty(7)).
fn hung_up_is_the_end(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
        other => other,
    }
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize { ws_col: size.columns.max(1), ws_row: size.rows.max(1), ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_closed_its_terminal_may_come_back_to_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _inside = runtime.enter();
        let (master, slave) = open(TerminalSize { columns: 80, rows: 24 }).unwrap();
        drop(slave);
        let mut buf = [0; 16];
        assert_eq!(master.read_now(&mut buf).unwrap(), None, "nothing yet, and not the end");
        let again = ioctl_tiocgptpeer(master.fd.get_ref(), OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::io::write(&again, b"password: ").unwrap();
        assert_eq!(master.read_now(&mut buf).unwrap(), Some(10));
    }
}
