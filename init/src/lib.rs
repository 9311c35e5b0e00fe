//! PID 1 of a sandbox, and by itself a small init for any container.

/// Starts programs, reaps them and everything orphaned, and signals only what is still theirs.
pub mod children;
/// What happened, in order.
mod journal;
mod notify;
mod output;
/// The sandbox as a whole: one loop that owns the processes.
mod sandbox;
/// The control endpoint.
mod server;
/// The agent's terminal.
mod session;
/// Who sent which signal.
pub mod signals;
/// From a request to an executed program, or to the reason why not.
pub mod spawn;
/// Decides what is started, restarted and stopped, and when.
mod supervise;
mod sys;
mod tree;
mod usage;
