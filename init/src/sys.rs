//! The system calls no safe crate offers; the only file of init that may use `unsafe`.
//!
//! Everything here is mechanism. What to spawn is decided in [`crate::spawn`], whom to wait for in
//! [`crate::children`], what to forbid in [`crate::harden`].
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::thread::futex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// Everything a child needs, laid out before it exists: the child itself must not allocate.
pub(crate) struct Plan {
    /// Paths to try in order, with the rules of `execvp`.
    pub(crate) paths: CStrings,
    pub(crate) argv: CStrings,
    pub(crate) env: CStrings,
    pub(crate) dir: Option<CString>,
    /// What becomes 0, 1 and 2.
    pub(crate) stdio: [RawFd; 3],
    pub(crate) session: Session,
    /// Make descriptor 0 the controlling terminal; needs a new session.
    pub(crate) controlling_terminal: bool,
    /// Take the foreground of the terminal on descriptor 0, if it is one.
    pub(crate) foreground: bool,
    pub(crate) limits: Vec<(c_int, libc::rlimit64)>,
    /// `cgroup.procs` of the cgroup to enter.
    pub(crate) cgroup: Option<RawFd>,
    pub(crate) user: Option<Ids>,
    pub(crate) umask: Option<libc::mode_t>,
    pub(crate) close_other_descriptors: bool,
    pub(crate) signals: SignalState,
}

/// Whom a child shares its session and group with.
pub(crate) enum Session {
    /// Nobody.
    New,
    /// The session with init, the group with nobody.
    NewGroup,
}

/// Numeric credentials; names are resolved by whoever wrote the request.
pub(crate) struct Ids {
    pub(crate) uid: libc::uid_t,
    pub(crate) gid: libc::gid_t,
    pub(crate) groups: Vec<libc::gid_t>,
}

/// Where between `clone` and the new program a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Creating the process.
    Clone = 1,
    /// `setsid` or `setpgid`.
    Session,
    /// Writing to `cgroup.procs`.
    Cgroup,
    /// Moving descriptors to 0, 1 and 2.
    Stdio,
    /// Making descriptor 0 the controlling terminal, or taking its foreground.
    Terminal,
    /// `setrlimit`.
    Limits,
    /// `setgroups`, `setresgid`, `setresuid`.
    Credentials,
    /// `chdir`.
    Dir,
    /// `execve`.
    Exec,
    /// The child neither executed nor failed in time.
    Deadline,
}

/// Why no program was started. A child that came to life and failed still has to be waited for.
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    pub(crate) child: Option<Pid>,
}

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

/// Marks every descriptor from `first` on close-on-exec, those we were started with included.
pub(crate) fn close_on_exec_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: only flags change; no descriptor is closed.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Takes ownership of a descriptor that was inherited under a number we were told.
pub(crate) fn adopt_descriptor(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and whoever started us passed it for us to own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an open file known under this number, which nothing here uses otherwise: the standard streams, or one that
/// the spec names. Nothing that is executed inherits it but a standard stream.
pub(crate) fn put_descriptor(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    let flags = if number > 2 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: plain numbers. What the number meant before is closed: this runs before init owns any descriptor, and a
    // standard stream is only ever used by its number.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), number, flags) })?;
    Ok(())
}

/// One datagram and who the kernel says sent it.
pub(crate) struct Datagram {
    pub(crate) bytes: usize,
    /// It was longer than the buffer.
    pub(crate) truncated: bool,
    /// The sender's pid in our namespace, 0 if it has none there. Needs `SO_PASSCRED`.
    pub(crate) sender: Option<libc::pid_t>,
}

/// Receives a datagram with its sender. Descriptors that come along are closed by the kernel.
pub(crate) fn receive_datagram(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    #[allow(clippy::cast_possible_truncation)] // twelve
    const CREDENTIALS_BYTES: u32 = size_of::<libc::ucred>() as u32;
    // SAFETY: computes a size, reads nothing.
    const SPACE_BYTES: usize = unsafe { libc::CMSG_SPACE(CREDENTIALS_BYTES) } as usize;
    // Room for the credentials, which come first, and for nothing else; aligned as a header has to be.
    let mut control = [0_u64; SPACE_BYTES / 8];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero bytes are a valid `msghdr` (null pointers, no lengths).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: buffer, control space and header live across the call, and their lengths are told.
    let bytes = Errno::result(unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    })?;

    // SAFETY: the header was filled by the kernel; the first control message is inside `control` or null.
    let sender = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        let credentials = !first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_CREDENTIALS
            && (*first).cmsg_len as usize >= libc::CMSG_LEN(CREDENTIALS_BYTES) as usize;
        credentials.then(|| ptr::read_unaligned(libc::CMSG_DATA(first).cast::<libc::ucred>()).pid)
    };
    Ok(Datagram { bytes: bytes.unsigned_abs(), truncated: message.msg_flags & libc::MSG_TRUNC != 0, sender })
}

/// A descriptor watched by the event loop.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until the `AsyncFd` that now owns it lets go of it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
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

