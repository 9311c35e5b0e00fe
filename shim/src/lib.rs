//! The host side of agent sandboxes.
