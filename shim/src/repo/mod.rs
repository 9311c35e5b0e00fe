//! What the agent did, brought home: git objects and refs that this host asked for.
//!
//! The repository inside is the agent's, and so is all its configuration. The host never opens it: git runs inside
//! and speaks its pack protocol over the control connection, and every byte of it is believed by nobody. What is asked,
//! and how much is taken, is decided here; objects enter through the host's own `git index-pack --strict`, run without
//! anybody's configuration, into a quarantine; and what passes every check is published together with its refs.

mod check;
/// The project goes in.
pub mod clone;
mod describe;
mod dialogue;
#[doc(hidden)]
pub mod fuzzing;
/// Git's own client with a sandbox at the other end: `git-remote-agent`.
pub mod helper;
mod home;
mod host_git;
/// What would be lost with a sandbox.
pub mod lacking;
mod library;
mod lines;
/// What came, in the person's own branch.
pub mod merge;
mod object_id;
mod objects;
mod pkt;
mod plan;
mod publish;
/// One pull.
pub mod pull;
/// Newer commits go in.
pub mod push;
mod quarantine;
mod receive;
mod refs;
mod session;
/// Work in progress that was kept.
pub mod snapshot;
mod source;
mod upkeep;
mod watch;
mod whole;

pub use check::{CheckError, DiffStat, Found};
pub use home::HomeError;
pub use host_git::GitError;
pub use object_id::ObjectId;
pub(crate) use plan::is_snapshot;
pub use plan::{Change, Choice};
pub use publish::PublishError;
pub use refs::RefName;
pub(crate) use refs::namespace;
pub use session::{Limits, SessionError};
pub(crate) use source::ENDPOINT_PATIENCE;
pub use source::{Source, SourceError};
pub use watch::{Progress, Watch};
