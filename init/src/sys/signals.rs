//! Signal masks and dispositions, as a process is given them and hands them on.
//!
//! The bare system calls, because libc refuses to touch the two signals that it keeps for itself.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Signals blocked and signals ignored, as bit sets in which bit N-1 stands for signal N.
///
/// These two are all that an `execve` hands on: handlers never survive it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalState {
    /// The signal mask.
    pub blocked: u64,
    /// Signals whose disposition is "ignore".
    pub ignored: u64,
}

/// What init itself was started with, recorded before Rust's runtime set SIGPIPE to "ignore".
pub(crate) fn given_signals() -> SignalState {
    SignalState {
        blocked: GIVEN_BLOCKED.load(Ordering::Relaxed),
        ignored: GIVEN_IGNORED.load(Ordering::Relaxed),
    }
}

/// Sets one signal of this process to its default action.
pub(crate) fn default_action(signal: c_int) {
    // SAFETY: the new action is "default", so no code of ours can ever run as a handler.
    unsafe { set_action(signal, libc::SIG_DFL) };
}

/// Sets the dispositions the program shall start with, and the mask last: from then on signals arrive.
///
/// # Safety
/// Only for a fresh child.
pub(super) unsafe fn hand_over_signals(wanted: SignalState) {
    // What may differ from "default": Rust's runtime ignores SIGPIPE and catches SIGSEGV and SIGBUS (to report
    // a stack overflow), and some may have been ignored when init was started.
    let reset =
        bit(libc::SIGPIPE) | bit(libc::SIGSEGV) | bit(libc::SIGBUS) | GIVEN_IGNORED.load(Ordering::Relaxed);
    for signal in 1..=64 {
        if (reset | wanted.ignored) & bit(signal) != 0 {
            let ignore = wanted.ignored & bit(signal) != 0;
            // SAFETY: "default" and "ignore" run no code of ours.
            unsafe { set_action(signal, if ignore { libc::SIG_IGN } else { libc::SIG_DFL }) };
        }
    }
    set_mask(wanted.blocked);
}

/// Sets the whole mask, the two signals libc keeps for itself included, and returns the previous one.
pub(super) fn set_mask(mask: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: both sets are locals of the size passed.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            SIGSET_BYTES,
        );
    }
    before
}

static GIVEN_BLOCKED: AtomicU64 = AtomicU64::new(0);
static GIVEN_IGNORED: AtomicU64 = AtomicU64::new(0);

/// Runs before `main` and before Rust's runtime, which would have changed what is recorded here.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD_GIVEN_SIGNALS: extern "C" fn() = record_given_signals;

extern "C" fn record_given_signals() {
    let mut blocked = 0_u64;
    let no_change = ptr::null::<c_void>();
    // SAFETY: reads the mask into a local; nothing of Rust's runtime is used, which does not exist yet.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, no_change, &raw mut blocked, SIGSET_BYTES) };
    GIVEN_BLOCKED.store(blocked, Ordering::Relaxed);

    let mut ignored = 0;
    for signal in 1..=64 {
        let mut action = KernelAction::default();
        // SAFETY: reads one action into a local that is at least as large as any kernel's layout.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, no_change, &raw mut action, SIGSET_BYTES);
        }
        if action.handler == libc::SIG_IGN {
            ignored |= bit(signal);
        }
    }
    GIVEN_IGNORED.store(ignored, Ordering::Relaxed);
}

/// The kernel's own `sigaction`. Its tail differs between architectures; we only use the handler in front.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    rest: [u64; 4],
}

const SIGSET_BYTES: usize = 8;

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// # Safety
/// `handler` is "default" or "ignore".
unsafe fn set_action(signal: c_int, handler: usize) {
    let action = KernelAction { handler, rest: [0; 4] };
    let unused = ptr::null_mut::<c_void>();
    // SAFETY: an action without handler, flags or mask is valid in every architecture's layout.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, unused, SIGSET_BYTES);
    }
}
