//! What bubblewrap's sandbox promises, with shell scripts in the place of init.
//!
//! Every test runs as whoever runs it, and once more as an ordinary user when that is root.

mod files;
mod life;
mod links;
mod pid_1;
mod refused;
mod store;
mod world;
