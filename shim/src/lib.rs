//! The host side of agent sandboxes, as a library; `agent-shim` is its command line.

// Agents and providers as data.
pub mod agents;
// The command line: one file per subcommand.
pub mod cli;
// Speaking to init: connections, commands, terminals.
pub mod client;
// What a person and a project say once and for all.
pub mod config;
// Where the tools inside come from.
pub mod env;
// What starts PID 1 in a world of its own.
pub mod isolation;
// Programs of the host: where they are, and what they answer.
mod programs;
// What the agent did, brought home.
pub mod repo;
// What this machine must have, and how a person gets what is missing.
pub mod requirement;
// Sandboxes as this host knows them: names, records, locks, the monitor.
pub mod sandbox;
mod sys;
// The person's terminal, and text that cannot harm it.
pub mod terminal;
// Worktrees of the agent's repository, each with a session of its own.
pub mod worktree;
