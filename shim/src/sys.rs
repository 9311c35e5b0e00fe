//! The system calls no safe library offers: the only `unsafe` code of the shim.
//!
//! A launch is a list of [`Step`]s carried out in order between clone and exec. The list is prepared
//! before the clone, so the child allocates nothing: it may share memory with threads of a
//! program that embeds us.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod kvm;

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use git2::ConfigLevel;
use rustix::process::Pid;

/// Stack of the child until it executes; its frames are a few hundred bytes deep.
const CHILD_STACK_BYTES: usize = 64 * 1024;

/// Has libgit2 look for no configuration of the machine's or the person's, from now on: what stands there can name programs.
/// Whoever opens a repository with it calls this first; false where it does not obey.
pub(crate) fn git_without_configuration() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        let levels = [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global];
        levels.into_iter().all(|level| {
            // SAFETY: the lock lets one thread in here and makes the others wait, and every use of libgit2 comes after it.
            unsafe { git2::opts::set_search_path(level, "") }.is_ok()
        })
    })
}

/// One thing the child does before it executes the program.
#[derive(Debug)]
pub(crate) enum Step {
    /// Leave the caller's session and terminal.
    NewSession,
    /// Be killed when our parent ends, which is the process with this number.
    EndWith(i32),
    /// Work in `/`, and not in whatever folder the caller is in.
    AtTheRoot,
    /// Enter the cgroup whose `cgroup.procs` is open here.
    JoinCgroup(RawFd),
    /// Get a mount table of our own; unmounts on the host still reach it, so that it keeps nothing busy.
    PrivateMounts,
    /// Cover a folder with an empty tmpfs others may only walk through.
    Cover(CString),
    /// Make the file or folder a mount is put on.
    MountPoint { at: CString, folder: bool },
    /// Attach a detached mount.
    Attach { mount: RawFd, at: CString },
    /// Begin in a user and a mount namespace of our own, with our own ids: for mounts without privileges. These are what
    /// goes into the maps. It is made by the clone, wherever this stands, because a process that shares its memory cannot
    /// make it later.
    OwnNamespaces { uid_map: CString, gid_map: CString },
    /// Cover a folder with an empty tmpfs for a tree of packages.
    Ground(CString),
    /// Show a file or folder, and what is mounted in it, at another place too, read-only.
    Graft { from: CString, at: CString },
    /// Make a symbolic link.
    Link { target: CString, at: CString },
    /// Let nothing more be made in this tmpfs.
    Seal(CString),
    /// Give up every group, id and capability for this one id.
    BecomeUser(u32),
    /// Make an open file known under this number, for the program to inherit.
    PassFd { from: RawFd, to: RawFd },
    /// Let nothing above this number through the exec, except what is passed afterwards.
    CloseAbove(RawFd),
}

/// What to execute once the steps are done.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: CString,
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
}

/// A child that reached exec.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Where a launch ended early.
#[derive(Debug)]
pub(crate) enum SpawnError {
    Clone(io::Error),
    Step(usize, io::Error),
    Exec(io::Error),
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> io::Error {
        match error {
            SpawnError::Clone(error) | SpawnError::Step(_, error) | SpawnError::Exec(error) => error,
        }
    }
}

/// Runs `steps` and then `program` in a new process, and returns once it was executed.
///
/// The child has every signal at its default and none blocked. Descriptors without close-on-exec
/// would pass: [`Step::CloseAbove`] comes before the first [`Step::PassFd`] for that reason.
pub(crate) fn spawn(steps: &[Step], program: &Program) -> Result<Child, SpawnError> {
    let args = null_terminated(&program.args);
    let env = null_terminated(&program.env);
    let mut plan = ChildPlan { steps, path: &program.path, args: &args, env: &env, failed: None };
    let mut stack = vec![0u8; CHILD_STACK_BYTES];
    let mut pidfd: c_int = -1;

    // SAFETY: plain numbers.
    let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) } == 1;
    // A handler of the embedding program must not run in the child, on memory it shares with us.
    let mask = block_signals();
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if steps.iter().any(|step| matches!(step, Step::OwnNamespaces { .. })) {
        flags |= libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    }
    // SAFETY: CLONE_VFORK suspends this thread until the child has executed or exited, so `stack`,
    // `plan` and what it borrows outlive every use, and nothing here reads them meanwhile. The
    // top of the stack is rounded down to the 16 bytes the ABI asks for.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(CHILD_STACK_BYTES);
        let top = top.sub(top as usize % 16);
        libc::clone(child_main, top.cast(), flags, (&raw mut plan).cast(), &raw mut pidfd)
    };
    let clone_error = io::Error::last_os_error();
    restore_signals(&mask);

    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(SpawnError::Clone(clone_error));
    };
    // Changing ids in a child that shares our memory made this process non-dumpable too.
    if dumpable {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
    // SAFETY: the kernel stored a new descriptor there because the clone succeeded, and only we know it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match plan.failed {
        None => Ok(Child { pid, pidfd }),
        Some((at, errno)) => {
            // The child has exited already; without this it would stay a zombie.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            let error = io::Error::from_raw_os_error(errno);
            Err(if at < steps.len() { SpawnError::Step(at, error) } else { SpawnError::Exec(error) })
        }
    }
}

