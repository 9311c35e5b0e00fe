//! The person's terminal: its modes, its size, the keys that mean us, and what may be written to it.

use std::os::fd::BorrowedFd;

use agent_protocol::message::TerminalSize;

pub mod keys;
pub mod modes;
pub(crate) mod quote;
pub mod raw;
pub mod sanitize;

/// What a terminal is taken for that does not tell its size.
pub const FALLBACK_SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// The size of a terminal; `None` where it has none, or is none.
pub fn size(terminal: BorrowedFd<'_>) -> Option<TerminalSize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    // Serial lines say zero.
    (size.ws_col > 0 && size.ws_row > 0).then_some(TerminalSize { columns: size.ws_col, rows: size.ws_row })
}
