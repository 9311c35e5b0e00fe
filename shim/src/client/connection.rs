//! One connection to init: handshake, frames out, frames and descriptors in.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    buffer::FrameBuffer,
    codec,
    frame::{self, Kind, MAX_DATA},
    handshake::{Features, Generation, Hello, Token, Verdict, WELCOME_BYTES, Welcome},
};
use rustix::{
    event::PollFlags,
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags},
};

use super::{
    Target,
    entrusted::Stream,
    error::{ConnectionError, HANDSHAKE, io_error},
    wait::wait_for,
};

/// Most descriptors that travel with one message: a command's stdin, stdout and stderr.
pub const MAX_DESCRIPTORS: usize = 3;

/// How long a peer may leave a control message of ours unread before it counts as stuck.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that may wait to be sent. The caller asks [`Connection::may_queue`] before it reads more input, so
/// that this holds one data frame and the control messages of a person: resizes and signals.
const MAX_QUEUED_BYTES: usize = 2 * frame::MAX_PAYLOAD;

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Connection {
    socket: Stream,
    features: Features,
    pub(super) input: FrameBuffer,
    /// Arrived and not taken yet.
    descriptors: Vec<OwnedFd>,
    /// How many may still arrive.
    expected: usize,
    /// `output[sent..]` waits to be sent.
    output: Vec<u8>,
    sent: usize,
    write_patience: Duration,
}

/// What init sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A control message.
    Message(ServerMessage),
    /// A piece of a stream.
    Data {
        /// Which stream.
        kind: Kind,
        /// Place of the first byte within the stream.
        offset: u64,
        /// The bytes; never empty streams' end, which a message tells.
        bytes: &'a [u8],
    },
}

/// What one look at the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Bytes, perhaps a whole frame.
    Some,
    /// Nothing yet.
    Nothing,
    /// The end of the connection.
    End,
}

impl Connection {
    /// Calls init and shakes hands, all of it before `deadline`.
    pub fn open(target: Target<'_>, token: &Token, deadline: Instant) -> Result<Self, ConnectionError> {
        Self::over(target.dial(deadline)?, target.features(), token, deadline)
    }

    /// Shakes hands over a stream that is connected and non-blocking already.
    pub fn shake_hands(
        socket: OwnedFd,
        offered: Features,
        token: &Token,
        deadline: Instant,
    ) -> Result<Self, ConnectionError> {
        Self::over(socket.into(), offered, token, deadline)
    }

    fn over(
        socket: Stream,
        offered: Features,
        token: &Token,
        deadline: Instant,
    ) -> Result<Self, ConnectionError> {
        let mut connection = Self {
            socket,
            features: Features::default(),
            input: FrameBuffer::new(),
            descriptors: Vec::new(),
            expected: 0,
            output: Hello::new(offered, *token).encode().to_vec(),
            sent: 0,
            write_patience: WRITE_PATIENCE,
        };
        connection.flush()?;
        let welcome = connection.read_welcome(deadline)?;
        match welcome.verdict {
            Verdict::Welcome => {}
            Verdict::Denied => return Err(ConnectionError::Denied),
            Verdict::Busy => return Err(ConnectionError::Busy),
            Verdict::NoCommonGeneration => {
                return Err(ConnectionError::NoCommonGeneration(welcome.generation));
            }
        }
        let ours = Generation::OLDEST as u32..=Generation::NEWEST as u32;
        if !ours.contains(&welcome.generation) {
            return Err(ConnectionError::NoCommonGeneration(welcome.generation));
        }
        connection.features = welcome.features.overlap(offered);
        Ok(connection)
    }

    /// What both sides can do on this connection.
    pub fn features(&self) -> Features {
        self.features
    }

    /// How long a peer may leave a message of ours unread, instead of [`WRITE_PATIENCE`].
    pub fn set_write_patience(&mut self, patience: Duration) {
        self.write_patience = patience;
    }

    /// Sends the connection's one request, waiting at most [`WRITE_PATIENCE`] for room.
    pub fn request(&mut self, request: &Request) -> Result<(), ConnectionError> {
        codec::encode_frame(Kind::Request, request, &mut self.output)?;
        self.flush_all()
    }

    /// Sends a message, waiting at most [`WRITE_PATIENCE`] for room.
    pub fn send(&mut self, message: &ClientMessage) -> Result<(), ConnectionError> {
        self.queue(message)?;
        self.flush_all()
    }

