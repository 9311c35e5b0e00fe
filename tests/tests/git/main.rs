//! The agent's work comes home: by plain git through `git-remote-agent`, and by `agent-shim pull`, which believes nothing.

mod clone;
mod clone_kinds;
mod destroy;
mod hostile;
mod merge;
mod names;
mod pull;
mod push;
mod remote;
mod repositories;
mod stopped;
mod support;
mod tricks;
