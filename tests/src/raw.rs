//! A client of init's that says whatever a test wants it to say.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    address::Address,
    buffer::FrameBuffer,
    codec,
    frame::{self, Kind},
    handshake::{Features, Hello, Token, Verdict, WELCOME_BYTES, Welcome},
};
use anyhow::{Context, bail, ensure};

use crate::deadline;

/// One connection. Every wait on it ends at the deadline.
pub struct Raw {
    /// The socket, for bytes that are no frames.
    pub stream: UnixStream,
    buffer: FrameBuffer,
}

/// What init said.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(ServerMessage),
    /// Bytes of a stream.
    Data {
        /// Which stream.
        kind: Kind,
        /// Where in it they belong.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The end of the connection.
    End,
}

impl Raw {
    /// Connects, and says nothing yet.
    pub fn dial(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("dialling {}", socket.display()))?;
        Self::over(stream)
    }

    /// Takes a connection that leads to init, and says nothing yet.
    pub fn over(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(deadline()))?;
        stream.set_write_timeout(Some(deadline()))?;
        Ok(Self { stream, buffer: FrameBuffer::new() })
    }

    /// Connects to the init of a sandbox, by what its folder says, and asks for something.
    pub fn of(folder: &Path, request: &Request) -> anyhow::Result<Self> {
        let Ok(address) = fs::read_to_string(folder.join("address")) else {
            return Self::ask(&folder.join("control.sock"), request);
        };
        let Address::Hybrid { path, port } = address.trim_end().parse()? else {
            bail!("no way to {address}")
        };
        let mut raw = Self::dial(&folder.join(path))?;
        raw.stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            raw.stream.read_exact(&mut byte).context("waiting for the device")?;
            answer.extend(byte);
        }
        ensure!(answer.starts_with(b"OK "), "the device said {}", String::from_utf8_lossy(&answer));
        let token = fs::read(folder.join("token"))?;
        let token = Token(token.try_into().ok().context("a token of another length")?);
        let verdict = raw.greet_with(token)?;
        ensure!(verdict == Verdict::Welcome, "init's verdict was {verdict:?}");
        raw.request(request)?;
        Ok(raw)
    }

    /// Says Hello; what init made of it.
    pub fn greet(&mut self) -> anyhow::Result<Verdict> {
        self.greet_with(Token::default())
    }

    /// Says Hello with this token; what init made of it.
    pub fn greet_with(&mut self, token: Token) -> anyhow::Result<Verdict> {
        self.stream.write_all(&Hello::new(Features(0), token).encode())?;
        let mut welcome = [0; WELCOME_BYTES];
        self.stream.read_exact(&mut welcome).context("waiting for Welcome")?;
        Ok(Welcome::decode(&welcome)?.verdict)
    }

    /// Connects, and is welcome.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let mut raw = Self::dial(socket)?;
        let verdict = raw.greet()?;
        ensure!(verdict == Verdict::Welcome, "init's verdict was {verdict:?}");
        Ok(raw)
    }

    /// Connects and asks for something.
    pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<Self> {
        let mut raw = Self::connect(socket)?;
        raw.request(request)?;
        Ok(raw)
    }

    /// Asks for something, where it is welcome.
    pub fn request(&mut self, request: &Request) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        codec::encode_frame(Kind::Request, request, &mut bytes)?;
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Sends a message.
    pub fn say(&mut self, message: &ClientMessage) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        codec::encode_frame(Kind::Message, message, &mut bytes)?;
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Sends bytes of a stream.
    pub fn send(&mut self, kind: Kind, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(&frame::data_prefix(kind, offset, bytes.len()))?;
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next thing that init says.
    pub fn hear(&mut self) -> anyhow::Result<Heard> {
        loop {
            if let Some(frame) = self.buffer.next_frame()? {
                if frame.kind == Kind::Message {
                    return Ok(Heard::Message(codec::decode(frame.payload)?));
                }
                let (offset, bytes) = frame.data()?;
                return Ok(Heard::Data { kind: frame.kind, offset, bytes: bytes.to_vec() });
            }
            let read = self.stream.read(self.buffer.unfilled());
            match read {
                Ok(0) => return Ok(Heard::End),
                // With bytes of ours unread, init's close arrives as a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(Heard::End),
                Ok(read) => self.buffer.advance(read),
                // A child of the test's has ended.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("waiting for init to say something"),
            }
        }
    }

    /// The next message; anything else is an error.
    pub fn message(&mut self) -> anyhow::Result<ServerMessage> {
        match self.hear()? {
            Heard::Message(message) => Ok(message),
            other => bail!("expected a message, not {other:?}"),
        }
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub fn until_end(&mut self) -> anyhow::Result<()> {
        while !matches!(self.hear()?, Heard::End) {}
        Ok(())
    }
}
