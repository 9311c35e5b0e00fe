//! The person's terminal.
