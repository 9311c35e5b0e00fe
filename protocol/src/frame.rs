//! One frame: `kind: u8 | reserved: 3 zero bytes | len: u32 LE | payload: len bytes`.
//!
//! Data frames (every kind but `Request` and `Message`) begin their payload with the stream offset of
//! their first byte: `offset: u64 LE | bytes`. The offset counts from the start of the stream, not of
//! the connection, so that resuming a stream later is no change on the wire.

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;

/// Largest payload either side accepts. A longer `len` is refused before memory is set aside.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Bytes of the offset at the front of a data frame's payload.
pub const OFFSET_BYTES: usize = 8;

/// Most data bytes that fit into one data frame.
pub const MAX_DATA: usize = MAX_PAYLOAD - OFFSET_BYTES;

/// What a payload is. Numbers are permanent: add at the end, never reuse one.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A [`Request`](crate::Request): the first frame of a connection, from the shim.
    Request = 0,
    /// A [`ClientMessage`](crate::ClientMessage) towards init, a [`ServerMessage`](crate::ServerMessage) towards the shim.
    Message = 1,
    /// Bytes for a command's standard input.
    Stdin = 2,
    /// Bytes a command wrote to its standard output.
    Stdout = 3,
    /// Bytes a command wrote to its standard error.
    Stderr = 4,
    /// Bytes typed (towards init) or shown (towards the shim) on a terminal.
    Terminal = 5,
    /// A piece of the snapshot that `ServerMessage::Screen` announced; its offset counts within the snapshot.
    Screen = 6,
    /// Bytes of a unit's log.
    Log = 7,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Request,
        Self::Message,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Terminal,
        Self::Screen,
        Self::Log,
    ];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether the payload begins with a stream offset.
    pub fn is_data(self) -> bool {
        !matches!(self, Self::Request | Self::Message)
    }
}

/// A decoded header: what follows, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Bytes of payload that follow, at most [`MAX_PAYLOAD`].
    pub len: usize,
}

/// Why bytes are not a frame. The connection they came from is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind has no meaning in this generation.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The reserved bytes are kept for later generations and must be zero in this one.
    #[error("reserved header bytes are not zero")]
    Reserved,
    /// The payload would be longer than [`MAX_PAYLOAD`].
    #[error("frame of {0} bytes; the limit is {MAX_PAYLOAD}")]
    TooLong(usize),
    /// A data frame too short to hold its offset.
    #[error("data frame without a stream offset")]
    NoOffset,
}

/// One whole frame, borrowed from the buffer that was read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The payload; for data frames offset and bytes, see [`Frame::data`].
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a data frame apart: the offset of its first byte within the stream, and its bytes.
    pub fn data(&self) -> Result<(u64, &'a [u8]), FrameError> {
        let (offset, bytes) = self.payload.split_first_chunk::<OFFSET_BYTES>().ok_or(FrameError::NoOffset)?;
        Ok((u64::from_le_bytes(*offset), bytes))
    }
}

impl Header {
    /// The header's bytes.
    ///
    /// # Panics
    /// Where `len` exceeds [`MAX_PAYLOAD`]: the caller splits data and the codec refuses large messages.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        assert!(self.len <= MAX_PAYLOAD, "a frame of {} bytes must be split by its caller", self.len);
        let len = u32::try_from(self.len).unwrap_or(u32::MAX).to_le_bytes();
        [self.kind as u8, 0, 0, 0, len[0], len[1], len[2], len[3]]
    }

    /// Reads a header; refuses what no frame of this generation begins with.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [number, r1, r2, r3, l0, l1, l2, l3] = bytes;
        let kind = Kind::from_number(number).ok_or(FrameError::UnknownKind(number))?;
        if [r1, r2, r3] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if len > MAX_PAYLOAD {
            return Err(FrameError::TooLong(len));
        }
        if kind.is_data() && len < OFFSET_BYTES {
            return Err(FrameError::NoOffset);
        }
        Ok(Self { kind, len })
    }

    /// Bytes of header and payload together.
    pub fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.len
    }
}

/// The whole frame at the front of `buf`; `None` means "read more".
///
/// The caller drops [`Header::frame_bytes`] bytes from its buffer once it is done with the frame.
pub fn decode(buf: &[u8]) -> Result<Option<(Header, Frame<'_>)>, FrameError> {
    let Some((head, rest)) = buf.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::decode(*head)?;
    Ok(rest.get(..header.len).map(|payload| (header, Frame { kind: header.kind, payload })))
}

/// Appends a frame of a request or message to `out`.
pub fn encode(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&Header { kind, len: payload.len() }.encode());
    out.extend_from_slice(payload);
}

/// The header and offset that stand before `len` data bytes, for callers that write the bytes from where they are.
pub fn data_prefix(kind: Kind, offset: u64, len: usize) -> [u8; HEADER_BYTES + OFFSET_BYTES] {
    let mut prefix = [0; HEADER_BYTES + OFFSET_BYTES];
    prefix[..HEADER_BYTES].copy_from_slice(&Header { kind, len: len + OFFSET_BYTES }.encode());
    prefix[HEADER_BYTES..].copy_from_slice(&offset.to_le_bytes());
    prefix
}

/// Appends a data frame to `out`. At most [`MAX_DATA`] bytes go into one.
pub fn encode_data(kind: Kind, offset: u64, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&data_prefix(kind, offset, bytes.len()));
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_frozen() {
        let mut out = Vec::new();
        encode(Kind::Message, &[7, 8], &mut out);
        assert_eq!(out, [1, 0, 0, 0, 2, 0, 0, 0, 7, 8]);
    }

    #[test]
    fn data_bytes_are_frozen() {
        let mut out = Vec::new();
        encode_data(Kind::Stdout, 258, b"hi", &mut out);
        assert_eq!(out, [3, 0, 0, 0, 10, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, b'h', b'i']);
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let mut out = Vec::new();
        encode_data(Kind::Terminal, 3, b"hello", &mut out);
        for len in 0..out.len() {
            assert_eq!(decode(&out[..len]), Ok(None), "prefix of {len} bytes");
        }
        let (header, frame) = decode(&out).unwrap().unwrap();
        assert_eq!(header.frame_bytes(), out.len());
        assert_eq!(frame.data(), Ok((3, &b"hello"[..])));
    }

    #[test]
    fn an_absurd_length_is_refused_before_its_bytes_arrive() {
        let head = [1, 0, 0, 0, 255, 255, 255, 255];
        assert_eq!(decode(&head), Err(FrameError::TooLong(u32::MAX as usize)));
        let one_too_many = u32::try_from(MAX_PAYLOAD + 1).unwrap().to_le_bytes();
        let head = [1, 0, 0, 0, one_too_many[0], one_too_many[1], one_too_many[2], one_too_many[3]];
        assert_eq!(decode(&head), Err(FrameError::TooLong(MAX_PAYLOAD + 1)));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        for number in 8..=255 {
            assert_eq!(decode(&[number, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::UnknownKind(number)));
        }
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for at in 1..4 {
            let mut head = [1, 0, 0, 0, 0, 0, 0, 0];
            head[at] = 1;
            assert_eq!(decode(&head), Err(FrameError::Reserved));
        }
    }

    #[test]
    fn a_data_frame_holds_its_offset() {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_data()) {
            assert_eq!(decode(&[kind as u8, 0, 0, 0, 7, 0, 0, 0]), Err(FrameError::NoOffset));
        }
    }

    #[test]
    fn kind_numbers_are_their_places() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }
}
