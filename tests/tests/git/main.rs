//! The agent's work comes home: by plain git through `git-remote-agent`, and by `agent-shim pull`, which believes nothing.

mod destroy;
mod hostile;
mod pull;
mod push;
mod remote;
mod stopped;
mod support;
