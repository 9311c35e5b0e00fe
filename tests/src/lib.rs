//! Tests that drive the real binaries and the real isolation.
