//! One conversation with whoever speaks the pack protocol, within limits of ours.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    dialogue::{self, Answer, Fetch, Greeting, Nonsense, Piece, Progress},
    object_id::{ObjectFormat, ObjectId},
    pkt::{self, MAX_PACKET_BYTES, Malformed, Packet},
    refs::{Advertised, RefError},
};
use crate::client::git::GitStream;

/// How much is taken from a server, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a pack.
    pub pack_bytes: u64,
    /// Objects in a pack.
    pub objects: u32,
    /// Until all is done.
    pub time: Duration,
    /// For a next sign of life.
    pub silence: Duration,
    /// Memory of each process that reads what came, bytes.
    pub memory_bytes: u64,
}

/// Bytes of a server beside the pack, while it says what it has. A ref is a line.
const MAX_TALK_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// Bytes in front of a pack's objects: `PACK`, a version, their number (gitformat-pack(5)).
const PACK_HEAD_BYTES: usize = 12;

/// Bytes of a pack, unless the person says otherwise.
const MAX_PACK_BYTES: u64 = 16 << 30;

/// Objects in one.
const MAX_OBJECTS: u32 = 10_000_000;

/// For a whole pull, unless the person says otherwise.
const PULL_WITHIN: Duration = Duration::from_hours(1);

/// For a sign of life; git counts and compresses for long, and says in between that it lives.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_mins(2);

/// Memory of a git that reads what came. A few bytes can unfold to an object of any size.
const MAX_MEMORY_BYTES: u64 = 2 << 30;

