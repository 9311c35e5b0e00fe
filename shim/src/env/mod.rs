//! Where the tools inside come from.
//!
//! Either from the host ([`host`]), or from Nix: an [`spec::EnvSpec`] says which packages, its canonical form has a name
//! ([`spec::EnvId`]) and an expression, which is built once and kept until nobody uses it.

/// No tools at all.
pub mod bare;
mod build;
mod cache;
/// Presets and sets.
pub mod catalog;
/// What was said about an environment, layer by layer.
pub mod choice;
mod closure;
/// Why there is no environment.
pub mod error;
/// The Nix expression.
pub mod expression;
/// Letting go of what no sandbox uses.
pub mod gc;
pub mod host;
/// `-I`.
pub mod image;
mod listener;
/// Words that were probably meant.
pub mod nearest;
/// An environment that was built, as a sandbox sees it.
pub mod nix;
/// Programs of Nix.
pub mod nix_command;
mod nix_log;
/// Names of packages.
pub mod package;
/// Which nixpkgs.
pub mod pin;
/// What went wrong in a build.
pub mod problem;
/// What a person sees of a build.
pub mod progress;
/// What an environment consists of.
pub mod spec;
/// What the store says and does.
pub mod store;
mod system;
/// Environments as they are listed.
pub mod view;

pub use build::Freshness;
pub use cache::{Built, StoredSpec, lookup};
pub use error::EnvError;

use self::{progress::Report, spec::EnvSpec};
use crate::{isolation::plan::Mount, sandbox::paths::DataDir};

/// Finds an environment, or builds it.
///
/// What is there is found by reading two files; no process is started. The result holds the environment against `env gc`
/// until it is dropped, which is when a record names it.
pub fn ensure(data: &DataDir, spec: &EnvSpec, report: &mut dyn Report) -> Result<Built, EnvError> {
    match lookup(data, &spec.id()?)? {
        Some(built) => Ok(built),
        None => build::build(data, spec, Freshness::Cached, report),
    }
}

/// Builds an environment anew: what its nixpkgs has under the same name may have changed.
pub fn rebuild(data: &DataDir, spec: &EnvSpec, report: &mut dyn Report) -> Result<Built, EnvError> {
    build::build(data, spec, Freshness::Rebuilt, report)
}

/// Whether there is a Nix here to build with.
pub fn nix_is_here() -> bool {
    nix_command::find("nix-build", &nix_command::places()).is_some()
}

/// Tools and system files of a sandbox: what differs between `--env host` and other environments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Folders with tools, and the parts of /etc that belong to them.
    pub mounts: Vec<Mount>,
    /// Variables for everything that runs inside, PATH among them.
    pub variables: Vec<(String, String)>,
}
