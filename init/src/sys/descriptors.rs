//! Descriptors: taken over and placed by their number, watched by the event loop, and asked what no safe call asks.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// A descriptor watched by the event loop.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until the `AsyncFd` that now owns it lets go of it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
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
