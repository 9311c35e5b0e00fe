//! Raw mode, and the way back.

use std::os::fd::BorrowedFd;

use rustix::{
    io::Errno,
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// Every key goes to the program inside while this lives; dropping it puts the terminal back, on a panic too.
#[derive(Debug)]
pub struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Makes a terminal raw.
    pub fn enter(terminal: BorrowedFd<'a>) -> Result<Self, Errno> {
        let guard = Self { terminal, before: tcgetattr(terminal)? };
        guard.resume()?;
        Ok(guard)
    }

    /// Puts the terminal back while the guard lives on, as before we are stopped.
    ///
    /// At once: waiting for output to drain would hang on a terminal that is held up by Ctrl-S.
    pub fn suspend(&self) -> Result<(), Errno> {
        tcsetattr(self.terminal, OptionalActions::Now, &self.before)
    }

    /// Makes it raw again, as after we were continued.
    pub fn resume(&self) -> Result<(), Errno> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(self.terminal, OptionalActions::Now, &raw)
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _gone = self.suspend();
    }
}
