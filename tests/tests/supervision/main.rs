//! What the supervisor promises, kept by real processes: init by itself, told by a spec what to do.
//!
//! Everything that is decided is tested in virtual time beside the code; this is what only processes can show.

mod ending;
mod further;
mod health;
mod readiness;
mod restarts;
mod setup;
