//! Calls from inside a machine, to itself and to its host.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use nix::sys::time::TimeVal;

/// The host, this machine by the number that means it in every machine, and by its own.
pub(crate) const HOST: u32 = 2;
const LOCAL: u32 = 1;
pub(crate) const OWN: u32 = 3;

/// Fewer than the descriptors a program may have.
const HELD: usize = 400;

/// Ports of the host, one after the other; which of them answered.
pub(crate) fn host(ports: impl Iterator<Item = u32>) -> io::Result<String> {
    let answered: Vec<String> =
        ports.filter(|port| stream(HOST, *port).is_ok()).map(|port| port.to_string()).collect();
    if answered.is_empty() { Err(io::Error::other("nobody answers")) } else { Ok(answered.join(" ")) }
}

/// Dials init by each number, holds half a greeting each time, and never stops.
pub(crate) fn flood(port: u32) -> ! {
    let mut held = Vec::new();
    loop {
        if held.len() >= HELD {
            held.clear();
        }
        for cid in [LOCAL, OWN, HOST] {
            if let Ok(mut to) = stream(cid, port) {
                let _ = to.write_all(b"AGNT");
                held.push(to);
            }
        }
    }
}

fn stream(cid: u32, port: u32) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // A host that says nothing is not waited for.
    let patience = TimeVal::new(0, 200_000);
    let set = unsafe {
        nix::libc::setsockopt(
            fd.as_raw_fd(),
            nix::libc::AF_VSOCK,
            6, // SO_VM_SOCKETS_CONNECT_TIMEOUT
            std::ptr::from_ref(patience.as_ref()).cast(),
            std::mem::size_of::<nix::libc::timeval>() as u32,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    connect(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
    Ok(fd.into())
}
