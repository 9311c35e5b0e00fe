//! From an address to a connected stream.

use std::{
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
    entrusted::{Entrusted, Stream},
    error::{ConnectionError, NOBODY_LISTENS, io_error},
    wait::wait_for,
};

/// Longest answer to `CONNECT PORT` that we read. The devices write `OK 4294967295` at most.
pub(crate) const MAX_HYBRID_LINE_BYTES: usize = 32;

const HYBRID_STEP: &str = "asking the machine's vsock device";
const VSOCK_STEP: &str = "connecting to the machine's vsock port";

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
        /// The socket's path in it.
        name: &'a Path,
    },
    /// A port of a machine whose device has its socket in a folder that is open already.
    DeviceInFolder {
        /// The sandbox's state folder.
        folder: BorrowedFd<'a>,
        /// The path of the device's socket in it.
        name: &'a Path,
        /// The port inside the machine.
        port: u32,
    },
}

/// A connection that was begun without waiting.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Whoever listens can be spoken to.
    Connected(OwnedFd),
    /// The device has to answer a line of ours first, which [`is_ok`] understands. Until then it takes nothing more:
    /// devices drop what comes along with the line.
    Asked(OwnedFd, Option<Entrusted>),
    /// The kernel is at it: there is room for writing once it is done, or an error.
    UnderWay(OwnedFd),
}

impl Target<'_> {
    /// What can travel over this kind of stream.
    pub(crate) fn features(self) -> Features {
        match self {
            Self::Address(Address::Unix(_)) | Self::InFolder { .. } => {
                Features::DESCRIPTORS.with(Features::INPUT_WINDOW)
            }
            Self::Address(Address::Vsock { .. } | Address::Hybrid { .. }) | Self::DeviceInFolder { .. } => {
                Features::INPUT_WINDOW
            }
        }
    }

    /// Whether it is a device of a machine that takes the call, where nobody inside may listen yet.
    pub(crate) fn is_device(self) -> bool {
        matches!(
            self,
            Self::Address(Address::Vsock { .. } | Address::Hybrid { .. }) | Self::DeviceInFolder { .. }
        )
    }

    /// Whether it is said beside a device's socket that nobody inside listens yet, and that it is not to be called before.
    pub(crate) fn is_not_yet(self) -> bool {
        let mark = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".not-yet");
            name
        };
        match self {
            Self::Address(Address::Hybrid { path, .. }) => Path::new(&mark(path)).exists(),
            Self::DeviceInFolder { folder, name, .. } => {
                rustix::fs::statat(folder, Path::new(&mark(name)), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok()
            }
            Self::Address(Address::Unix(_) | Address::Vsock { .. }) | Self::InFolder { .. } => false,
        }
    }

    /// Whether there is somebody to call, without calling them where that can be known.
    pub(crate) fn is_there(self) -> bool {
        let found = match self {
            Self::Address(Address::Hybrid { path, .. }) => through_folder(path, held),
            Self::DeviceInFolder { folder, name, .. } => held(&path_in(folder, name)),
            Self::Address(Address::Unix(_) | Address::Vsock { .. }) | Self::InFolder { .. } => {
                self.begin().map(drop)
            }
        };
        !matches!(found, Err(ConnectionError::NotRunning))
    }

    /// Begins a connection. Never waits.
    pub(crate) fn begin(self) -> Result<Begun, ConnectionError> {
        let ask = |path: &[u8], port| {
            let (socket, entrusted) = connect_device(path)?;
            ask_for(&socket, port).map(|()| Begun::Asked(socket, entrusted))
        };
        match self {
            Self::Address(Address::Unix(path)) => dial_unix(path).map(Begun::Connected),
            Self::Address(Address::Vsock { cid, port }) => begin_vsock(*cid, *port),
            Self::Address(Address::Hybrid { path, port }) => through_folder(path, |path| ask(path, *port)),
            Self::InFolder { folder, name } => connect_unix(&path_in(folder, name)).map(Begun::Connected),
            Self::DeviceInFolder { folder, name, port } => ask(&path_in(folder, name), port),
        }
    }

    /// A connected, non-blocking stream to whoever listens there.
    pub(crate) fn dial(self, deadline: Instant) -> Result<Stream, ConnectionError> {
        match self.begin()? {
            Begun::Connected(socket) => Ok(socket.into()),
            Begun::Asked(socket, mut entrusted) => {
                hear_ok(&socket, deadline)?;
                entrusted.iter_mut().for_each(Entrusted::heard);
                Ok(Stream::new(socket, entrusted))
            }
            Begun::UnderWay(socket) => {
                if !wait_for(socket.as_fd(), PollFlags::OUT, Some(deadline)).map_err(io_error(VSOCK_STEP))? {
                    return Err(ConnectionError::Stuck("connecting"));
                }
                finish_vsock(&socket)?;
                Ok(socket.into())
            }
        }
    }
}

fn dial_unix(path: &Path) -> Result<OwnedFd, ConnectionError> {
    through_folder(path, connect_unix)
}

/// Does something with a socket's path, through a descriptor of its folder where the path is too long.
fn through_folder<T>(
    path: &Path,
    act: impl FnOnce(&[u8]) -> Result<T, ConnectionError>,
) -> Result<T, ConnectionError> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
        return act(path.as_os_str().as_bytes());
    }
    let name = path.file_name().ok_or(ConnectionError::NotRunning)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::empty()) {
        Ok(folder) => act(&path_in(folder.as_fd(), Path::new(name))),
        Err(Errno::NOENT) => Err(ConnectionError::NotRunning),
        Err(error) => Err(ConnectionError::Io("opening the control socket's folder", error.into())),
    }
}

