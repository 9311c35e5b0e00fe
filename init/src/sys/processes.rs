//! Waiting for processes, and what is done to them by their number.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

/// One child that ended, as the kernel tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    pub(crate) pid: Pid,
    pub(crate) status: c_int,
    pub(crate) usage: libc::rusage,
}

#[cfg(test)]
impl Waited {
    pub(crate) fn for_test(pid: Pid) -> Self {
        // SAFETY: all-zero bytes are a valid `rusage`.
        Self { pid, status: 0, usage: unsafe { std::mem::zeroed() } }
    }
}

/// Takes one ended child, any of them, without blocking. `None` means that none is left for now.
pub(crate) fn wait_any() -> Option<Waited> {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`: it is integers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both out-pointers live across the call.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    // 0: children, but none ended. ECHILD: no children. Nothing else can happen to this call.
    (pid > 0).then(|| Waited { pid: Pid::from_raw(pid), status, usage })
}

/// Lets go of a child that made us its debugger (`PTRACE_TRACEME`), and stopped.
///
/// The kernel tells a debugger of stops where it tells others of exits alone. The signal that stopped it is passed
/// on, but for the one that execve sends for debuggers.
pub(crate) fn stop_debugging(waited: &Waited) {
    let signal = libc::WSTOPSIG(waited.status);
    let signal = if signal == libc::SIGTRAP { 0 } else { signal };
    // SAFETY: no memory is involved. It can be gone by now, killed: then there is nothing to let go of.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, waited.pid.as_raw(), 0, signal) };
}

/// `kill(2)` with any signal number: nix knows the named ones only, and we forward real-time signals.
pub(crate) fn kill(pid: c_int, signal: c_int) -> nix::Result<()> {
    // SAFETY: no memory is involved.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Reads a resource limit of another process.
pub(crate) fn limit_of(pid: Pid, resource: c_int) -> nix::Result<libc::rlimit64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the old limit is written to a local that lives across the call; no new one is set.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, ptr::null::<c_void>(), &raw mut limit)
    };
    Errno::result(result).map(|_| limit)
}

/// Starts a process that writes everything back to the disks, and ends.
pub(crate) fn write_back_apart() -> nix::Result<Pid> {
    // SAFETY: a copy of this process, as fork(2) makes it. It makes two system calls, without memory, and never returns.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
        if pid == 0 {
            libc::syscall(libc::SYS_sync);
            libc::_exit(0);
        }
        pid
    };
    let pid = Errno::result(pid)?;
    Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(0)))
}
