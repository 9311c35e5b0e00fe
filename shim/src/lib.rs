//! Host side of the sandboxes: environments, isolation layers, state and the command line.

pub mod client;
pub mod env;
pub mod isolation;
mod sys;
pub mod terminal;
