//! Landlock's three system calls; which rules there are is decided in [`crate::harden`].
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

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
