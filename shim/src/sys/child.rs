//! The life of a child between clone and exec, in memory that it shares with us: system calls, no allocation, no locks.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_int, c_void},
    ptr,
};

use super::{
    check, errno,
    mounts::{READ_ONLY, TMPFS_FLAGS, graft, mount_tmpfs},
    signals::default_signals,
    step::Step,
};

/// What the child works from, and where it leaves the step that failed.
pub(super) struct ChildPlan<'a> {
    pub(super) steps: &'a [Step],
    pub(super) path: &'a CStr,
    pub(super) args: &'a [*const libc::c_char],
    pub(super) env: &'a [*const libc::c_char],
    pub(super) failed: Option<(usize, c_int)>,
}

pub(super) extern "C" fn child_main(argument: *mut c_void) -> c_int {
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
            Step::NoteSelf(record) => {
                let mut line = [0; NOTE_MAX_BYTES];
                let note = note(libc::getpid().unsigned_abs(), &mut line);
                let written = libc::write(*record, note.as_ptr().cast(), note.len());
                if usize::try_from(written) == Ok(note.len()) { Ok(()) } else { Err(errno()) }
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

const NOTE: &[u8] = b"{\"layer-pid\": ";
const NOTE_MAX_BYTES: usize = NOTE.len() + 10 + 2;

/// The line with this number in it, without memory of its own.
fn note(number: u32, line: &mut [u8; NOTE_MAX_BYTES]) -> &[u8] {
    let (mut at, mut rest) = (NOTE_MAX_BYTES - 2, number);
    line[at..].copy_from_slice(b"}\n");
    while at > NOTE.len() {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let begin = at - NOTE.len();
    line[begin..at].copy_from_slice(NOTE);
    &line[begin..]
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
