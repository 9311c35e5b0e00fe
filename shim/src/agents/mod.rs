//! Agents and providers as data: what each needs, what there is of it, and the command that comes of it.

pub mod definition;

pub use definition::{ConfigFile, Definition, ForAgent, KeySet, PromptStyle, Provider};