    /// Sends a piece of a stream, in as many frames as it takes, waiting at most [`WRITE_PATIENCE`] for each.
    pub fn send_data(&mut self, kind: Kind, mut offset: u64, bytes: &[u8]) -> Result<(), ConnectionError> {
        for piece in bytes.chunks(MAX_DATA) {
            frame::encode_data(kind, offset, piece, &mut self.output);
            self.flush_all()?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Waits for the next message or piece of data. `None` waits as long as the connection lives.
    ///
    /// `during` ends the sentence of the error, as in "the sandbox's init closed the connection while ...".
    pub fn recv(
        &mut self,
        during: &'static str,
        deadline: Option<Instant>,
    ) -> Result<Incoming<'_>, ConnectionError> {
        while !self.has_frame()? {
            match self.fill()? {
                Filled::Some => {}
                Filled::End => return Err(ConnectionError::Closed(during)),
                Filled::Nothing => {
                    if !wait_for(self.socket.as_fd(), PollFlags::IN, deadline).map_err(io_error(during))? {
                        return Err(ConnectionError::Deadline(during));
                    }
                }
            }
        }
        // There is a whole frame, so that there is a next one.
        self.next()?.ok_or(ConnectionError::Closed(during))
    }

    /// Waits for a message; data has no place here, and a refusal is an error.
    pub fn recv_message(
        &mut self,
        during: &'static str,
        deadline: Option<Instant>,
    ) -> Result<ServerMessage, ConnectionError> {
        match self.recv(during, deadline)? {
            Incoming::Message(ServerMessage::Failed(failure)) => Err(ConnectionError::Refused(failure)),
            Incoming::Message(message) => Ok(message),
            Incoming::Data { .. } => Err(ConnectionError::Unexpected { what: "data", during }),
        }
    }

    /// Allows this many descriptors, [`MAX_DESCRIPTORS`] at most, to arrive from now on. Without it every
    /// descriptor is closed and ends the operation.
    pub fn expect_descriptors(&mut self, count: usize) {
        self.expected = count.min(MAX_DESCRIPTORS);
    }

    /// The descriptors that came so far.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// The stream itself, where no frame was read since the request.
    pub(crate) fn into_stream(self) -> Stream {
        self.socket
    }

    /// Appends a message to what waits to be sent.
    pub(crate) fn queue(&mut self, message: &ClientMessage) -> Result<(), ConnectionError> {
        if self.output.len() - self.sent > MAX_QUEUED_BYTES {
            return Err(ConnectionError::Stuck("it reads nothing"));
        }
        Ok(codec::encode_frame(Kind::Message, message, &mut self.output)?)
    }

    /// Appends one data frame to what waits to be sent; at most [`MAX_DATA`] bytes.
    pub(crate) fn queue_data(&mut self, kind: Kind, offset: u64, bytes: &[u8]) {
        frame::encode_data(kind, offset, bytes, &mut self.output);
    }

    /// Whether everything was sent, so that the next piece of input may be read.
    pub(crate) fn may_queue(&self) -> bool {
        self.output.is_empty()
    }

    /// Sends what the peer takes now. The loop polls for room while [`may_queue`](Self::may_queue) is false.
    ///
    /// A peer that is gone is not told here: what it said last still waits to be read, and then its end.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionError> {
        while self.sent < self.output.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, &self.output[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(error) => return Err(ConnectionError::Io("writing to the sandbox's init", error.into())),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), ConnectionError> {
        self.flush()?;
        if self.may_queue() {
            return Ok(());
        }
        let deadline = Some(Instant::now() + self.write_patience);
        while !self.may_queue() {
            let ready = wait_for(self.socket.as_fd(), PollFlags::OUT, deadline);
            if !ready.map_err(io_error("writing to the sandbox's init"))? {
                return Err(ConnectionError::Stuck("it reads nothing"));
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Reads what is there, without waiting. Reads nothing while a whole frame waits to be taken, so that
    /// the buffer never holds more than a frame and what came along with its end.
    pub(crate) fn fill(&mut self) -> Result<Filled, ConnectionError> {
        if self.has_frame()? {
            return Ok(Filled::Some);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(self.input.unfilled())];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match rustix::net::recvmsg(&self.socket, &mut into, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Filled::Nothing),
            Err(Errno::CONNRESET) => return Ok(Filled::End),
            Err(error) => return Err(ConnectionError::Io("reading from the sandbox's init", error.into())),
        };
        // Whatever is not taken out here is closed with `control`.
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    if self.expected == 0 {
                        return Err(ConnectionError::Descriptors("more than were asked for"));
                    }
                    self.expected -= 1;
                    self.descriptors.push(descriptor);
                }
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ConnectionError::Descriptors("more than were asked for"));
        }
        if received.bytes == 0 {
            return Ok(Filled::End);
        }
        self.input.advance(received.bytes);
        Ok(Filled::Some)
    }

    /// Takes the next frame that is whole; `None` means that more must be read first.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming<'_>>, ConnectionError> {
        let Some(frame) = self.input.next_frame()? else { return Ok(None) };
        match frame.kind {
            Kind::Request => Err(ConnectionError::Unexpected { what: "request", during: "it answers ours" }),
            Kind::Message => Ok(Some(Incoming::Message(codec::decode(frame.payload)?))),
            kind => {
                let (offset, bytes) = frame.data()?;
                Ok(Some(Incoming::Data { kind, offset, bytes }))
            }
        }
    }

    fn has_frame(&self) -> Result<bool, ConnectionError> {
        Ok(frame::decode(self.input.rest())?.is_some())
    }

    fn read_welcome(&mut self, deadline: Instant) -> Result<Welcome, ConnectionError> {
        const STEP: &str = HANDSHAKE;
        let mut welcome = [0; WELCOME_BYTES];
        let mut have = 0;
        while have < WELCOME_BYTES {
            match rustix::net::recv(&self.socket, &mut welcome[have..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(ConnectionError::Closed(STEP)),
                Ok((_, count)) => have += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let ready = wait_for(self.socket.as_fd(), PollFlags::IN, Some(deadline));
                    if !ready.map_err(io_error(STEP))? {
                        return Err(ConnectionError::Stuck(STEP));
                    }
                }
                Err(error) => return Err(ConnectionError::Io(STEP, error.into())),
            }
        }
        Ok(Welcome::decode(&welcome)?)
    }
}

impl AsFd for Connection {
    /// For `poll(2)`: reading and writing go through the methods.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
