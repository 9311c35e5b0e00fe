//! The person's side: a terminal that reads as fast as it can, and a finger on a key.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{pty, termios};

/// How long anything may take to show on a terminal.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program on a terminal of 80 columns and 24 rows.
pub(crate) struct Terminal {
    master: File,
    child: Child,
    seen: Vec<u8>,
}

impl Terminal {
    /// Starts a program on a new terminal.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let master =
            pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC)?;
        pty::grantpt(&master)?;
        pty::unlockpt(&master)?;
        let name = pty::ptsname(&master, Vec::new())?;
        let flags = nix::libc::O_NOCTTY;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let slave = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        termios::tcsetwinsize(
            &master,
            termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 },
        )?;
        command.env("TERM", "xterm").stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        // The command keeps the slave's descriptors; as long as it lives, reading would never end.
        drop(command);
        Ok(Self { master: File::from(master), child, seen: Vec::new() })
    }

    /// Types.
    pub(crate) fn type_in(&mut self, keys: &[u8]) -> anyhow::Result<()> {
        Ok(self.master.write_all(keys)?)
    }

    /// Reads until this was shown; returns the number of bytes that it took.
    pub(crate) fn wait_for(&mut self, what: &[u8]) -> anyhow::Result<usize> {
        let end = Instant::now() + PATIENCE;
        let mut chunk = vec![0; 64 * 1024];
        let mut total = 0;
        self.seen.clear();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let tail = || String::from_utf8_lossy(&self.seen).into_owned();
            ensure!(!left.is_zero() && self.is_readable(left)?, "gave up waiting; last seen: {:?}", tail());
            let got = match self.master.read(&mut chunk) {
                // EIO: everybody has closed the other side.
                Ok(0) | Err(_) => bail!("the program left its terminal; last seen: {:?}", tail()),
                Ok(got) => got,
            };
            total += got;
            // What is looked for may be cut by a read.
            let keep = self.seen.len().min(what.len().saturating_sub(1));
            self.seen.drain(..self.seen.len() - keep);
            self.seen.extend_from_slice(&chunk[..got]);
            if self.seen.windows(what.len()).any(|window| window == what) {
                return Ok(total);
            }
        }
    }

    /// Reads until nothing comes for a while.
    pub(crate) fn settle(&mut self, quiet: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut chunk = vec![0; 64 * 1024];
        while self.is_readable(quiet)? {
            ensure!(Instant::now() < end, "the terminal does not come to rest");
            if self.master.read(&mut chunk)? == 0 {
                bail!("the program left its terminal");
            }
        }
        Ok(())
    }

    fn is_readable(&self, patience: Duration) -> anyhow::Result<bool> {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut fds, timeout)? > 0)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
