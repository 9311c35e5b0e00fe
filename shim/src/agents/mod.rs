//! Agents and providers as data: what each needs, what there is of it, and the command that comes of it.

pub mod catalog;
pub mod definition;
pub mod error;
pub mod folders;
pub mod keys;
pub mod presence;
pub mod resolve;
mod settings;
pub mod start;

pub use crate::sandbox::record::AgentConfig;
pub use catalog::Catalog;
pub use definition::{ConfigFile, Definition, ForAgent, KeySet, PromptStyle, Provider, Settings, With};
pub use error::AgentError;
pub use folders::{FolderPlan, Person};
pub use resolve::{KeySource, Offered, Resolved, Source, Wanted, resolve};
