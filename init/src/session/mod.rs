//! A session: what an agent's terminal said, and what it shows.

pub(crate) mod ring;
pub(crate) mod screen;
mod terminal;
