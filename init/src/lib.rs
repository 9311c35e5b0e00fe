//! PID 1 of a sandbox.

#[allow(dead_code, reason = "the event loop, which uses it, is merged separately")]
mod session;
