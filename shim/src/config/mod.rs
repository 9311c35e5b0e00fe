//! What a person and a project say once and for all, and how it becomes one with the command line.
//!
//! Defaults, the person's file, the project's file, variables and flags each yield one [`settings::Settings`]; [`merge`]
//! lays them over each other in this order. A project's file may choose what runs inside, and needs a person's consent for
//! whatever opens the sandbox further ([`consent`]).

mod apply;
/// What a project's file may not do by itself.
pub mod consent;
mod document;
#[cfg(test)]
mod documented;
/// What is wrong, with the place.
pub mod error;
mod file;
mod kinds;
/// Finding and reading the layers.
pub mod load;
/// How layers become one.
pub mod merge;
/// Who said something.
pub mod origin;
mod read;
/// Every key there is.
pub mod schema;
/// Everything that can be said.
pub mod settings;
/// What holds, and who said it.
pub mod show;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
/// What persons agreed to.
pub mod trust;
mod units;
pub(crate) mod values;
/// The layer of the environment.
pub mod variables;