/// What the child works from, and where it leaves the step that failed.
struct ChildPlan<'a> {
    steps: &'a [Step],
    path: &'a CStr,
    args: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    failed: Option<(usize, c_int)>,
}

extern "C" fn child_main(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to its `ChildPlan` and waits for us.
    let plan = unsafe { &mut *argument.cast::<ChildPlan<'_>>() };
    default_signals();
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(errno) = carry_out(step) {
            plan.failed = Some((index, errno));
            return 127;
        }
    }
    // SAFETY: path, args and env are NUL-terminated and owned by `spawn`'s caller.
    unsafe { libc::execve(plan.path.as_ptr(), plan.args.as_ptr(), plan.env.as_ptr()) };
    plan.failed = Some((plan.steps.len(), errno()));
    127
}

/// Runs in the child: only system calls, no allocation, no locks.
fn carry_out(step: &Step) -> Result<(), c_int> {
    const EMPTY: *const libc::c_char = c"".as_ptr();
    // SAFETY: every pointer is a NUL-terminated string of the plan or a local that lives through the call.
    // Ids are changed by bare system calls, because libc's wrappers would signal the threads of the parent.
    unsafe {
        match step {
            Step::NewSession => check(libc::setsid().into()),
            Step::EndWith(parent) => {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
                // It may have ended before.
                if libc::getppid() == *parent { Ok(()) } else { Err(libc::ESRCH) }
            }
            Step::AtTheRoot => check(libc::chdir(c"/".as_ptr()).into()),
            Step::JoinCgroup(procs) => {
                let written = libc::write(*procs, c"0".as_ptr().cast(), 1);
                if written == 1 { Ok(()) } else { Err(errno()) }
            }
            Step::PrivateMounts => {
                check(libc::unshare(libc::CLONE_NEWNS).into())?;
                let slave = libc::MS_REC | libc::MS_SLAVE;
                check(libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), slave, ptr::null()).into())
            }
            Step::Cover(at) => mount_tmpfs(at, c"mode=0711,size=1m"),
            // Only long links take memory.
            Step::Ground(at) => mount_tmpfs(at, c"mode=0755,size=16m"),
            Step::OwnNamespaces { uid_map, gid_map } => {
                write_file(c"/proc/self/setgroups", c"deny")?;
                write_file(c"/proc/self/uid_map", uid_map)?;
                write_file(c"/proc/self/gid_map", gid_map)
            }
            Step::Graft { from, at } => match graft(from, at, READ_ONLY) {
                // Before Linux 5.12 bwrap does it, mount by mount.
                Err(libc::ENOSYS) => graft(from, at, 0),
                done => done,
            },
            Step::Link { target, at } => check(libc::symlink(target.as_ptr(), at.as_ptr()).into()),
            Step::Seal(at) => {
                let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | TMPFS_FLAGS;
                check(libc::mount(ptr::null(), at.as_ptr(), ptr::null(), flags, ptr::null()).into())
            }
            Step::MountPoint { at, folder: true } => check(libc::mkdir(at.as_ptr(), 0o755).into()),
            Step::MountPoint { at, folder: false } => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
                let file = libc::open(at.as_ptr(), flags, 0o444);
                check(file.into())?;
                check(libc::close(file).into())
            }
            Step::Attach { mount, at } => {
                let from_the_descriptor = libc::MOVE_MOUNT_F_EMPTY_PATH;
                let (mount, here) = (*mount, libc::AT_FDCWD);
                check(libc::syscall(
                    libc::SYS_move_mount,
                    mount,
                    EMPTY,
                    here,
                    at.as_ptr(),
                    from_the_descriptor,
                ))
            }
            Step::BecomeUser(id) => {
                check(libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()))?;
                check(libc::syscall(libc::SYS_setresgid, *id, *id, *id))?;
                check(libc::syscall(libc::SYS_setresuid, *id, *id, *id))?;
                // Leaving uid 0 cleared all but the inheritable set.
                let header: [u32; 2] = [0x2008_0522, 0];
                let nothing = [0u32; 6];
                check(libc::syscall(libc::SYS_capset, header.as_ptr(), nothing.as_ptr()))
            }
            Step::PassFd { from, to } => check(libc::dup2(*from, *to).into()),
            Step::CloseAbove(last) => {
                let first = libc::c_long::from(*last) + 1;
                let everything = libc::c_long::from(u32::MAX);
                let on_exec = libc::CLOSE_RANGE_CLOEXEC;
                check(libc::syscall(libc::SYS_close_range, first, everything, on_exec))
            }
        }
    }
}

