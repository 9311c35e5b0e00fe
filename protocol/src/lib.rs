//! What the host and init say to each other.

pub mod spec;
