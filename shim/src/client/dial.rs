//! From an address to a connected stream.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Instant,
};

use agent_protocol::{address::Address, handshake::Features};
use nix::sys::socket::VsockAddr;
use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{
    error::{ConnectionError, io_error},
    wait::wait_for,
};

/// Longest answer to `CONNECT PORT` that we read. The devices write `OK 4294967295` at most.
const MAX_HYBRID_LINE_BYTES: usize = 32;

/// Longest path that fits into a Unix socket address with its closing NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Whom to call.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// An address as a person or a state file writes it.
    Address(&'a Address),
    /// A Unix socket in a folder that is open already; the length of the folder's path does not matter.
    InFolder {
        /// The sandbox's state folder.
        folder: BorrowedFd<'a>,
        /// The socket's name in it, without a slash.
        name: &'a str,
    },
}

impl Target<'_> {
    /// What can travel over this kind of stream.
    pub(crate) fn features(self) -> Features {
        match self {
            Self::Address(Address::Unix(_)) | Self::InFolder { .. } => Features::DESCRIPTORS,
            Self::Address(Address::Vsock { .. } | Address::Hybrid { .. }) => Features::default(),
        }
    }

    /// A connected, non-blocking stream to whoever listens there.
    pub(crate) fn dial(self, deadline: Instant) -> Result<OwnedFd, ConnectionError> {
        match self {
            Self::Address(Address::Unix(path)) => dial_unix(path),
            Self::Address(Address::Vsock { cid, port }) => dial_vsock(*cid, *port, deadline),
            Self::Address(Address::Hybrid { path, port }) => {
                let socket = dial_unix(path)?;
                hybrid_connect(&socket, *port, deadline)?;
                Ok(socket)
            }
            Self::InFolder { folder, name } => dial_in(folder, OsStr::new(name)),
        }
    }
}

fn dial_unix(path: &Path) -> Result<OwnedFd, ConnectionError> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
        return connect_unix(path.as_os_str().as_bytes());
    }
    let name = path.file_name().ok_or(ConnectionError::NotRunning)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::empty()) {
        Ok(folder) => dial_in(folder.as_fd(), name),
        Err(Errno::NOENT) => Err(ConnectionError::NotRunning),
        Err(error) => Err(ConnectionError::Io("opening the control socket's folder", error.into())),
    }
}

fn dial_in(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, ConnectionError> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    connect_unix(&path)
}

/// A Unix connect never waits when it may not block: there is room in the listener's queue or there is none.
fn connect_unix(path: &[u8]) -> Result<OwnedFd, ConnectionError> {
    let address = SocketAddrUnix::new(path).map_err(io_error("naming the control socket"))?;
    let socket = stream(AddressFamily::UNIX)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => Err(ConnectionError::NotRunning),
        Err(Errno::AGAIN) => Err(ConnectionError::Stuck("its queue of new connections is full")),
        Err(error) => Err(ConnectionError::Io("connecting to the control socket", error.into())),
    }
}

fn dial_vsock(cid: u32, port: u32, deadline: Instant) -> Result<OwnedFd, ConnectionError> {
    const STEP: &str = "connecting to the machine's vsock port";
    let socket = stream(AddressFamily::VSOCK)?;
    let refused = |error| match error {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::NODEV => ConnectionError::NotRunning,
        Errno::TIMEDOUT => ConnectionError::Stuck("connecting"),
        error => ConnectionError::Io(STEP, error.into()),
    };
    match nix::sys::socket::connect(socket.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) => return Ok(socket),
        Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(error) => return Err(refused(Errno::from_raw_os_error(error as i32))),
    }
    if !wait_for(socket.as_fd(), PollFlags::OUT, Some(deadline)).map_err(io_error(STEP))? {
        return Err(ConnectionError::Stuck("connecting"));
    }
    rustix::net::sockopt::socket_error(&socket).map_err(io_error(STEP))?.map_err(refused)?;
    Ok(socket)
}

fn stream(family: AddressFamily) -> Result<OwnedFd, ConnectionError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(io_error("making a socket"))
}

/// Asks the device for a port inside: `CONNECT PORT\n`, answered by `OK N\n`.
///
/// The answer is read byte by byte, because what follows its newline belongs to the handshake.
fn hybrid_connect(socket: &OwnedFd, port: u32, deadline: Instant) -> Result<(), ConnectionError> {
    const STEP: &str = "asking the machine's vsock device";
    let ask = format!("CONNECT {port}\n");
    // The socket is new and its buffer empty, so that these few bytes go in whole.
    match rustix::net::send(socket, ask.as_bytes(), SendFlags::NOSIGNAL) {
        Ok(sent) if sent == ask.len() => {}
        Ok(_) => return Err(ConnectionError::Stuck(STEP)),
        Err(Errno::PIPE | Errno::CONNRESET) => return Err(ConnectionError::NotRunning),
        Err(error) => return Err(ConnectionError::Io(STEP, error.into())),
    }
    let mut line = Vec::with_capacity(MAX_HYBRID_LINE_BYTES);
    while line.len() < MAX_HYBRID_LINE_BYTES {
        let mut byte = [0; 1];
        match rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT) {
            // The device closes the stream where nothing listens on the port.
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(ConnectionError::NotRunning),
            Ok(_) if byte == *b"\n" => {
                return if is_ok(&line) { Ok(()) } else { Err(ConnectionError::Hybrid) };
            }
            Ok(_) => line.extend_from_slice(&byte),
            Err(Errno::AGAIN) => {
                if !wait_for(socket.as_fd(), PollFlags::IN, Some(deadline)).map_err(io_error(STEP))? {
                    return Err(ConnectionError::Stuck(STEP));
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(ConnectionError::Io(STEP, error.into())),
        }
    }
    Err(ConnectionError::Hybrid)
}

fn is_ok(line: &[u8]) -> bool {
    line.strip_prefix(b"OK ")
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::is_ok;

    #[test]
    fn only_ok_and_a_number_is_an_answer() {
        assert!(is_ok(b"OK 1073741824"));
        for line in [&b"OK"[..], b"OK ", b"OK x", b"ok 1", b"FAIL 1", b"OK 1 ", b""] {
            assert!(!is_ok(line), "{line:?}");
        }
    }
}
