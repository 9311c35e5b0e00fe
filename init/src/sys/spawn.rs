//! Making a child: `vfork` with a deadline, on a stack of its own.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::thread::futex;

use super::child::become_program;
use super::plan::{Failure, Plan, Step};
use super::signals::set_mask;

/// A child normally executes within a millisecond. Longer means a file system that hangs, or somebody
/// who stops the child between `clone` and `execve`.
const EXEC_SLICE_MS: u32 = 20;
const EXEC_DEADLINE_MS: u32 = 5_000;
/// How long a killed child may take to let go of our memory. One in uninterruptible sleep never does.
const KILL_GRACE_MS: u32 = 500;

/// Starts the planned program and returns once it was executed.
///
/// This is `vfork` with a deadline. A true vfork suspends PID 1 until the child lets go, for ever if
/// need be, and a process of the same user can see to it with one well-timed SIGSTOP. Here the child
/// shares our memory the same way (nothing is copied, errors need no pipe), but we wait on a futex which
/// the kernel clears when the child executes or exits, wake a stopped child, and kill a stuck one.
pub(crate) fn spawn(plan: Plan) -> Result<Pid, Failure> {
    let stack =
        Stack::take().map_err(|error| Failure { step: Step::Clone, errno: errno_of(&error), child: None })?;
    let shared = Box::new(Shared {
        plan,
        stack,
        running: AtomicU32::new(1),
        step: AtomicU32::new(0),
        errno: AtomicI32::new(0),
    });

    let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    // Until the child has its own dispositions, none of our handlers may run in it: it shares our memory.
    let before = set_mask(u64::MAX);
    // SAFETY: `shared` (stack included) outlives the child's use of it: it is dropped only after
    // `running` was cleared by the kernel, and leaked otherwise. The child runs `child_main` alone, on
    // that stack, and this thread touches nothing but `running` until then. Init has one thread, so
    // no lock can be held by another at this moment.
    let pid = unsafe {
        libc::clone(
            child_main,
            shared.stack.top(),
            flags,
            (&raw const *shared).cast_mut().cast::<c_void>(),
            ptr::null_mut::<c_void>(),
            ptr::null_mut::<c_void>(),
            shared.running.as_ptr(),
        )
    };
    let cloned = Errno::result(pid).map(Pid::from_raw);
    let released = cloned.is_ok_and(|pid| shared.wait_for_release(pid));
    set_mask(before);

    let pid = match cloned {
        Ok(pid) if released => pid,
        Ok(pid) => {
            // The child may still write to its stack: this memory is never used again.
            Box::leak(shared);
            return Err(Failure { step: Step::Deadline, errno: Errno::ETIMEDOUT, child: Some(pid) });
        }
        Err(errno) => {
            shared.stack.give_back();
            return Err(Failure { step: Step::Clone, errno, child: None });
        }
    };
    let step = Step::from_number(shared.step.load(Ordering::Acquire));
    let errno = Errno::from_raw(shared.errno.load(Ordering::Acquire));
    shared.stack.give_back();
    match step {
        None => Ok(pid),
        Some(step) => Err(Failure { step, errno, child: Some(pid) }),
    }
}

/// What parent and child both see.
struct Shared {
    plan: Plan,
    stack: Stack,
    /// 1 until the kernel clears it: the child no longer uses our memory.
    running: AtomicU32,
    /// The failed step, 0 for none.
    step: AtomicU32,
    errno: AtomicI32,
}

impl Shared {
    fn wait_for_release(&self, pid: Pid) -> bool {
        let slice = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(EXEC_SLICE_MS) * 1_000_000 };
        let child = rustix::process::Pid::from_raw(pid.as_raw());
        let mut waited_ms = 0;
        while self.running.load(Ordering::Acquire) != 0 {
            // Not FUTEX_PRIVATE: the kernel's wake-up uses the shared key.
            if futex::wait(&self.running, futex::Flags::empty(), 1, Some(&slice))
                != Err(rustix::io::Errno::TIMEDOUT)
            {
                continue;
            }
            waited_ms += EXEC_SLICE_MS;
            if waited_ms >= EXEC_DEADLINE_MS + KILL_GRACE_MS {
                return false;
            }
            let signal = if waited_ms < EXEC_DEADLINE_MS {
                rustix::process::Signal::CONT
            } else {
                rustix::process::Signal::KILL
            };
            // rustix keeps errno out of it, which the child is using.
            let _ = child.map(|child| rustix::process::kill_process(child, signal));
        }
        true
    }
}

/// The child's whole life before its program: async-signal-safe calls on prepared memory only.
extern "C" fn child_main(shared: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a live `Shared` and keeps it until the kernel tells that we left.
    let shared = unsafe { &*shared.cast::<Shared>() };
    // SAFETY: we are the new child, alone on our stack.
    let (step, errno) = unsafe { become_program(&shared.plan) };
    shared.errno.store(errno, Ordering::Release);
    shared.step.store(step as u32, Ordering::Release);
    // SAFETY: ends this process without running any exit handler of the parent's.
    unsafe { libc::_exit(127) }
}

/// The stack a child runs on until it executes; kept for the next one.
struct Stack {
    base: *mut c_void,
}

const STACK_BYTES: usize = 64 * 1024;
const GUARD_BYTES: usize = 64 * 1024; // a whole page, whatever the page size

thread_local! {
    static SPARE_STACK: Cell<Option<Stack>> = const { Cell::new(None) };
}

impl Stack {
    fn take() -> io::Result<Self> {
        if let Some(stack) = SPARE_STACK.take() {
            return Ok(stack);
        }
        let (size, flags) = (GUARD_BYTES + STACK_BYTES, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping, owned by the returned value.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the lowest part of our own mapping; an overflow faults there instead of corrupting init.
        Errno::result(unsafe { libc::mprotect(base, GUARD_BYTES, libc::PROT_NONE) })?;
        Ok(stack)
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of our own mapping; stacks grow down from it, and it is page-aligned.
        unsafe { self.base.add(GUARD_BYTES + STACK_BYTES) }
    }

    fn give_back(&self) {
        SPARE_STACK.set(Some(Self { base: self.base }));
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::ENOMEM))
}
