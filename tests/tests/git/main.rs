//! The agent's work comes home: by plain git through `git-remote-agent`, and by `agent-shim pull`, which believes nothing.

mod hostile;
mod merge;
mod pull;
mod remote;
mod support;
mod ways;
