//! The system calls no safe library offers: the only `unsafe` code of the shim. Each file with some of it says so in its
//! first lines.

mod child;
mod git;
#[cfg(target_arch = "x86_64")]
pub(crate) mod kvm;
mod mounts;
mod probe;
mod processes;
mod signals;
mod spawn;
mod step;

pub(crate) use git::git_without_configuration;
pub(crate) use mounts::{id_mapping, map_ids, show_at};
pub(crate) use probe::{landlock_abi, make_virtual_machine};
pub(crate) use processes::{forget_children, fork, inherited, user_has_processes};
pub(crate) use spawn::{Child, SpawnError, spawn};
pub(crate) use step::{Program, Step};

use std::ffi::{c_int, c_long};

use nix::errno::Errno;

/// Whether a call of libc's that answers with something negative where it failed did what it was to do.
fn check(result: c_long) -> Result<(), c_int> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// The thread's own reason of its last failed call; in a child that shares our memory it is the parent's, which is suspended.
fn errno() -> c_int {
    Errno::last_raw()
}
