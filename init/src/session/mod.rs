//! A session: what an agent's terminal said, and what it shows.

mod grid;
mod model;
mod modes;
pub(crate) mod pty;
pub(crate) mod ring;
pub(crate) mod screen;
mod snapshot;
pub(crate) mod terminal;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod screen_tests;
#[cfg(test)]
mod terminal_tests;
