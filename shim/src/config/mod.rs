//! What a person and a project say once and for all, and how it becomes one with the command line.
//!
//! Defaults, the person's file, the project's file, variables and flags each yield one [`settings::Settings`]; [`merge`]
//! lays them over each other in this order. A project's file may choose what runs inside, and needs a person's consent for
//! whatever opens the sandbox further ([`consent`]).

mod apply;
/// What is wrong, with the place.
pub mod error;
/// How layers become one.
pub mod merge;
/// Who said something.
pub mod origin;
/// Everything that can be said.
pub mod settings;
mod units;
pub(crate) mod values;
