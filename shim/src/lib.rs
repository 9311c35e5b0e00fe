//! The host side of agent sandboxes, as a library; `agent-shim` is its command line.

// The command line: one file per subcommand.
pub mod cli;
// Speaking to init: connections, commands, terminals.
pub mod client;
// Where the tools inside come from.
pub mod env;
// What starts PID 1 in a world of its own.
pub mod isolation;
// What the agent did, brought home.
pub mod repo;
// Sandboxes as this host knows them: names, records, locks, the monitor.
pub mod sandbox;
mod sys;
// The person's terminal, and text that cannot harm it.
pub mod terminal;
