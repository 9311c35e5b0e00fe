//! What the agent did, brought home: git objects and refs that this host asked for.
//!
//! The repository inside is the agent's, and so is all its configuration. The host never opens it: git runs inside
//! and speaks its pack protocol over the control connection, and every byte of it is believed by nobody.

/// Git's own client with a sandbox at the other end: `git-remote-agent`.
pub mod helper;
