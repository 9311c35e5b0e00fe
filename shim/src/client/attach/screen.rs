//! The person's terminal while it shows the agent's.

use std::time::{Duration, Instant};

use agent_protocol::message::TerminalSize;
use rustix::{event::PollFd, io::Errno};

use crate::{
    client::{ConnectionError, outlet::Outlet, wait::wait_any},
    terminal::{
        modes::{ModeTracker, Prompt},
        raw::RawMode,
    },
};

/// How long leaving waits for a terminal that takes nothing, as one held up by Ctrl-S.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// Where the agent's bytes go. Dropping it puts a terminal back, on a panic too.
#[derive(Debug)]
pub(super) struct Screen<'a> {
    outlet: Outlet<'a>,
    /// Only on a terminal.
    terminal: Option<Terminal<'a>>,
}

#[derive(Debug)]
struct Terminal<'a> {
    raw: RawMode<'a>,
    modes: ModeTracker,
    size: TerminalSize,
    /// Whether anything was shown, so that there is something to put back.
    touched: bool,
    /// Whether what is shown began with a picture, and not with bytes below what the person had on the screen.
    painted: bool,
    /// Where the person's shell goes on.
    prompt: Prompt,
}

impl<'a> Screen<'a> {
    /// Bytes go out as they are.
    pub(super) fn plain(outlet: Outlet<'a>) -> Self {
        Self { outlet, terminal: None }
    }

    /// A terminal, raw already.
    pub(super) fn terminal(outlet: Outlet<'a>, raw: RawMode<'a>, size: TerminalSize) -> Self {
        let terminal = Terminal {
            raw,
            modes: ModeTracker::default(),
            size,
            touched: false,
            painted: false,
            prompt: Prompt::Below,
        };
        Self { outlet, terminal: Some(terminal) }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.outlet.is_blocked()
    }

    pub(super) fn broken(&self) -> Option<Errno> {
        self.outlet.broken()
    }

    pub(super) fn interest(&self) -> PollFd<'_> {
        self.outlet.interest()
    }

    pub(super) fn flush(&mut self) {
        self.outlet.flush();
    }

    pub(super) fn resized(&mut self, size: TerminalSize) {
        if let Some(terminal) = &mut self.terminal {
            terminal.size = size;
        }
    }

    /// A picture follows, and then the stream from `offset` on.
    pub(super) fn begin_picture(&mut self, offset: u64) -> Result<(), ConnectionError> {
        self.continue_at(offset)?;
        if let Some(terminal) = self.terminal.as_mut().filter(|terminal| !terminal.painted) {
            terminal.painted = true;
            // What the person has on the screen moves up into the scrollback instead of being painted over.
            let mut away = if terminal.touched {
                terminal.modes.restore(terminal.size.rows, Prompt::AtCursor)
            } else {
                Vec::new()
            };
            away.extend_from_slice(format!("\x1b[{};1H", terminal.size.rows).as_bytes());
            away.extend(std::iter::repeat_n(b'\n', usize::from(terminal.size.rows)));
            self.show(&away);
        }
        Ok(())
    }

    /// The stream goes on further ahead.
    pub(super) fn continue_at(&mut self, offset: u64) -> Result<(), ConnectionError> {
        if offset < self.outlet.offset() {
            return Err(ConnectionError::Unexpected {
                what: "stream offset",
                during: "it shows its terminal",
            });
        }
        self.outlet.continue_at(offset);
        Ok(())
    }

    /// Shows the next piece of the stream.
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.outlet.take(offset, bytes)?;
        self.note(bytes);
        Ok(())
    }

    /// Passes over the next piece of the stream.
    pub(super) fn pass(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.outlet.take(offset, &[])?;
        self.outlet.continue_at(offset + bytes.len() as u64);
        Ok(())
    }

    /// Whether the terminal shows bytes as they came, and no picture yet.
    pub(super) fn is_unpainted(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| !terminal.painted)
    }

    /// The program has ended, so that the person's shell goes on where it left the cursor.
    pub(super) fn program_ended(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.prompt = Prompt::AtCursor;
        }
    }

    /// Shows bytes that are no part of the stream.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        self.outlet.write(bytes);
        self.note(bytes);
    }

    /// Says something on a terminal whose program has ended: whatever it left switched on is switched off.
    pub(super) fn say(&mut self, line: &str) {
        if let Some(terminal) = &mut self.terminal {
            let mut bytes = terminal.modes.restore(terminal.size.rows, Prompt::Below);
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
            self.show(&bytes);
        }
    }

    /// Shows a line at the bottom, over the program's own; a repaint takes it away again.
    pub(super) fn overlay(&mut self, line: &str) {
        if let Some(terminal) = &self.terminal {
            let TerminalSize { columns, rows } = terminal.size;
            // One that folded would push the program's lines up.
            let line: String = line.chars().take(usize::from(columns)).collect();
            let bytes = format!("\x1b7\x1b[{rows};1H\x1b[0;7m\x1b[2K{line}\x1b[0m\x1b8");
            self.show(bytes.as_bytes());
        }
    }

    /// Puts the terminal back.
    pub(super) fn leave(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        if terminal.touched {
            terminal.touched = false;
            terminal.painted = false;
            let bytes = terminal.modes.restore(terminal.size.rows, terminal.prompt);
            self.outlet.write(&bytes);
            let deadline = Some(Instant::now() + LEAVE_PATIENCE);
            while self.outlet.is_blocked() && self.outlet.broken().is_none() {
                match wait_any(&mut [self.outlet.interest()], deadline) {
                    Ok(true) => self.outlet.flush(),
                    Ok(false) | Err(_) => break,
                }
            }
        }
        // A terminal that is gone needs nothing put back.
        let _gone = terminal.raw.suspend();
    }

    /// Takes the terminal again after [`leave`](Self::leave).
    pub(super) fn return_to(&mut self) {
        if let Some(terminal) = &self.terminal {
            let _gone = terminal.raw.resume();
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        if let Some(terminal) = &mut self.terminal {
            terminal.touched = true;
            terminal.modes.feed(bytes);
        }
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