const TMPFS_FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Runs in the child.
fn mount_tmpfs(at: &CStr, options: &CStr) -> Result<(), c_int> {
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: every pointer is a NUL-terminated string that lives through the call.
    check(unsafe { libc::mount(tmpfs, at.as_ptr(), tmpfs, TMPFS_FLAGS, options.as_ptr().cast()) }.into())
}

/// Runs in the child. In one write, as the maps of a user namespace ask for.
fn write_file(path: &CStr, content: &CStr) -> Result<(), c_int> {
    // SAFETY: both are NUL-terminated strings, the length is that of the second, and the descriptor is ours.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file.into())?;
        let length = content.count_bytes();
        let written = libc::write(file, content.as_ptr().cast(), length);
        let result = if usize::try_from(written) == Ok(length) { Ok(()) } else { Err(errno()) };
        libc::close(file);
        result
    }
}

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Shows a file or folder, with what is mounted in it, at another place too, where no set-user-ID bit and no device node
/// counts. Nothing of it is there with weaker rules before.
pub(crate) fn show_at(from: &CStr, at: &CStr, read_only: bool) -> io::Result<()> {
    graft(from, at, if read_only { READ_ONLY } else { 0 }).map_err(io::Error::from_raw_os_error)
}

/// Runs in the child, and so only makes system calls. The mount gets its attributes before it is attached.
fn graft(from: &CStr, at: &CStr, attributes: u64) -> Result<(), c_int> {
    const EMPTY: *const libc::c_char = c"".as_ptr();
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let attributes = libc::mount_attr {
        attr_set: attributes | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let whole = libc::AT_RECURSIVE.cast_unsigned();
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() | whole;
    // SAFETY: the strings are NUL-terminated, the attributes live through the call and their size is passed with them.
    unsafe {
        let mount = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags);
        check(mount)?;
        let fd = c_int::try_from(mount).map_err(|_| libc::EBADF)?;
        let attached = (|| {
            check(libc::syscall(
                libc::SYS_mount_setattr,
                fd,
                EMPTY,
                libc::AT_EMPTY_PATH.cast_unsigned() | whole,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            ))?;
            // A place may be named by a descriptor, and /proc shows that as a link.
            let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_SYMLINKS;
            check(libc::syscall(libc::SYS_move_mount, fd, EMPTY, libc::AT_FDCWD, at.as_ptr(), flags))
        })();
        libc::close(fd);
        attached
    }
}

