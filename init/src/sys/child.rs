//! The life of a child between `clone` and `execve`, in memory that it shares with init: system calls, and nothing else.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;

use super::plan::{Ids, Plan, Session, Step};
use super::signals::hand_over_signals;

/// Returns only to say what failed.
///
/// # Safety
/// Only for a fresh child: it changes session, descriptors, credentials and signal handling for good.
pub(super) unsafe fn become_program(plan: &Plan) -> (Step, c_int) {
    let ok = |result: c_long, step: Step| if result < 0 { Err((step, errno())) } else { Ok(result) };
    let run = || -> Result<(), (Step, c_int)> {
        // SAFETY: plain system calls on numbers and on memory of `plan`, which outlives us.
        unsafe {
            let placed = match plan.session {
                Session::New => libc::setsid(),
                Session::NewGroup => libc::setpgid(0, 0),
            };
            ok(placed.into(), Step::Session)?;
            if let Some(cgroup) = plan.cgroup {
                // 0 is who writes. The file is open, so it counts who opened it.
                ok(libc::write(cgroup, c"0".as_ptr().cast(), 1) as c_long, Step::Cgroup)?;
            }
            place_stdio(&plan.stdio).map_err(|errno| (Step::Stdio, errno))?;
            if plan.controlling_terminal {
                ok(libc::ioctl(0, libc::TIOCSCTTY, 0).into(), Step::Terminal)?;
            }
            if plan.foreground {
                let group = libc::getpid();
                // Not a terminal, or not ours: then there is no foreground to take.
                if libc::ioctl(0, libc::TIOCSPGRP, &raw const group) < 0
                    && !matches!(errno(), libc::ENOTTY | libc::ENXIO)
                {
                    return Err((Step::Terminal, errno()));
                }
            }
            for (resource, limit) in &plan.limits {
                let none = ptr::null_mut::<c_void>();
                ok(libc::syscall(libc::SYS_prlimit64, 0, *resource, &raw const *limit, none), Step::Limits)?;
            }
            if let Some(ids) = &plan.user {
                // Raw calls: libc's wrappers would broadcast to the threads of the process we share memory with.
                let Ids { uid, gid, groups } = ids;
                let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
                ok(set, Step::Credentials)?;
                ok(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid), Step::Credentials)?;
                ok(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid), Step::Credentials)?;
            }
            if let Some(umask) = plan.umask {
                libc::umask(umask);
            }
            // After the credentials: a folder only init may enter is not the child's to start in.
            if let Some(dir) = &plan.dir {
                ok(libc::chdir(dir.as_ptr()).into(), Step::Dir)?;
            }
            if plan.close_other_descriptors {
                // A belt: everything of ours is close-on-exec already, so an old kernel loses nothing.
                libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0);
            }
            hand_over_signals(plan.signals);
        }
        Ok(())
    };
    match run() {
        Err(failed) => failed,
        // SAFETY: the arrays are null-terminated and outlive the call.
        Ok(()) => (Step::Exec, unsafe { execute_first(plan) }),
    }
}

/// # Safety
/// Only for a fresh child whose descriptors 0, 1, 2 belong to nobody else.
unsafe fn place_stdio(stdio: &[RawFd; 3]) -> Result<(), c_int> {
    let mut sources = *stdio;
    // SAFETY: descriptor numbers only; the table is the child's own copy.
    unsafe {
        // A source that sits where another one must go is moved out of the way first.
        for (target, source) in (0..).zip(&mut sources) {
            if *source < 3 && *source != target {
                *source = libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, 3);
                if *source < 0 {
                    return Err(errno());
                }
            }
        }
        for (target, source) in (0..).zip(sources) {
            let placed = if source == target {
                libc::fcntl(target, libc::F_SETFD, 0)
            } else {
                libc::dup2(source, target)
            };
            if placed < 0 {
                return Err(errno());
            }
        }
    }
    Ok(())
}

/// `execvp` over prepared paths: what is missing or forbidden lets the next one try, and a forbidden one is
/// remembered. Returns the errno to report.
///
/// # Safety
/// Replaces the process.
unsafe fn execute_first(plan: &Plan) -> c_int {
    let (argv, env) = (plan.argv.pointers.as_ptr(), plan.env.pointers.as_ptr());
    let mut forbidden = false;
    let mut last = libc::ENOENT;
    for path in &plan.paths.pointers {
        if path.is_null() {
            break;
        }
        // SAFETY: `CStrings` keeps the strings alive and the arrays null-terminated.
        unsafe { libc::execve(*path, argv, env) };
        last = errno();
        match last {
            libc::EACCES => forbidden = true,
            libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENODEV | libc::ETIMEDOUT => {}
            _ => return last,
        }
    }
    if forbidden { libc::EACCES } else { last }
}

/// Why the last call failed. It is kept where the parent has its own, which makes no call of libc's meanwhile.
fn errno() -> c_int {
    Errno::last_raw()
}
