//! The attempts themselves. Raw system calls, because that is what an attacker has.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::zeroed;
use std::ptr::null;

use nix::libc::{self, syscall};

/// Something an attacker may try.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    /// What must come of it after hardening.
    pub(crate) expected: &'static str,
    /// Whether it works against a PID 1 that took no measures; if not, hardening is only a second lock.
    pub(crate) open_before: bool,
    action: fn() -> c_long,
}

const fn attempt(
    name: &'static str,
    expected: &'static str,
    open_before: bool,
    action: fn() -> c_long,
) -> Attempt {
    Attempt { name, expected, open_before, action }
}

/// Runs every attempt and prints what became of it.
pub(crate) fn run() {
    for attempt in ALL {
        let result = (attempt.action)();
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let outcome = match (result, error) {
            (-1, libc::EPERM) => "EPERM".to_owned(),
            (-1, libc::EACCES) => "EACCES".to_owned(),
            (-1, libc::ENOSYS) => "ENOSYS".to_owned(),
            (-1, killed) if killed > KILLED => format!("killed by signal {}", killed - KILLED),
            (-1, other) => format!("errno {other}"),
            _ => "ok".to_owned(),
        };
        println!("{}: {outcome}", attempt.name);
    }
}

const INIT: c_int = 1;
/// The only priority that anyone may set at any time.
const LOWEST: c_int = 19;
const HIGH_BITS: u64 = 0xdead_beef << 32;

