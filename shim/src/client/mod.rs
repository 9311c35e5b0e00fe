//! The host's end of the control connection.
//!
//! Blocking calls over `poll(2)`, one thread, a deadline on every wait for the peer. Whatever comes from
//! inside is hostile: it ends the operation it belongs to with a typed error and costs one frame of memory.

/// Viewing the agent's terminal.
pub mod attach;
/// Running a command inside and keeping what it says.
pub mod capture;
/// Running a command inside.
pub mod exec;
/// Git's pack protocol with a repository inside.
pub mod git;
/// A person who calls something off.
pub mod interrupt;

mod connection;
pub(crate) mod dial;
mod endpoint;
mod entrusted;
mod error;
mod operations;
mod outlet;
mod pump;
pub(crate) mod signals;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod typing;
pub(crate) mod wait;

pub use connection::{Connection, Incoming, MAX_DESCRIPTORS, WRITE_PATIENCE};
pub use dial::Target;
pub(crate) use entrusted::{Entrusted, HEARD, SUFFIX as CALLS_SUFFIX};
pub(crate) use error::COMING_UP;
pub use error::ConnectionError;
pub use operations::{add_agent, ping, remove_agent, restart, restart_unit, signal, status, stop, wait_end};
