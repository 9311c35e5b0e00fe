//! Connections to init that never block: for those who talk to many at once, or must not wait for one.
//!
//! `connect` answers whether a sandbox lives, because init alone holds the listener: refused is dead.

use std::{
    fs::{self, File},
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use agent_protocol::{
    Request, ServerMessage, codec,
    frame::{self, Kind},
    handshake::{Features, HELLO_BYTES, Hello, Token, Verdict, WELCOME_BYTES, Welcome},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, send,
        socket_with,
    },
};

pub(crate) const SOCKET_FILE: &str = "control.sock";

/// Connections that wait for an init that is slow or stopped. Further ones see `EAGAIN`, and say that it is stuck.
const BACKLOG: i32 = 256;

/// What one read takes. A monitor at rest holds none of it.
const READ_BYTES: usize = 32 * 1024;

/// A connection with one request under way.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
    welcomed: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Nobody listens.
    #[error("nobody listens on the control socket")]
    Dead,
    /// Init lives and has not accepted connections for a while.
    #[error("init accepts no connections")]
    Full,
    /// The kernel refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a connection is of no further use. The bytes may be hostile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not the protocol.
    #[error(transparent)]
    Handshake(#[from] agent_protocol::handshake::HandshakeError),
    /// Not the protocol.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    /// Not the protocol.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    /// Init said no.
    #[error("init refused the connection: {0:?}")]
    Refused(Verdict),
}

/// What arrived.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// The handshake is done: init answers.
    Welcome,
    /// A message.
    Message(ServerMessage),
    /// Bytes of a stream, from this offset on.
    Data(u64, &'a [u8]),
}

/// What can be expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing now; poll.
    Blocked,
    /// Perhaps more at once.
    More,
    /// The other side closed.
    Closed,
}