/// Bytes that were written to a terminal, a serial port for one, and have not left it.
pub(crate) fn unsent_bytes(terminal: BorrowedFd<'_>) -> nix::Result<c_int> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one integer, to a local that lives across the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(bytes)
}

/// What the clock on a machine's board shows: second, minute, hour, day of the month, month from 0, year from 1900.
pub(crate) fn time_on_board(clock: &impl AsRawFd) -> nix::Result<[c_int; 6]> {
    // struct rtc_time has three more, which nobody fills.
    let mut fields: [c_int; 9] = [0; 9];
    let request = nix::request_code_read!(b'p', 0x09, size_of_val(&fields));
    // SAFETY: the request's number says how much the kernel writes, which is the local that lives across the call.
    Errno::result(unsafe { libc::ioctl(clock.as_raw_fd(), request, &raw mut fields) })?;
    let [second, minute, hour, day, month, year, ..] = fields;
    Ok([second, minute, hour, day, month, year])
}

/// The newest Landlock interface this kernel speaks, or 0.
pub(crate) fn landlock_abi() -> c_long {
    // SAFETY: with the VERSION flag the kernel reads no attribute.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0, LANDLOCK_VERSION)
    };
    abi.max(0)
}

/// Rules of Landlock that are not in force yet.
pub(crate) struct LandlockRuleset(OwnedFd);

impl LandlockRuleset {
    /// Rules that forbid these kinds of file access, and reaching out of the domain in these ways.
    pub(crate) fn new(files: u64, scoped: u64) -> nix::Result<Self> {
        let attributes = LandlockAttributes { handled_access_fs: files, handled_access_net: 0, scoped };
        // SAFETY: the attributes live across the call and their size is passed along. A kernel that knows fewer of them
        // accepts the rest as long as it is zero.
        let fd = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const attributes,
                size_of_val(&attributes),
                0,
            )
        })?;
        let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Allows these kinds of access to a file, or to everything below a folder.
    pub(crate) fn allow_below(&self, file: BorrowedFd<'_>, allowed_access: u64) -> nix::Result<()> {
        const PATH_BENEATH: c_int = 1;
        let rule = LandlockPathBeneath { allowed_access, parent_fd: file.as_raw_fd() };
        // SAFETY: the rule lives across the call, and is laid out as the kernel's for this kind of rule.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.0.as_raw_fd(), PATH_BENEATH, &raw const rule, 0)
        };
        Errno::result(added).map(drop)
    }

    /// Confines this process and its future children.
    pub(crate) fn enter(self) -> nix::Result<()> {
        // SAFETY: no memory is involved.
        let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0) };
        Errno::result(entered).map(drop)
    }
}

const LANDLOCK_VERSION: c_int = 1;

#[repr(C)]
struct LandlockAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct LandlockPathBeneath {
    allowed_access: u64,
    parent_fd: RawFd,
}

/// C strings with the null-terminated pointer array that `execve` reads.
pub(crate) struct CStrings {
    // The pointers point into these, which are never changed again.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
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

impl Step {
    fn from_number(number: u32) -> Option<Self> {
        use Step::{Cgroup, Clone, Credentials, Deadline, Dir, Exec, Limits, Session, Stdio, Terminal};
        [Clone, Session, Cgroup, Stdio, Terminal, Limits, Credentials, Dir, Exec, Deadline]
            .into_iter()
            .find(|step| *step as u32 == number)
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

/// Returns only to say what failed.
///
/// # Safety
/// Only for a fresh child: it changes session, descriptors, credentials and signal handling for good.
unsafe fn become_program(plan: &Plan) -> (Step, c_int) {
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

/// Sets the dispositions the program shall start with, and the mask last: from then on signals arrive.
///
/// # Safety
/// Only for a fresh child.
unsafe fn hand_over_signals(wanted: SignalState) {
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

/// Sets the whole mask, the two signals libc keeps for itself included, and returns the previous one.
fn set_mask(mask: u64) -> u64 {
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

fn errno() -> c_int {
    // SAFETY: the pointer is to this thread's errno; a child shares it with a parent that makes no libc calls.
    unsafe { *libc::__errno_location() }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::ENOMEM))
}

/// What glibc brings along for two things that init never does: for the message of a failed `assert`, translations,
/// converters of text and their loader; for the size of the first thread's stack, which Rust's runtime asks for to tell an
/// overflow from other faults, a reader of numbers in every format. Without them init is 160 kB smaller.
#[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
mod instead_of_libc {
    use std::ffi::{c_char, c_int, c_uint, c_void};

    /// Ends this process as the original does.
    #[unsafe(no_mangle)]
    extern "C" fn __assert_fail(
        _assertion: *const c_char,
        _file: *const c_char,
        _line: c_uint,
        _function: *const c_char,
    ) -> ! {
        const TEXT: &[u8] = b"agent-init: an assertion of libc's failed\n";
        // SAFETY: a constant's memory, and a call that never returns.
        unsafe {
            libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
            libc::abort()
        }
    }

    /// Says that it is not known.
    #[unsafe(no_mangle)]
    extern "C" fn pthread_getattr_np(_thread: libc::pthread_t, _attributes: *mut c_void) -> c_int {
        libc::ENOSYS
    }
}
