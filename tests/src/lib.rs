//! Drives the real binaries and the real isolation, for the tests beside it.
//!
//! A [`Home`] is a person: an empty environment, a home, a data folder and a user id. A [`Nix`] is their package manager, and a
//! [`Workshop`] a person who has one. A [`Sandbox`] is one
//! sandbox of theirs, destroyed when it is dropped. An [`Init`] is PID 1 without a shim around it, a [`Machine`] one with a kernel of its own, and
//! [`Raw`] a client of it that says what a test wants. Everything waits for something named, with a deadline; a failure
//! shows the command, its status and both streams. `KEEP_LOGS=1` keeps the folders. [`layer()`] is what all of them run on, and
//! [`conformance`] runs every behaviour on each.

mod binaries;
mod boot;
mod cells;
pub mod conformance;
mod home;
mod layer;
mod machine;
mod output;
mod own_nix;
mod parts;
pub mod podman;
mod pty;
mod raw;
mod sandbox;
mod skip;
mod standalone;
mod store;
mod tmux;
mod traces;
mod wait;
mod workshop;

pub use binaries::{agent_git, agent_init, agent_shim, copy_program};
pub use boot::{Boot, counting_qemu};
pub use home::{Home, Who, finish, finish_within};
pub use layer::{LAYER, LAYERS, Layer, layer};
pub use machine::{CID, Ended, Files, Machine, PORT, Share, TOKEN, guest_kernel};
pub use output::Output;
pub use own_nix::{Decoys, Nix, stand_in};
pub use parts::{Part, is_alive, state, until_gone};
pub use pty::Pty;
pub use raw::{Heard, Raw};
pub use sandbox::{Builder, Sandbox};
pub use skip::{SKIPPED, skip};
pub use standalone::{Done, Init, exec, notify, rss_bytes, shell, speak};
pub use store::{Started, Store, View};
pub use tmux::{Pane, Shown, Tmux, quoted};
pub use traces::{Traces, sockets_of};
pub use wait::{deadline, until, until_within};
pub use workshop::Workshop;
