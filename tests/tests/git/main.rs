//! The agent's work comes home: by plain git through `git-remote-agent`, and by `agent-shim pull`, which believes nothing.

mod clone;
mod clone_kinds;
mod clone_ways;
mod destroy;
mod hostile;
mod merge;
mod names;
mod pull;
mod push;
mod remote;
mod repositories;
mod served;
mod stopped;
mod support;
mod toolless;
mod tricks;
mod ways;
