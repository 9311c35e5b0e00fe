//! A scripted init: the other end of a connection, which says what a test tells it to, good or bad.

use std::{
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    buffer::FrameBuffer,
    codec,
    exit::{ExitRecord, How, KilledBy},
    frame::{self, Kind},
    handshake::{Features, HELLO_BYTES, Hello, Token, Welcome},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::Connection;

/// No script waits longer than this for the client; a test that fails must end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The inside end.
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    input: FrameBuffer,
}

/// A frame that the client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Message(ClientMessage),
    Data(Kind, u64, Vec<u8>),
    End,
}

/// A deadline that a working test never reaches.
pub(crate) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Plays `script` as init; the client's end of the stream is not shaken hands over yet.
pub(crate) fn play<T: Send + 'static>(
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (OwnedFd, JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours.into(), thread::spawn(move || script(&mut Peer::new(theirs))))
}

/// Plays `script` behind a good handshake.
pub(crate) fn connected<T: Send + 'static>(
    features: Features,
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (Connection, JoinHandle<T>) {
    let (socket, peer) = play(move |peer| {
        peer.welcome(features);
        script(peer)
    });
    let offered = Features::DESCRIPTORS.with(Features::INPUT_WINDOW);
    (Connection::shake_hands(socket, offered, &Token::default(), soon()).unwrap(), peer)
}

/// An exit with this code.
pub(crate) fn exited(code: i32) -> ExitRecord {
    ExitRecord {
        how: How::Code(code),
        core_dumped: false,
        killed_by: KilledBy::Itself,
        limit: None,
        output_truncated: false,
        ran_ms: 1,
        at_unix_ms: 2,
    }
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, input: FrameBuffer::new() }
    }

    pub(crate) fn hello(&mut self) -> Hello {
        let mut hello = [0; HELLO_BYTES];
        self.stream.read_exact(&mut hello).unwrap();
        Hello::decode(&hello).unwrap()
    }

    pub(crate) fn welcome(&mut self, features: Features) {
        let hello = self.hello();
        self.raw(&Welcome::answer(&hello, &Token::default(), features).encode());
    }

    /// Writes bytes as they are. A client that hangs up is no failure of the script.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let _gone = self.stream.write_all(bytes);
    }

    pub(crate) fn say(&mut self, message: &ServerMessage) {
        let mut out = Vec::new();
        codec::encode_frame(Kind::Message, message, &mut out).unwrap();
        self.raw(&out);
    }

    /// Says something and sends descriptors along.
    pub(crate) fn hand_over(&mut self, message: &ServerMessage, descriptors: &[BorrowedFd<'_>]) {
        let mut out = Vec::new();
        codec::encode_frame(Kind::Message, message, &mut out).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        rustix::net::sendmsg(&self.stream, &[IoSlice::new(&out)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn data(&mut self, kind: Kind, offset: u64, bytes: &[u8]) {
        let mut out = Vec::new();
        frame::encode_data(kind, offset, bytes, &mut out);
        self.raw(&out);
    }

    pub(crate) fn request(&mut self) -> Request {
        let frame = self.next_frame().expect("a request");
        assert_eq!(frame.0, Kind::Request);
        codec::decode(&frame.1).unwrap()
    }

    pub(crate) fn hear(&mut self) -> Said {
        match self.next_frame() {
            None => Said::End,
            Some((Kind::Message, payload)) => Said::Message(codec::decode(&payload).unwrap()),
            Some((kind, payload)) => {
                let (offset, bytes) = payload.split_first_chunk().unwrap();
                Said::Data(kind, u64::from_le_bytes(*offset), bytes.to_vec())
            }
        }
    }

    /// Reads until the client hangs up.
    pub(crate) fn wait_hang_up(&mut self) {
        while self.next_frame().is_some() {}
    }

    fn next_frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        loop {
            if let Some(frame) = self.input.next_frame().unwrap() {
                return Some((frame.kind, frame.payload.to_vec()));
            }
            match self.stream.read(self.input.unfilled()) {
                Ok(0) => return None,
                Ok(count) => self.input.advance(count),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the client said nothing: {error}"),
            }
        }
    }
}
