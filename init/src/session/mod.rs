//! A session: what an agent's terminal said, what it shows, and who watches.

mod emulator;
pub(crate) mod pty;
pub(crate) mod ring;
pub(crate) mod screen;
pub(crate) mod terminal;
#[cfg(test)]
mod terminal_tests;
pub(crate) mod unread;
