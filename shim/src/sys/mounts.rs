//! Mounts: put in their places, and shown with other owners than they have.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_int, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use super::{
    check,
    signals::{block_signals, restore_signals},
};

/// Stack of a process that only exits.
const EXITING_STACK_BYTES: usize = 64 * 1024;

/// Shows a file or folder, with what is mounted in it, at another place too, where no set-user-ID bit and no device node
/// counts. Nothing of it is there with weaker rules before.
pub(crate) fn show_at(from: &CStr, at: &CStr, read_only: bool) -> io::Result<()> {
    graft(from, at, if read_only { READ_ONLY } else { 0 }).map_err(io::Error::from_raw_os_error)
}

/// Makes a user namespace that maps these ids of a file system to `id`, for idmapped mounts.
///
/// The process that creates it exits at once: a namespace can still be mapped and opened
/// through the zombie, which spares a pipe and a second running process.
pub(crate) fn id_mapping(owner: (u32, u32), id: u32) -> io::Result<OwnedFd> {
    extern "C" fn exit_at_once(_: *mut c_void) -> c_int {
        0
    }
    let mut stack = vec![0u8; EXITING_STACK_BYTES];
    let mask = block_signals();
    // No exit signal: the embedding program must not see a SIGCHLD for a child it never started.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_NEWUSER;
    // SAFETY: CLONE_VFORK keeps this thread, and with it the stack, until the child is gone.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(EXITING_STACK_BYTES);
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

pub(super) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Runs in the child, and so only makes system calls. The mount gets its attributes before it is attached.
pub(super) fn graft(from: &CStr, at: &CStr, attributes: u64) -> Result<(), c_int> {
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

pub(super) const TMPFS_FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Runs in the child.
pub(super) fn mount_tmpfs(at: &CStr, options: &CStr) -> Result<(), c_int> {
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: every pointer is a NUL-terminated string that lives through the call.
    check(unsafe { libc::mount(tmpfs, at.as_ptr(), tmpfs, TMPFS_FLAGS, options.as_ptr().cast()) }.into())
}
