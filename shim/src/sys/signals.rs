//! Signals around a clone: none reaches us while memory is shared, and the child has every one at its default.
#![allow(unsafe_code)]

use std::{ffi::c_void, ptr};

pub(super) fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are locals, filled in before they are read.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

pub(super) fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: a set that `block_signals` returned.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// Handlers are not shared (no CLONE_SIGHAND), so this changes the child alone. An ignored SIGPIPE,
/// which Rust programs start with, would otherwise pass through every exec down to the agent.
pub(super) fn default_signals() {
    const MASK_BYTES: usize = 8;
    // A kernel sigaction of zeros is SIG_DFL. The bare call, because libc refuses to touch the two signals
    // it keeps for itself, and its posix_spawn hands one of them on as ignored.
    let default = [0u64; 4];
    let none = [0u8; MASK_BYTES];
    let no_old = ptr::null_mut::<c_void>();
    // SAFETY: the kernel reads 32 and 8 bytes, which these locals have.
    unsafe {
        for signal in 1..=64 {
            // SIGKILL and SIGSTOP fail, and are what they are.
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, MASK_BYTES);
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, none.as_ptr(), no_old, MASK_BYTES);
    }
}
