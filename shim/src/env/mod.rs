//! Where the tools inside come from.
//!
//! Either from the host ([`host`]), or from Nix: an [`spec::EnvSpec`] says which packages, its canonical form has a name
//! ([`spec::EnvId`]) and an expression, which is built once and kept until nobody uses it.

/// Presets and sets.
pub mod catalog;
/// What was said about an environment, layer by layer.
pub mod choice;
/// The Nix expression.
pub mod expression;
pub mod host;
/// `-I`.
pub mod image;
/// Words that were probably meant.
pub mod nearest;
/// Names of packages.
pub mod package;
/// Which nixpkgs.
pub mod pin;
/// What an environment consists of.
pub mod spec;

use crate::isolation::plan::Mount;

/// Tools and system files of a sandbox: what differs between `--env host` and other environments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Folders with tools, and the parts of /etc that belong to them.
    pub mounts: Vec<Mount>,
    /// Variables for everything that runs inside, PATH among them.
    pub variables: Vec<(String, String)>,
}
