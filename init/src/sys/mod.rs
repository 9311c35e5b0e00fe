//! The system calls no safe crate offers: the only `unsafe` code of init.
//!
//! Everything here is mechanism. What to spawn is decided in [`crate::spawn`], whom to wait for in
//! [`crate::children`], what to forbid in [`crate::harden`]. Each file with `unsafe` in it says so in its first lines.

mod child;
mod descriptors;
#[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
mod instead_of_libc;
mod landlock;
mod plan;
mod processes;
mod signals;
mod spawn;

pub(crate) use descriptors::{
    adopt_descriptor, close_on_exec_from, put_descriptor, receive_datagram, time_on_board, unsent_bytes,
    watch,
};
pub(crate) use landlock::{LandlockRuleset, landlock_abi};
pub use plan::Step;
pub(crate) use plan::{CStrings, Failure, Ids, Plan, Session};
pub(crate) use processes::{Waited, kill, limit_of, stop_debugging, wait_any, write_back_apart};
pub use signals::SignalState;
pub(crate) use signals::{default_action, given_signals};
pub(crate) use spawn::spawn;