impl Default for Limits {
    fn default() -> Self {
        Self {
            pack_bytes: MAX_PACK_BYTES,
            objects: MAX_OBJECTS,
            time: PULL_WITHIN,
            silence: SIGN_OF_LIFE_WITHIN,
            memory_bytes: MAX_MEMORY_BYTES,
        }
    }
}

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not a packet.
    #[error(transparent)]
    Packet(#[from] Malformed),
    /// Not what can be said there.
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
    /// Refs that cannot be.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// The server has gone.
    #[error("it ended in the middle")]
    Ended,
    /// No sign of life.
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    /// The total is used up.
    #[error("it took longer than {} s", .0.as_secs())]
    TooLong(Duration),
    /// A limit of ours.
    #[error("it is larger than allowed: more than {0}")]
    TooLarge(String),
    /// Not a pack.
    #[error("it sent no pack")]
    NoPack,
    /// The kernel.
    #[error("speaking with it")]
    Io(#[source] io::Error),
    /// What came could not be passed on.
    #[error(transparent)]
    Sink(Box<dyn std::error::Error + Send + Sync>),
}

/// A conversation.
pub(crate) struct Session {
    stream: GitStream,
    buffer: Vec<u8>,
    /// `buffer[start..end]` was read and not used yet.
    start: usize,
    end: usize,
    talked: u64,
    limits: Limits,
    until: Instant,
    format: ObjectFormat,
}

/// What takes a pack, piece by piece.
pub(crate) trait PackSink {
    /// The number of objects, before anything else.
    fn begin(&mut self, objects: u32) -> Result<(), SessionError>;
    /// The next bytes, the pack's head among them.
    fn take(&mut self, bytes: &[u8]) -> Result<(), SessionError>;
}

impl Session {
    /// Hears what the server says of itself.
    pub(crate) fn open(stream: GitStream, limits: Limits, until: Instant) -> Result<Self, SessionError> {
        let mut session = Self {
            stream,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            talked: 0,
            limits,
            until,
            format: ObjectFormat::Sha1,
        };
        let mut greeting = Greeting::default();
        while session.with_packet(|packet| Ok(greeting.take(packet)?))? == Progress::More {}
        session.format = greeting.accept()?;
        Ok(session)
    }

    /// What the server names its objects with.
    pub(crate) fn format(&self) -> ObjectFormat {
        self.format
    }

    /// The server's refs.
    pub(crate) fn list_refs(&mut self) -> Result<Advertised, SessionError> {
        self.say(&dialogue::list_refs(self.format))?;
        let mut refs = Advertised::default();
        let format = self.format;
        let mut take = |packet: Packet<'_>| match packet {
            Packet::Data(data) => {
                let line = pkt::text(data);
                if line.starts_with(b"ERR ") {
                    let said = String::from_utf8_lossy(&line[4..line.len().min(500)]).into_owned();
                    return Err(Nonsense::Said(said).into());
                }
                refs.add(line, format)?;
                Ok(Progress::More)
            }
            Packet::Flush => Ok(Progress::Done),
            _ => Err(Nonsense::OutOfPlace("the end of a section").into()),
        };
        while self.with_packet(&mut take)? == Progress::More {}
        refs.check()?;
        Ok(refs)
    }

    /// Asks for objects; [`receive`](Self::receive) takes the answer.
    pub(crate) fn ask(&mut self, fetch: &Fetch<'_>) -> Result<(), SessionError> {
        self.say(&fetch.request(self.format))
    }

    /// The answer: `None` where a pack came, otherwise what of our own the server has.
    pub(crate) fn receive(
        &mut self,
        fetch: &Fetch<'_>,
        sink: &mut dyn PackSink,
    ) -> Result<Option<Vec<ObjectId>>, SessionError> {
        let mut answer = Answer::to(fetch, self.format);
        let mut common = Vec::new();
        let mut pack = Pack { sink, limits: self.limits, head: Vec::new(), bytes: 0 };
        let mut pack_bytes = 0;
        loop {
            let end = self.with_packet(|packet| match answer.take(packet)? {
                Piece::Nothing => Ok(None),
                Piece::Ack(id) => {
                    common.push(id);
                    Ok(None)
                }
                Piece::Pack(bytes) => {
                    pack_bytes += bytes.len() as u64;
                    pack.take(bytes).map(|()| None)
                }
                Piece::End { has_pack } => Ok(Some(has_pack)),
            })?;
            // The pack has a limit of its own.
            self.talked = self.talked.saturating_sub(std::mem::take(&mut pack_bytes));
            match end {
                None => {}
                Some(true) => return pack.end().map(|()| None),
                Some(false) => return Ok(Some(common)),
            }
        }
    }

    /// Ends it: the server has no reason to wait for more.
    pub(crate) fn close(mut self) {
        // One that does not listen any more has ended as well.
        let _ = self.say(dialogue::farewell());
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let deadline = self.deadline();
        self.stream.write_all(bytes, deadline).map_err(|error| self.failure(error))
    }

    /// Reads the next packet whole and does something with it.
    fn with_packet<T>(
        &mut self,
        work: impl FnOnce(Packet<'_>) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        while pkt::decode(&self.buffer[self.start..self.end])?.is_none() {
            self.fill()?;
        }
        let Some((packet, used)) = pkt::decode(&self.buffer[self.start..self.end])? else {
            return Err(SessionError::Ended);
        };
        self.talked += used as u64;
        if self.talked > MAX_TALK_BYTES {
            return Err(Nonsense::TooMuch("everything").into());
        }
        self.start += used;
        work(packet)
    }

    fn fill(&mut self) -> Result<(), SessionError> {
        if self.buffer.len() - self.end < MAX_PACKET_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let deadline = self.deadline();
        let read = self.stream.read(&mut self.buffer[self.end..], deadline);
        match read.map_err(|error| self.failure(error))? {
            0 => Err(SessionError::Ended),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }

    fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + self.limits.silence)
    }

    fn failure(&self, error: io::Error) -> SessionError {
        match error.kind() {
            io::ErrorKind::TimedOut if Instant::now() >= self.until => {
                SessionError::TooLong(self.limits.time)
            }
            io::ErrorKind::TimedOut => SessionError::Silent(self.limits.silence),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => SessionError::Ended,
            _ => SessionError::Io(error),
        }
    }
}

/// A pack on its way: its head is read before anything of it is passed on, and its bytes are counted.
struct Pack<'a> {
    sink: &'a mut dyn PackSink,
    limits: Limits,
    head: Vec<u8>,
    bytes: u64,
}