fn path_in(folder: BorrowedFd<'_>, name: &Path) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_os_str().as_bytes());
    path
}

/// Whether somebody holds the socket, without a connection: the kernel looks for the holder before it finds that this is
/// a socket of another kind. A device that is called and left again before it looks never lets go of that call.
fn held(path: &[u8]) -> Result<(), ConnectionError> {
    let address = SocketAddrUnix::new(path).map_err(io_error("naming the device's socket"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(io_error("making a socket"))?;
    match rustix::net::connect(&socket, &address) {
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => Err(ConnectionError::NotRunning),
        _ => Ok(()),
    }
}

/// A call that somebody holds who lives as long as the device, where there is one.
fn connect_device(path: &[u8]) -> Result<(OwnedFd, Option<Entrusted>), ConnectionError> {
    // Before there is a connection that a death could cut off.
    let socket = stream(AddressFamily::UNIX)?;
    let entrusted = Entrusted::give(path, &socket)?;
    connect_to(&socket, path)?;
    Ok((socket, entrusted))
}

/// A Unix connect never waits when it may not block: there is room in the listener's queue or there is none.
fn connect_unix(path: &[u8]) -> Result<OwnedFd, ConnectionError> {
    let socket = stream(AddressFamily::UNIX)?;
    connect_to(&socket, path)?;
    Ok(socket)
}

fn connect_to(socket: &OwnedFd, path: &[u8]) -> Result<(), ConnectionError> {
    let address = SocketAddrUnix::new(path).map_err(io_error("naming the control socket"))?;
    match rustix::net::connect(socket, &address) {
        Ok(()) => Ok(()),
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => Err(ConnectionError::NotRunning),
        Err(Errno::AGAIN) => Err(ConnectionError::Stuck("its queue of new connections is full")),
        Err(error) => Err(ConnectionError::Io("connecting to the control socket", error.into())),
    }
}

/// A vsock connect says at once where there is no such machine; all else takes the machine's answer.
fn begin_vsock(cid: u32, port: u32) -> Result<Begun, ConnectionError> {
    let socket = stream(AddressFamily::VSOCK)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) => Ok(Begun::Connected(socket)),
        Err(nix::errno::Errno::EINPROGRESS) => Ok(Begun::UnderWay(socket)),
        Err(error) => Err(vsock_error(Errno::from_raw_os_error(error as i32))),
    }
}

/// What became of a connection that was under way.
pub(crate) fn finish_vsock(socket: &OwnedFd) -> Result<(), ConnectionError> {
    rustix::net::sockopt::socket_error(socket).map_err(io_error(VSOCK_STEP))?.map_err(vsock_error)
}

fn vsock_error(error: Errno) -> ConnectionError {
    match error {
        Errno::NODEV => ConnectionError::NotRunning,
        // The machine is there: its kernel says so.
        Errno::CONNREFUSED | Errno::CONNRESET => ConnectionError::Stuck(NOBODY_LISTENS),
        Errno::TIMEDOUT => ConnectionError::Stuck("connecting"),
        error => ConnectionError::Io(VSOCK_STEP, error.into()),
    }
}

fn stream(family: AddressFamily) -> Result<OwnedFd, ConnectionError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(io_error("making a socket"))
}

/// Asks the device for a port inside: `CONNECT PORT\n`, answered by `OK N\n`.
fn ask_for(socket: &OwnedFd, port: u32) -> Result<(), ConnectionError> {
    let ask = format!("CONNECT {port}\n");
    // The socket is new and its buffer empty, so that these few bytes go in whole.
    match rustix::net::send(socket, ask.as_bytes(), SendFlags::NOSIGNAL) {
        Ok(sent) if sent == ask.len() => Ok(()),
        Ok(_) => Err(ConnectionError::Stuck(HYBRID_STEP)),
        // It may close at once where its machine is not ready.
        Err(Errno::PIPE | Errno::CONNRESET) => Err(ConnectionError::Stuck(NOBODY_LISTENS)),
        Err(error) => Err(ConnectionError::Io(HYBRID_STEP, error.into())),
    }
}

/// The answer is read byte by byte, because what follows its newline belongs to the handshake.
fn hear_ok(socket: &OwnedFd, deadline: Instant) -> Result<(), ConnectionError> {
    let mut line = Vec::with_capacity(MAX_HYBRID_LINE_BYTES);
    while line.len() < MAX_HYBRID_LINE_BYTES {
        let mut byte = [0; 1];
        match rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT) {
            // The device closes the stream where nothing listens on the port.
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(ConnectionError::Stuck(NOBODY_LISTENS)),
            Ok(_) if byte == *b"\n" => {
                return if is_ok(&line) { Ok(()) } else { Err(ConnectionError::Hybrid) };
            }
            Ok(_) => line.extend_from_slice(&byte),
            Err(Errno::AGAIN) => {
                if !wait_for(socket.as_fd(), PollFlags::IN, Some(deadline)).map_err(io_error(HYBRID_STEP))? {
                    return Err(ConnectionError::Stuck(HYBRID_STEP));
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(ConnectionError::Io(HYBRID_STEP, error.into())),
        }
    }
    Err(ConnectionError::Hybrid)
}

/// Whether the device's answer, without its newline, says that it has connected us.
pub(crate) fn is_ok(line: &[u8]) -> bool {
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
