//! Ways out of a sandbox, tried for real: through `start` and `exec`, as an ordinary user and as root.
//!
//! Many attempts share a sandbox, because most do not disturb each other; each is printed by its name, and a test
//! fails with the names of all that worked. What an attempt does is in the probe (src/bin/probe), which makes the
//! same attempts where they work too: on the host, or in a plain bubblewrap.

mod board;
mod containers;
mod descriptors;
mod files;
mod kernel;
mod planted;
mod processes;
mod secrets;
mod sockets;
mod store;
mod terminal;
mod world;
