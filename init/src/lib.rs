//! PID 1 of a sandbox, and by itself a small init for any container.

// The command line.
pub mod args;
// From a spec to everything that must be there before the loop begins.
pub mod boot;
// Bounds for everything that init starts, and who goes first when memory runs out.
mod cgroup;
// Starts programs, reaps them and everything orphaned, and signals only what is still theirs.
pub mod children;
// One command as a container's PID 1 would run it.
pub mod entrypoint;
// What init would inherit, from engines that pass no descriptors.
mod handover;
// What init gives up before it starts anything, for itself and for all below it.
pub mod harden;
// What happened, in order.
mod journal;
// The first process of a machine of its own.
pub mod machine;
// What programs say about themselves: ready, status, alive.
pub mod notify;
// A user of its own, for a container whose runtime knows root alone.
pub mod own_id;
// What steps and services wrote.
mod output;
// The sandbox as a whole: one loop that owns the processes.
mod sandbox;
// The control endpoint.
mod server;
// The agent's terminal.
mod session;
// Signals as they arrive, and who sent them.
pub mod signals;
// From a request to an executed program, or to the reason why not.
pub mod spawn;
// Decides what is started, restarted and stopped, and when.
pub mod supervise;
mod sys;
mod task;
mod tree;
// What the processes inside use.
mod usage;
// What the agent does that the host wants to hear of.
mod watch;