impl Channel {
    /// Connects to the init of the sandbox in `folder`, and asks.
    pub(crate) fn open(folder: &Path, request: &Request) -> Result<Self, OpenError> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES + 64);
        bytes.extend_from_slice(&Hello::new(Features(0), Token::default()).encode());
        codec::encode_frame(Kind::Request, request, &mut bytes).map_err(io::Error::other)?;
        let socket = self::connect_to(folder)?;
        // An empty socket buffer takes any request whole.
        match send(&socket, &bytes, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => Ok(Self { socket, buffer: Vec::new(), welcomed: false }),
            Ok(_) => Err(OpenError::Full),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(OpenError::Dead),
            Err(error) => Err(OpenError::Io(error.into())),
        }
    }

    /// Reads once and hands on all that is complete.
    pub(crate) fn pump(&mut self, mut on: impl FnMut(Received<'_>)) -> Result<Flow, ChannelError> {
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let read = rustix::io::read(&self.socket, &mut self.buffer[old..]);
        self.buffer.truncate(old + *read.as_ref().unwrap_or(&0));
        let flow = match read {
            Ok(0) | Err(Errno::CONNRESET) => Flow::Closed,
            Ok(_) => Flow::More,
            Err(Errno::AGAIN | Errno::INTR) => Flow::Blocked,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let used = self.hand_on(&mut on)?;
        if used == self.buffer.len() {
            // Gives the memory back: most of its life a channel has nothing to hold.
            drop(mem::take(&mut self.buffer));
        } else {
            self.buffer.drain(..used);
        }
        Ok(flow)
    }

    fn hand_on(&mut self, on: &mut impl FnMut(Received<'_>)) -> Result<usize, ChannelError> {
        let mut rest = &self.buffer[..];
        if !self.welcomed {
            let Some((head, behind)) = rest.split_first_chunk::<WELCOME_BYTES>() else { return Ok(0) };
            let welcome = Welcome::decode(head)?;
            if welcome.verdict != Verdict::Welcome {
                return Err(ChannelError::Refused(welcome.verdict));
            }
            self.welcomed = true;
            rest = behind;
            on(Received::Welcome);
        }
        while let Some((header, frame)) = frame::decode(rest)? {
            match frame.kind {
                Kind::Message => on(Received::Message(codec::decode(frame.payload)?)),
                // Init sends no requests.
                Kind::Request => return Err(frame::FrameError::UnknownKind(Kind::Request as u8).into()),
                _ => {
                    let (offset, bytes) = frame.data()?;
                    on(Received::Data(offset, bytes));
                }
            }
            rest = &rest[header.frame_bytes()..];
        }
        Ok(self.buffer.len() - rest.len())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether init lives, as the kernel has it.
pub(crate) fn is_alive(folder: &Path) -> bool {
    !matches!(connect_to(folder), Err(OpenError::Dead))
}

/// Makes the listening socket that init will inherit; one left by an earlier start is replaced.
pub(crate) fn listen_in(folder: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(folder.join(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    with_address(folder, |address| bind(&socket, address))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn connect_to(folder: &Path) -> Result<OwnedFd, OpenError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(io::Error::from)?;
    match with_address(folder, |address| connect(&socket, address)) {
        Ok(()) => Ok(socket),
        Err(error) => Err(match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED | Errno::NOENT) => OpenError::Dead,
            Some(Errno::AGAIN) => OpenError::Full,
            _ => OpenError::Io(error),
        }),
    }
}

/// A socket's path has 107 bytes at most; through a descriptor of its folder, any folder will do.
fn with_address(
    folder: &Path,
    act: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<()>,
) -> io::Result<()> {
    let folder = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", folder.as_raw_fd());
    Ok(act(&SocketAddrUnix::new(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use rustix::net::accept;

    /// A peer that says these bytes and closes.
    fn hear(bytes: &[u8]) -> (Vec<String>, Result<Flow, ChannelError>) {
        let folder = TempDir::new();
        let listener = listen_in(folder.path()).unwrap();
        let mut channel = Channel::open(folder.path(), &Request::Ping).unwrap();
        let peer = accept(&listener).unwrap();
        rustix::io::write(&peer, bytes).unwrap();
        drop(peer);
        let mut heard = Vec::new();
        loop {
            match channel.pump(|received| heard.push(format!("{received:?}"))) {
                Ok(Flow::More) => {}
                end => return (heard, end),
            }
        }
    }

    fn welcome() -> Vec<u8> {
        let answer = Welcome { generation: 1, verdict: Verdict::Welcome, features: Features(0) };
        answer.encode().to_vec()
    }

    #[test]
    fn a_socket_without_a_listener_is_dead() {
        let folder = TempDir::new();
        assert!(!is_alive(folder.path()));
        let listener = listen_in(folder.path()).unwrap();
        assert!(is_alive(folder.path()));
        drop(listener);
        assert!(!is_alive(folder.path()));
        drop(listen_in(folder.path()).unwrap());
    }

    #[test]
    fn folders_of_any_length_will_do() {
        let temp = TempDir::new();
        let folder = temp.path().join("x".repeat(200));
        fs::create_dir(&folder).unwrap();
        let _listener = listen_in(&folder).unwrap();
        assert!(is_alive(&folder));
    }

    #[test]
    fn a_listener_that_accepts_nobody_is_full_and_not_dead() {
        let folder = TempDir::new();
        let _listener = listen_in(folder.path()).unwrap();
        let mut waiting = Vec::new();
        let end = loop {
            match Channel::open(folder.path(), &Request::Ping) {
                Ok(channel) => waiting.push(channel),
                Err(error) => break error,
            }
        };
        assert!(matches!(end, OpenError::Full), "{end}");
        assert!(is_alive(folder.path()));
    }

    #[test]
    fn an_answer_is_heard() {
        let mut bytes = welcome();
        codec::encode_frame(Kind::Message, &ServerMessage::Pong, &mut bytes).unwrap();
        frame::encode_data(Kind::Log, 7, b"hi", &mut bytes);
        let (heard, end) = hear(&bytes);
        assert_eq!(heard, ["Welcome", "Message(Pong)", "Data(7, [104, 105])"]);
        assert!(matches!(end, Ok(Flow::Closed)));
    }

    #[test]
    fn hostile_bytes_end_the_channel() {
        let with = |tail: &[u8]| [&welcome()[..], tail].concat();
        for bytes in [
            vec![0; 64],
            with(&[0, 0, 0, 0, 0, 0, 0, 0]),
            with(&[1, 0, 0, 0, 255, 255, 255, 255]),
            with(&[1, 0, 0, 0, 1, 0, 0, 0, 255]),
            with(&[99, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert!(hear(&bytes).1.is_err(), "{bytes:?}");
        }
    }
}