/// Harmless against an init that does not defend itself: values are read and set to what they were.
pub(crate) const ALL: &[Attempt] = &[
    attempt("prlimit", "EPERM", true, || unsafe {
        let mut old: libc::rlimit64 = zeroed();
        syscall(libc::SYS_prlimit64, INIT, libc::RLIMIT_CORE, null::<c_void>(), &raw mut old);
        syscall(libc::SYS_prlimit64, INIT, libc::RLIMIT_CORE, &raw const old, null::<c_void>())
    }),
    attempt("prlimit-high-bits", "EPERM", true, || unsafe {
        let mut old: libc::rlimit64 = zeroed();
        syscall(
            libc::SYS_prlimit64,
            INIT as u64 | HIGH_BITS,
            libc::RLIMIT_CORE,
            null::<c_void>(),
            &raw mut old,
        )
    }),
    attempt("prlimit-itself", "ok", true, || unsafe {
        let mut old: libc::rlimit64 = zeroed();
        syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, null::<c_void>(), &raw mut old)
    }),
    attempt("sched_setaffinity", "EPERM", true, || unsafe {
        let all = [u64::MAX; 16];
        syscall(libc::SYS_sched_setaffinity, INIT, size_of_val(&all), all.as_ptr())
    }),
    attempt("sched_setscheduler", "EPERM", true, || unsafe {
        let other: libc::sched_param = zeroed();
        syscall(libc::SYS_sched_setscheduler, INIT, libc::SCHED_OTHER, &raw const other)
    }),
    attempt("sched_setparam", "EPERM", true, || unsafe {
        let other: libc::sched_param = zeroed();
        syscall(libc::SYS_sched_setparam, INIT, &raw const other)
    }),
    attempt("setpriority-process", "EPERM", true, || unsafe {
        syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, INIT, LOWEST)
    }),
    attempt("setpriority-user", "EPERM", true, || unsafe {
        syscall(libc::SYS_setpriority, libc::PRIO_USER, libc::getuid(), LOWEST)
    }),
    attempt("setpriority-group", "EPERM", true, || unsafe {
        syscall(libc::SYS_setpriority, libc::PRIO_PGRP, 0, LOWEST)
    }),
    attempt("setpriority-itself", "ok", true, || unsafe {
        syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, LOWEST)
    }),
    attempt("ioprio_set-process", "EPERM", true, || unsafe {
        syscall(libc::SYS_ioprio_set, 1, INIT, 2 << 13 | 4)
    }),
    attempt("ioprio_set-user", "EPERM", true, || unsafe {
        syscall(libc::SYS_ioprio_set, 3, libc::getuid(), 2 << 13 | 4)
    }),
    attempt("kill", "EPERM", true, || unsafe { syscall(libc::SYS_kill, INIT, libc::SIGWINCH) }),
    attempt("kill-everyone", "ok", true, || unsafe {
        // Nobody else is there but, in case there is, the signal is one that is ignored.
        syscall(libc::SYS_kill, -1, libc::SIGWINCH).max(0)
    }),
    attempt("tgkill", "EPERM", true, || unsafe { syscall(libc::SYS_tgkill, INIT, INIT, libc::SIGWINCH) }),
    attempt("rt_sigqueueinfo", "EPERM", true, || unsafe {
        let info = forged(libc::SIGTERM);
        syscall(libc::SYS_rt_sigqueueinfo, INIT, libc::SIGTERM, info.as_ptr())
    }),
    attempt("pidfd_send_signal-forged", "EPERM", true, || unsafe {
        let info = forged(libc::SIGTERM);
        let pidfd = syscall(libc::SYS_pidfd_open, INIT, 0);
        // With the queue of our user full, the details would be lost and the forgery complete.
        syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGTERM, info.as_ptr(), 0)
    }),
    attempt("sigio-forged", "ok", true, || unsafe {
        // The kernel sends it in our name, with no pid; init must see through it, the filter does not.
        let mut pipe = [0; 2];
        libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK);
        libc::fcntl(pipe[0], libc::F_SETOWN, INIT);
        libc::fcntl(pipe[0], 10 /* F_SETSIG */, libc::SIGTERM);
        libc::fcntl(pipe[0], libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
        libc::write(pipe[1], c"x".as_ptr().cast(), 1) as c_long
    }),
    attempt("ptrace", "EPERM", true, || unsafe { syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, INIT, 0, 0) }),
    attempt("process_vm_readv", "EPERM", false, || unsafe {
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: 0x1000 as *mut c_void, iov_len: 1 };
        syscall(libc::SYS_process_vm_readv, INIT, &raw const local, 1, &raw const remote, 1, 0)
    }),
    attempt("pidfd_getfd", "EPERM", true, || unsafe {
        let pidfd = syscall(libc::SYS_pidfd_open, INIT, 0);
        syscall(libc::SYS_pidfd_getfd, pidfd, 1, 0)
    }),
    attempt("read-environ", "EACCES", true, || unsafe {
        libc::open(c"/proc/1/environ".as_ptr(), libc::O_RDONLY).into()
    }),
    attempt("read-mem", "EACCES", true, || unsafe {
        libc::open(c"/proc/1/mem".as_ptr(), libc::O_RDWR).into()
    }),
    attempt("read-fd", "EACCES", true, || unsafe {
        libc::open(c"/proc/1/fd".as_ptr(), libc::O_RDONLY).into()
    }),
    attempt("read-cwd", "EACCES", true, || unsafe {
        libc::open(c"/proc/1/cwd".as_ptr(), libc::O_PATH).into()
    }),
    attempt("read-exe", "EACCES", true, || unsafe {
        libc::open(c"/proc/1/exe".as_ptr(), libc::O_RDONLY).into()
    }),
    attempt("write-oom_score_adj", "EACCES", true, || unsafe {
        libc::open(c"/proc/1/oom_score_adj".as_ptr(), libc::O_WRONLY).into()
    }),
    attempt("TIOCSTI", "EPERM", false, || unsafe {
        syscall(libc::SYS_ioctl, 0, libc::TIOCSTI | HIGH_BITS, c"x".as_ptr())
    }),
    attempt("TIOCLINUX", "EPERM", false, || unsafe {
        syscall(libc::SYS_ioctl, 0, libc::TIOCLINUX, c"\x02".as_ptr())
    }),
    attempt("keyctl", "EPERM", true, || unsafe { syscall(libc::SYS_keyctl, 0, -3, 1) }),
    attempt("add_key", "EPERM", true, || unsafe {
        syscall(libc::SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"x".as_ptr(), 1, -3)
    }),
    attempt("bpf", "EPERM", false, || unsafe { syscall(libc::SYS_bpf, 0, null::<c_void>(), 0) }),
    attempt("userfaultfd", "EPERM", true, || unsafe { syscall(libc::SYS_userfaultfd, 1) }),
    attempt("io_uring", "ENOSYS", true, || unsafe {
        let mut parameters = [0_u64; 15];
        syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr())
    }),
    attempt("vsock", "EPERM", true, || unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).into() }),
    attempt("x32", "ENOSYS", false, || unsafe { syscall(0x4000_0000 | libc::SYS_getpid) }),
    // The 32-bit interface, in which 20 is getpid and every other number would pass the rules.
    #[cfg(target_arch = "x86_64")]
    attempt("int80", "killed by signal 31", true, || {
        in_child(|| {
            let result: c_long;
            unsafe { std::arch::asm!("int 0x80", inout("rax") 20_i64 => result) };
            result
        })
    }),
    attempt("join-group-of-init", "EPERM", false, || unsafe { libc::setpgid(0, INIT).into() }),
    // These are made in children: they change the process for good.
    attempt("unshare-user", "EPERM", true, || {
        in_child(|| unsafe { libc::unshare(libc::CLONE_NEWUSER).into() })
    }),
    attempt("clone-user", "EPERM", true, || unsafe {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        let pid = syscall(libc::SYS_clone, flags, null::<c_void>(), null::<c_void>(), null::<c_void>(), 0);
        if pid == 0 {
            libc::_exit(0);
        }
        pid
    }),
    attempt("clone3-user", "ENOSYS", true, || unsafe {
        let mut arguments = [0_u64; 11];
        arguments[0] = libc::CLONE_NEWUSER as u64;
        arguments[4] = libc::SIGCHLD as u64;
        let pid = syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments));
        if pid == 0 {
            libc::_exit(0);
        }
        pid
    }),
    attempt("mount-in-userns", "EPERM", true, || {
        in_child(|| unsafe {
            if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0 {
                return -1;
            }
            let kind = c"tmpfs".as_ptr();
            libc::mount(kind, c"/tmp".as_ptr(), kind, 0, null::<c_void>()).into()
        })
    }),
];

/// A signal whose sender claims to be nobody, with a code that `rt_sigqueueinfo` accepts.
fn forged(signal: c_int) -> [u32; 32] {
    let mut info = [0; 32];
    info[0] = signal.cast_unsigned();
    info[2] = libc::SI_QUEUE.cast_unsigned();
    info
}

/// Added to a signal's number to tell it from an errno.
const KILLED: c_int = 1000;

/// Runs something in a child and hands on its errno, or what killed it.
fn in_child(action: fn() -> c_long) -> c_long {
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let failed = action() == -1;
            libc::_exit(if failed { io::Error::last_os_error().raw_os_error().unwrap_or(255) } else { 0 });
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        if status == 0 {
            return 0;
        }
        let signal = libc::WTERMSIG(status);
        *libc::__errno_location() = if signal == 0 { libc::WEXITSTATUS(status) } else { KILLED + signal };
        -1
    }
}