/// Goes on in two processes, and tells the new one apart by `None`. For a process that has one thread only.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: there is no other thread that could hold a lock for ever in the new process; the caller sees to that.
    match unsafe { libc::fork() } {
        pid @ 1.. => Ok(Pid::from_raw(pid)),
        0 => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A system call by its number and without arguments, for tests of what is refused whatever the arguments are.
#[cfg(test)]
pub(crate) fn call(number: libc::c_long) -> io::Result<libc::c_long> {
    // SAFETY: none of those that the tests name does anything without arguments: their pointers are null.
    match unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
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

/// Makes a user namespace that maps these ids of a file system to `id`, for idmapped mounts.
///
/// The process that creates it exits at once: a namespace can still be mapped and opened
/// through the zombie, which spares a pipe and a second running process.
pub(crate) fn id_mapping(owner: (u32, u32), id: u32) -> io::Result<OwnedFd> {
    extern "C" fn exit_at_once(_: *mut c_void) -> c_int {
        0
    }
    let mut stack = vec![0u8; CHILD_STACK_BYTES];
    let mask = block_signals();
    // No exit signal: the embedding program must not see a SIGCHLD for a child it never started.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_NEWUSER;
    // SAFETY: CLONE_VFORK keeps this thread, and with it the stack, until the child is gone.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(CHILD_STACK_BYTES);
        let top = top.sub(top as usize % 16);
        libc::clone(exit_at_once, top.cast(), flags, ptr::null_mut())
    };
    let clone_error = io::Error::last_os_error();
    restore_signals(&mask);
    if pid < 0 {
        return Err(clone_error);
    }
    let mapped = (|| {
        std::fs::write(format!("/proc/{pid}/uid_map"), format!("{} {id} 1", owner.0))?;
        std::fs::write(format!("/proc/{pid}/gid_map"), format!("{} {id} 1", owner.1))?;
        std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
    })();
    // SAFETY: waits for the child made above; __WALL because it has no exit signal.
    unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
    mapped
}

/// Shows the files of a detached mount, and of the mounts below it, with the ids of `mapping`.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, mapping: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(mapping.as_raw_fd()).unwrap_or_default(),
    };
    // SAFETY: the attributes live through the call and their size is passed with them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The newest version of Landlock that this kernel has, or 0.
pub(crate) fn landlock_abi() -> i64 {
    const VERSION: c_int = 1;
    // SAFETY: with this flag the kernel reads no attributes.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0, VERSION) };
    abi.max(0)
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

/// Makes a virtual machine and lets go of it: nothing less tells whether KVM works.
pub(crate) fn make_virtual_machine(kvm: BorrowedFd<'_>) -> io::Result<()> {
    const KVM_CREATE_VM: libc::Ioctl = 0xae01;
    // SAFETY: the argument is the machine's type, a plain number.
    let machine = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM, 0) };
    if machine < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    drop(unsafe { OwnedFd::from_raw_fd(machine) });
    Ok(())
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

fn null_terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn check(result: libc::c_long) -> Result<(), c_int> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> c_int {
    // SAFETY: the thread's own errno; in the child it is the parent's, which is suspended.
    unsafe { *libc::__errno_location() }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are locals, filled in before they are read.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: a set that `block_signals` returned.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// Handlers are not shared (no CLONE_SIGHAND), so this changes the child alone. An ignored SIGPIPE,
/// which Rust programs start with, would otherwise pass through every exec down to the agent.
fn default_signals() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn program(args: &[&str]) -> Program {
        let args: Vec<_> = args.iter().map(|arg| CString::new(*arg).unwrap()).collect();
        Program { path: args[0].clone(), args, env: vec![] }
    }

    fn wait(child: &Child) -> i32 {
        let status = rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty());
        status.unwrap().unwrap().1.exit_status().unwrap_or(-1)
    }

    #[test]
    fn a_failed_step_is_named_by_its_index() {
        let steps = [Step::NewSession, Step::PassFd { from: 999, to: 5 }, Step::CloseAbove(2)];
        match spawn(&steps, &program(&["/bin/true"])) {
            Err(SpawnError::Step(1, error)) => assert_eq!(error.raw_os_error(), Some(libc::EBADF)),
            other => panic!("expected step 1 to fail, got {other:?}"),
        }
    }

    #[test]
    fn a_missing_program_is_an_exec_error() {
        let result = spawn(&[], &program(&["/no/such/program"]));
        assert!(matches!(result, Err(SpawnError::Exec(error)) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn only_promised_descriptors_pass_and_sigpipe_is_default() {
        // Deliberately without close-on-exec: the leak that must not happen.
        let leak = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 200).unwrap();
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let steps = [Step::CloseAbove(2), Step::PassFd { from: null.as_raw_fd(), to: 7 }];
        let script = "[ -e /proc/self/fd/7 ] && [ ! -e /proc/self/fd/200 ] || exit 1
            grep -q '^SigIgn:\t0000000000000000$' /proc/self/status || exit 2
            grep -q '^SigBlk:\t0000000000000000$' /proc/self/status || exit 3";
        let child = spawn(&steps, &program(&["/bin/sh", "-c", script])).unwrap();
        assert_eq!(wait(&child), 0);
    }

    #[test]
    fn an_id_nobody_has_is_free_and_ours_is_not() {
        assert!(!user_has_processes(0x7aff_fff1).unwrap());
        assert!(user_has_processes(rustix::process::getuid().as_raw()).unwrap());
    }
}
