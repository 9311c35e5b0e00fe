//! Connections to init that never block: for those who talk to many at once, or must not wait for one.
//!
//! `connect` answers whether a sandbox lives, because init alone holds the listener: refused is dead. Of a machine the
//! device answers in its place, which lives as long as the machine. One that takes the call and closes it has nobody to
//! hand it to: init is not there yet, or no more.

use std::{
    fs::{self, File},
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use agent_protocol::{
    Request, ServerMessage, codec,
    frame::{self, Kind},
    handshake::{Features, HELLO_BYTES, Hello, Verdict, WELCOME_BYTES, Welcome},
};
use nix::poll::PollFlags;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen, send, socket_with,
    },
};

use super::{
    address::{SOCKET_FILE, Way},
    run::Run,
};
use crate::client::{
    ConnectionError, Entrusted,
    dial::{Begun, MAX_HYBRID_LINE_BYTES, finish_vsock, is_ok},
};

/// Connections that wait for an init that is slow or stopped. Further ones see `EAGAIN`, and say that it is stuck.
const BACKLOG: i32 = 256;

/// What one read takes. A monitor at rest holds none of it.
const READ_BYTES: usize = 32 * 1024;

/// A connection with one request under way.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    stage: Stage,
    /// Where it goes through a device.
    entrusted: Option<Entrusted>,
    through_device: bool,
    /// Greeting and request, until they can be sent.
    unsent: Vec<u8>,
    buffer: Vec<u8>,
}

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The kernel connects.
    Connecting,
    /// The device connects.
    Asked,
    /// Init has our request.
    Sent,
    /// Init answers.
    Welcomed,
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
    /// Not what a device says.
    #[error("the machine's vsock device refused the connection")]
    Device,
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
        let way = Way::of(folder).map_err(gone)?;
        if way.target().is_not_yet() || way.target().is_device() && Run::has_closed_door(folder) {
            return Err(OpenError::Full);
        }
        let mut unsent = Vec::with_capacity(HELLO_BYTES + 64);
        unsent.extend_from_slice(&Hello::new(Features(0), *way.token()).encode());
        codec::encode_frame(Kind::Request, request, &mut unsent).map_err(io::Error::other)?;
        let (socket, stage, entrusted) = match way.target().begin()? {
            Begun::Connected(socket) => (socket, Stage::Sent, None),
            Begun::Asked(socket, entrusted) => (socket, Stage::Asked, entrusted),
            Begun::UnderWay(socket) => (socket, Stage::Connecting, None),
        };
        let through_device = way.target().is_device();
        let mut channel = Self { socket, stage, entrusted, through_device, unsent, buffer: Vec::new() };
        if stage == Stage::Sent {
            match channel.send() {
                Ok(true) => {}
                Ok(false) => return Err(OpenError::Full),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(OpenError::Dead),
                Err(error) => return Err(OpenError::Io(error.into())),
            }
        }
        Ok(channel)
    }

    /// What to wait for before the next [`pump`](Self::pump).
    pub(crate) fn wants(&self) -> PollFlags {
        if self.stage == Stage::Connecting { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Whether init is in a machine.
    pub(crate) fn is_to_machine(&self) -> bool {
        self.through_device
    }

    /// Whether its end says nothing of init: a machine's device took the call, and init has not answered.
    pub(crate) fn is_unheard(&self) -> bool {
        self.through_device && self.stage != Stage::Welcomed
    }

    /// Sends greeting and request; an empty socket buffer takes them whole.
    fn send(&mut self) -> Result<bool, Errno> {
        let sent = send(&self.socket, &self.unsent, SendFlags::NOSIGNAL)?;
        Ok(sent == mem::take(&mut self.unsent).len())
    }

    /// The same once there is a connection to send them over.
    fn connected(&mut self) -> Result<Flow, ChannelError> {
        self.stage = Stage::Sent;
        match self.send() {
            Ok(true) => Ok(Flow::More),
            Ok(false) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(Flow::Closed),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Reads once and hands on all that is complete.
    pub(crate) fn pump(&mut self, mut on: impl FnMut(Received<'_>)) -> Result<Flow, ChannelError> {
        if self.stage == Stage::Connecting {
            return match (finish_vsock(&self.socket), rustix::net::getpeername(&self.socket)) {
                (Ok(()), Ok(_)) => self.connected(),
                (Ok(()), Err(_)) => Ok(Flow::Blocked),
                (Err(_), _) => Ok(Flow::Closed),
            };
        }
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
        if self.stage == Stage::Asked && !self.hear_device()? {
            return Ok(flow);
        }
        let used = self.hand_on(&mut on)?;
        if used == self.buffer.len() {
            // Gives the memory back: most of its life a channel has nothing to hold.
            drop(mem::take(&mut self.buffer));
        } else {
            self.buffer.drain(..used);
        }
        Ok(flow)
    }

    /// Takes the device's answer off what was read, and sends what waits for it. Returns whether it is there.
    fn hear_device(&mut self) -> Result<bool, ChannelError> {
        let line = self.buffer.iter().take(MAX_HYBRID_LINE_BYTES).position(|byte| *byte == b'\n');
        match line {
            Some(end) if is_ok(&self.buffer[..end]) => {
                self.buffer.drain(..=end);
                self.entrusted.iter_mut().for_each(Entrusted::heard);
                // What became of it shows in what is read next.
                self.connected().map(|_| true)
            }
            None if self.buffer.len() < MAX_HYBRID_LINE_BYTES => Ok(false),
            _ => Err(ChannelError::Device),
        }
    }

    fn hand_on(&mut self, on: &mut impl FnMut(Received<'_>)) -> Result<usize, ChannelError> {
        let mut rest = &self.buffer[..];
        if self.stage != Stage::Welcomed {
            let Some((head, behind)) = rest.split_first_chunk::<WELCOME_BYTES>() else { return Ok(0) };
            let welcome = Welcome::decode(head)?;
            if welcome.verdict != Verdict::Welcome {
                return Err(ChannelError::Refused(welcome.verdict));
            }
            self.stage = Stage::Welcomed;
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

/// Whether init lives, as the kernel has it; of a machine, whether the machine does.
pub(crate) fn is_alive(folder: &Path) -> bool {
    match Way::of(folder) {
        Ok(way) => way.target().is_there(),
        Err(error) => !matches!(gone(error), OpenError::Dead),
    }
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

/// Without a folder there is nobody.
fn gone(error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OpenError::Dead,
        _ => OpenError::Io(error),
    }
}

impl From<ConnectionError> for OpenError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::NotRunning => Self::Dead,
            ConnectionError::Stuck(_) => Self::Full,
            ConnectionError::Io(_, source) => Self::Io(source),
            other => Self::Io(io::Error::other(other)),
        }
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
    use crate::sandbox::{address, testing::TempDir};
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

    /// A device that serves the sandbox in `folder`, and does with each call what `act` says.
    fn device(
        folder: &Path,
        calls: usize,
        act: impl Fn(usize, std::os::unix::net::UnixStream) + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        let listener = std::os::unix::net::UnixListener::bind(folder.join("vsock.sock")).unwrap();
        let token = agent_protocol::handshake::Token([7; 32]);
        address::write(folder, &"hybrid:vsock.sock:1024".parse().unwrap(), &token).unwrap();
        std::thread::spawn(move || (0..calls).for_each(|call| act(call, listener.accept().unwrap().0)))
    }

    /// Reads the line of a call, and not more: it must not have come yet.
    fn line_alone(call: &mut std::os::unix::net::UnixStream) {
        let mut line = [0; 64];
        let count = io::Read::read(call, &mut line).unwrap();
        assert_eq!(&line[..count], b"CONNECT 1024\n");
    }

    fn pump_to_the_end(channel: &mut Channel) -> (Vec<String>, Result<Flow, ChannelError>) {
        let mut heard = Vec::new();
        loop {
            let mut fds = [nix::poll::PollFd::new(channel.as_fd(), channel.wants())];
            nix::poll::poll(&mut fds, 60_000_u16).unwrap();
            match channel.pump(|received| heard.push(format!("{received:?}"))) {
                Ok(Flow::More | Flow::Blocked) => {}
                end => return (heard, end),
            }
        }
    }

    #[test]
    fn a_device_is_asked_first_and_then_init() {
        let folder = TempDir::new();
        let served = device(folder.path(), 1, |_, mut call| {
            line_alone(&mut call);
            // In pieces, and the last one with more behind it: what init says is not the device's.
            for piece in [&b"OK "[..], b"107", b"3741824\n"] {
                io::Write::write_all(&mut call, piece).unwrap();
            }
            let mut hello = [0; HELLO_BYTES];
            io::Read::read_exact(&mut call, &mut hello).unwrap();
            let hello = Hello::decode(&hello).unwrap();
            assert_eq!(hello.token.0, [7; 32]);
            assert_eq!(hello.features, Features(0));
            let mut bytes = welcome();
            codec::encode_frame(Kind::Message, &ServerMessage::Pong, &mut bytes).unwrap();
            io::Write::write_all(&mut call, &bytes).unwrap();
        });
        let mut channel = Channel::open(folder.path(), &Request::Ping).unwrap();
        assert!(channel.is_unheard());
        let (heard, end) = pump_to_the_end(&mut channel);
        assert_eq!(heard, ["Welcome", "Message(Pong)"]);
        assert!(matches!(end, Ok(Flow::Closed)));
        assert!(!channel.is_unheard());
        served.join().unwrap();
        assert!(!is_alive(folder.path()), "the device is gone, and the machine with it");
        assert!(matches!(Channel::open(folder.path(), &Request::Ping), Err(OpenError::Dead)));
    }

    #[test]
    fn a_device_that_closes_has_nobody_to_connect_us_to() {
        let folder = TempDir::new();
        let served = device(folder.path(), 3, |number, mut call| {
            line_alone(&mut call);
            let answer = [&b""[..], b"NO\n", &[b'O'; 4096]][number];
            io::Write::write_all(&mut call, answer).unwrap();
        });
        let open = || Channel::open(folder.path(), &Request::Ping).unwrap();
        let mut closed = open();
        assert!(matches!(pump_to_the_end(&mut closed), (heard, Ok(Flow::Closed)) if heard.is_empty()));
        assert!(closed.is_unheard());
        assert!(matches!(pump_to_the_end(&mut open()).1, Err(ChannelError::Device)));
        assert!(matches!(pump_to_the_end(&mut open()).1, Err(ChannelError::Device)));
        served.join().unwrap();
    }

    #[test]
    fn whether_a_machine_lives_is_found_out_without_a_call() {
        let folder = TempDir::new();
        let deep = folder.path().join("x".repeat(200));
        fs::create_dir(&deep).unwrap();
        let token = agent_protocol::handshake::Token::default();
        address::write(&deep, &"hybrid:vsock.sock:1024".parse().unwrap(), &token).unwrap();
        assert!(!is_alive(&deep));
        let open = File::open(&deep).unwrap();
        let bound = format!("/proc/self/fd/{}/vsock.sock", open.as_raw_fd());
        let listener = std::os::unix::net::UnixListener::bind(bound).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(is_alive(&deep));
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        // A process that another test starts just now holds a copy until it executes its program.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_alive(&deep) {
            assert!(std::time::Instant::now() < end, "it stays");
        }
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
