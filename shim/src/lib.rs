//! Host side of the sandboxes: environments, isolation layers, state and the command line.

pub mod client;
pub mod terminal;
