//! PID 1 of a sandbox, and by itself a small init for any container.

/// Starts programs, reaps them and everything orphaned, and signals only what is still theirs.
pub mod children;
/// What init gives up before it starts anything, for itself and for all below it.
pub mod harden;
/// Who sent which signal.
pub mod signals;
/// From a request to an executed program, or to the reason why not.
pub mod spawn;
mod sys;
mod tree;
