//! PID 1 of a sandbox, and by itself a small init for any container.

/// The command line.
pub mod args;
/// Starts programs, reaps them and everything orphaned, and signals only what is still theirs.
pub mod children;
/// One command as a container's PID 1 would run it.
pub mod entrypoint;
/// What init gives up before it starts anything, for itself and for all below it.
pub mod harden;
/// What programs say about themselves: ready, status, alive.
pub mod notify;
/// Signals as they arrive, and who sent them.
pub mod signals;
/// From a request to an executed program, or to the reason why not.
pub mod spawn;
mod sys;
mod tree;
