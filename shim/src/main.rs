//! `agent-shim`, the host side.

fn main() {}
