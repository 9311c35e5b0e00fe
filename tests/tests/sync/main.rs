//! The agent's work comes home by itself: at each commit, when it is quiet, and when the sandbox ends.

mod commits;
mod idle;
mod support;
mod trouble;
