//! What this kernel can do, found out by asking for it.
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// The newest version of Landlock that this kernel has, or 0.
pub(crate) fn landlock_abi() -> i64 {
    const VERSION: c_int = 1;
    // SAFETY: with this flag the kernel reads no attributes.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0, VERSION) };
    abi.max(0)
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
