//! Frames over a socket: one half reads, one half writes, and what arrives is checked before it is believed.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    buffer::FrameBuffer,
    codec,
    failure::{Failure, FailureKind},
    frame::{self, Kind},
};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::socket::Socket;

/// The reading half.
pub(crate) struct Incoming {
    socket: Rc<Socket>,
    buffer: FrameBuffer,
}

/// The writing half.
#[derive(Clone)]
pub(crate) struct Outgoing {
    socket: Rc<Socket>,
    /// Frames of several streams share the socket; each goes out whole. True while one is under way: who finds
    /// it true comes after a write that was given up midway, and behind half a frame nothing makes sense.
    frame_is_open: Rc<Mutex<bool>>,
}

/// What a client sends within an operation.
pub(crate) enum Received {
    /// A control message.
    Message(ClientMessage),
    /// Bytes of a stream, and where in it they belong.
    Data { kind: Kind, offset: u64, bytes: Vec<u8> },
}

/// Why nothing more can be read from a connection.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The client is gone.
    Gone,
    /// The client speaks something else; it is told why.
    Nonsense(Failure),
}

/// The two halves of one connection.
pub(crate) fn split(socket: Socket) -> (Incoming, Outgoing) {
    let socket = Rc::new(socket);
    let incoming = Incoming { socket: Rc::clone(&socket), buffer: FrameBuffer::new() };
    (incoming, Outgoing { socket, frame_is_open: Rc::new(Mutex::new(false)) })
}

impl Incoming {
    /// The request that a connection begins with.
    pub(crate) async fn request(&mut self) -> Result<Request, Broken> {
        self.fill().await?;
        let frame = self.buffer.next_frame().map_err(Broken::nonsense)?.ok_or(Broken::Gone)?;
        match frame.kind {
            Kind::Request => parse(frame.payload),
            kind => Err(Broken::nonsense(format!("{kind:?} frame where a request belongs"))),
        }
    }

    /// The next thing a client says within its operation.
    pub(crate) async fn next(&mut self) -> Result<Received, Broken> {
        self.fill().await?;
        let frame = self.buffer.next_frame().map_err(Broken::nonsense)?.ok_or(Broken::Gone)?;
        match frame.kind {
            Kind::Message => Ok(Received::Message(parse(frame.payload)?)),
            kind @ (Kind::Stdin | Kind::Terminal) => {
                let (offset, bytes) = frame.data().map_err(Broken::nonsense)?;
                Ok(Received::Data { kind, offset, bytes: bytes.to_vec() })
            }
            kind => Err(Broken::nonsense(format!("{kind:?} frame from a client"))),
        }
    }

    /// Waits for a client that has nothing more to say to go.
    pub(crate) async fn until_gone(&mut self) -> Result<(), Failure> {
        match self.next().await {
            Err(Broken::Gone) => Ok(()),
            Err(Broken::Nonsense(failure)) => Err(failure),
            Ok(_) => {
                Err(Failure::new(FailureKind::BadRequest, "nothing more was expected on this connection"))
            }
        }
    }

    /// Waits until the client has closed its side, without reading: for a task that waits on something else.
    pub(crate) async fn closed(&self) {
        self.socket.closed().await;
    }

    /// The socket itself, for whoever speaks something else than frames from here on. It waits from now on, as
    /// programs expect of their standard streams; nothing may be read or written here any more.
    pub(crate) fn hand_over(&self) -> Result<OwnedFd, Failure> {
        if !self.buffer.rest().is_empty() {
            return Err(Failure::new(FailureKind::BadRequest, "the other side speaks first"));
        }
        let handed = self.socket.as_fd().try_clone_to_owned().and_then(|fd| {
            rustix::io::ioctl_fionbio(&fd, false)?;
            Ok(fd)
        });
        handed.map_err(|error| Failure::new(FailureKind::Limit, error.to_string()))
    }

    /// Goes on with frames, after whoever spoke something else has ended.
    pub(crate) fn take_back(&self) {
        // Where this fails a write waits for a client that reads, as nothing else here would.
        let _ = rustix::io::ioctl_fionbio(self.socket.as_fd(), true);
    }

    /// Says something as it is, if there is room for it: a client that reads nothing misses it.
    pub(crate) fn last_word(&self, bytes: &[u8]) {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        // It may have gone, or be in the middle of something that ends here anyway.
        let _ = rustix::net::send(self.socket.as_fd(), bytes, flags);
    }

    /// Ends the connection in both directions, whoever else inside has it open.
    pub(crate) fn shut_down(&self) {
        // A client that has gone by itself is no failure.
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
    }

    /// Reads until a whole frame is there. Cancelling it loses nothing: what was read stays in the buffer.
    async fn fill(&mut self) -> Result<(), Broken> {
        while frame::decode(self.buffer.rest()).map_err(Broken::nonsense)?.is_none() {
            match self.socket.read(self.buffer.unfilled()).await {
                Ok(0) | Err(_) => return Err(Broken::Gone),
                Ok(read) => self.buffer.advance(read),
            }
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Broken> {
    codec::decode(payload).map_err(Broken::nonsense)
}

impl Broken {
    #[allow(clippy::needless_pass_by_value, reason = "called as a function value by `map_err`")]
    fn nonsense(why: impl ToString) -> Self {
        Self::Nonsense(Failure::new(FailureKind::BadRequest, why.to_string()))
    }
}

impl Outgoing {
    /// Leaves no room for anything more, as a client does that reads nothing.
    #[cfg(test)]
    pub(crate) fn fill(&self) {
        self.socket.fill();
    }

    /// Sends one message.
    pub(crate) async fn message(&self, message: &ServerMessage) -> io::Result<()> {
        self.message_with_fds(message, &[]).await
    }

    /// Sends one message and descriptors with it.
    pub(crate) async fn message_with_fds(
        &self,
        message: &ServerMessage,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::encode_frame(Kind::Message, message, &mut bytes).map_err(io::Error::other)?;
        self.whole(self.socket.write_with_fds(&bytes, fds)).await
    }

    /// Sends bytes of a stream, at most [`frame::MAX_DATA`] of them.
    pub(crate) async fn data(&self, kind: Kind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let prefix = frame::data_prefix(kind, offset, bytes.len());
        self.whole(self.socket.write_all(&mut [IoSlice::new(&prefix), IoSlice::new(bytes)])).await
    }

    async fn whole(&self, write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let mut is_open = self.frame_is_open.lock().await;
        if *is_open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        *is_open = true;
        write.await?;
        *is_open = false;
        Ok(())
    }
}
