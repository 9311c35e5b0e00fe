//! What a process asks about others, and what it was given by the one that made it.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use rustix::process::Pid;

/// Goes on in two processes, and tells the new one apart by `None`. For a process that has one thread only.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: there is no other thread that could hold a lock for ever in the new process; the caller sees to that.
    match unsafe { libc::fork() } {
        pid @ 1.. => Ok(Pid::from_raw(pid)),
        0 => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel reap every child of this process.
pub(crate) fn forget_children() -> io::Result<()> {
    // SAFETY: no handler of ours runs; the signal is ignored.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether any process of this user exists, seen from our process table.
pub(crate) fn user_has_processes(uid: u32) -> io::Result<bool> {
    // SAFETY: plain numbers. The bare call returns 1 to 40, so that -1 is always an error.
    let nice = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_USER, uid) };
    match nice {
        0.. => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        },
    }
}

/// Takes a descriptor that the process which executed us has put under this number, and keeps it from the next.
///
/// To be called once for each number, by a program that was told of it.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers. It fails where there is no such descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else in this process knows of it: who executed us put it there for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_nobody_has_is_free_and_ours_is_not() {
        assert!(!user_has_processes(0x7aff_fff1).unwrap());
        assert!(user_has_processes(rustix::process::getuid().as_raw()).unwrap());
    }
}
