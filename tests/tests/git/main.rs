//! The agent's work comes home: by plain git through `git-remote-agent`, and by `agent-shim pull`, which believes nothing.

mod clone;
mod clone_kinds;
mod hostile;
mod pull;
mod remote;
mod served;
mod stopped;
mod support;
mod toolless;