impl Pack<'_> {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limits.pack_bytes {
            return Err(SessionError::TooLarge(format!("{} bytes", self.limits.pack_bytes)));
        }
        if self.head.len() < PACK_HEAD_BYTES {
            let missing = (PACK_HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.head.len() < PACK_HEAD_BYTES {
                return Ok(());
            }
            let objects = objects(&self.head).ok_or(SessionError::NoPack)?;
            if objects > self.limits.objects {
                return Err(SessionError::TooLarge(format!("{} objects", self.limits.objects)));
            }
            self.sink.begin(objects)?;
            self.sink.take(&self.head)?;
        }
        if bytes.is_empty() { Ok(()) } else { self.sink.take(bytes) }
    }

    fn end(&self) -> Result<(), SessionError> {
        if self.head.len() < PACK_HEAD_BYTES { Err(SessionError::NoPack) } else { Ok(()) }
    }
}

/// How many objects a pack says that it holds.
fn objects(head: &[u8]) -> Option<u32> {
    let rest = head.strip_prefix(b"PACK")?;
    let (version, rest) = rest.split_first_chunk()?;
    let (objects, _) = rest.split_first_chunk()?;
    matches!(u32::from_be_bytes(*version), 2 | 3).then(|| u32::from_be_bytes(*objects))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    #[derive(Default)]
    struct Kept(Option<u32>, Vec<u8>);

    impl PackSink for Kept {
        fn begin(&mut self, objects: u32) -> Result<(), SessionError> {
            self.0 = Some(objects);
            Ok(())
        }

        fn take(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
            self.1.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn limits() -> Limits {
        Limits { pack_bytes: 20, objects: 3, ..Limits::default() }
    }

    fn open(said: &[u8]) -> Result<Session, SessionError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        // Kept open for what we say; nobody reads it.
        std::mem::forget(theirs);
        Session::open(GitStream::over(ours.into()), limits(), Instant::now() + Duration::from_secs(20))
    }

    fn packets(lines: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                b"0000" | b"0001" => out.extend_from_slice(line),
                line => {
                    out.extend_from_slice(format!("{:04x}", line.len() + 4).as_bytes());
                    out.extend_from_slice(line);
                }
            }
        }
        out
    }

    const GREETING: [&[u8]; 4] = [b"version 2", b"ls-refs", b"fetch", b"0000"];

    fn fetched(pack: &[&[u8]]) -> Result<Kept, SessionError> {
        let said: Vec<&[u8]> = GREETING.iter().chain(&[&b"packfile"[..]]).chain(pack).copied().collect();
        let mut session = open(&packets(&said))?;
        let mut kept = Kept::default();
        let fetch = Fetch { wants: &[], haves: &[], shallow: &[], done: true };
        session.ask(&fetch)?;
        session.receive(&fetch, &mut kept).map(|_| kept)
    }

    #[test]
    fn a_pack_is_passed_on_whole_however_it_is_cut() {
        let kept = fetched(&[b"\x01PAC", b"\x01K\0\0\0\x02\0\0", b"\x01\0\x03abc", b"0000"]).unwrap();
        assert_eq!((kept.0, &kept.1[..]), (Some(3), &b"PACK\0\0\0\x02\0\0\0\x03abc"[..]));
    }

    #[test]
    fn what_is_too_large_is_not_passed_on() {
        let too_many = fetched(&[b"\x01PACK\0\0\0\x02\0\0\0\x04", b"0000"]);
        assert!(matches!(too_many, Err(SessionError::TooLarge(_))));
        let too_long = fetched(&[b"\x01PACK\0\0\0\x02\0\0\0\x01123456789", b"0000"]);
        assert!(matches!(too_long, Err(SessionError::TooLarge(_))));
    }

    #[test]
    fn what_is_no_pack_or_half_of_one_is_told() {
        assert!(matches!(fetched(&[b"\x01PACK\0\0\0\x09\0\0\0\x01"]), Err(SessionError::NoPack)));
        assert!(matches!(fetched(&[b"\x01PA", b"0000"]), Err(SessionError::NoPack)));
        assert!(matches!(fetched(&[b"\x01PACK\0\0\0\x02\0\0\0\x01"]), Err(SessionError::Ended)));
        assert!(matches!(open(b"00"), Err(SessionError::Ended)));
        assert!(matches!(open(b"zzzz"), Err(SessionError::Packet(_))));
    }
}
