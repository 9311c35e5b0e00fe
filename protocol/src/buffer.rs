//! Bytes as they arrive become frames. The caller does the reading.
//!
//! ```text
//! loop {
//!     while let Some(frame) = buffer.next_frame()? { handle it }
//!     match read(fd, buffer.unfilled())? {
//!         0 => break,                       // buffer.is_empty() tells a clean end from a broken one
//!         n => buffer.advance(n),
//!     }
//! }
//! ```
//! Memory is that of the largest frame in flight, never more than one frame of [`MAX_PAYLOAD`]. A byte is
//! moved at most twice on its way, however the peer cuts its frames.

use crate::frame::{self, Frame, FrameError, HEADER_BYTES, Header, MAX_PAYLOAD};

/// What a buffer begins with: enough for nearly every control message, little enough for thousands of them.
pub const SMALL_BYTES: usize = 4 * 1024;

/// What a buffer can grow to: the largest frame.
pub const LARGEST_BYTES: usize = HEADER_BYTES + MAX_PAYLOAD;

/// Frames in a row that would have fitted into [`SMALL_BYTES`] before a large buffer is given back. More than
/// one, or a stream that mixes messages with data would allocate for every piece.
const SMALL_RUN: u8 = 32;

/// Collects bytes and gives out whole frames.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    /// `bytes[start..end]` arrived and was not given out; what is behind `end` is free.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Small frames since the last large one.
    small_run: u8,
}

impl FrameBuffer {
    /// An empty buffer; it sets memory aside when the first bytes are to be read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next bytes go: never empty, and room for the rest of the frame that has begun.
    ///
    /// # Panics
    /// Where the buffer is full of frames that nobody took: an empty slice would make the read look like
    /// the end of the stream. Call [`next_frame`](Self::next_frame) until it returns `None` first.
    pub fn unfilled(&mut self) -> &mut [u8] {
        if self.is_empty() && self.small_run >= SMALL_RUN && self.bytes.len() > SMALL_BYTES {
            self.release();
        }
        self.make_room(self.wanted());
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes were read into [`unfilled`](Self::unfilled).
    ///
    /// # Panics
    /// Where `count` is more than there was room for.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "{count} bytes were not read into this buffer");
        self.end += count;
    }

    /// Takes the next whole frame; `None` means "read more". After an error there is no next frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some((header, frame)) = frame::decode(&self.bytes[self.start..self.end])? else {
            return Ok(None);
        };
        self.start += header.frame_bytes();
        self.small_run =
            if header.frame_bytes() > SMALL_BYTES { 0 } else { self.small_run.saturating_add(1) };
        Ok(Some(frame))
    }

    /// Whether every byte that arrived was given out: at the end of a stream, whether it ended cleanly.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes behind the last frame taken, for connections that go on without frames.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Gives memory back where nothing waits in it. Worth calling before a wait that may be long.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::new();
        }
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes from `start` on there should be room for.
    fn wanted(&self) -> usize {
        let waiting = self.rest();
        let frame = match waiting.first_chunk().map(|head| Header::decode(*head)) {
            Some(Ok(header)) => header.frame_bytes(),
            // A header that is refused needs no more bytes, and one that is incomplete only its own.
            Some(Err(_)) | None => HEADER_BYTES,
        };
        frame.max(waiting.len() + 1)
    }

    /// Makes `wanted` bytes fit behind `start`, by moving what waits to the front, by growing, or both.
    fn make_room(&mut self, wanted: usize) {
        let waiting = self.end - self.start;
        if wanted > self.bytes.len() {
            assert!(wanted <= LARGEST_BYTES, "the frames in a full buffer must be taken before more is read");
            let capacity = wanted.next_power_of_two().clamp(SMALL_BYTES, LARGEST_BYTES);
            // A fresh zeroed vector, not a resized one: large ones are then mapped and not touched, so that a
            // peer that only claims a large frame takes address space and no memory.
            let mut grown = vec![0; capacity];
            grown[..waiting].copy_from_slice(self.rest());
            self.bytes = grown;
        } else if waiting == 0 {
            // Nothing to move.
        } else if self.start + wanted > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
        } else {
            return;
        }
        (self.start, self.end) = (0, waiting);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Kind, MAX_DATA, encode, encode_data};

    /// Reads `stream` in the pieces that `cut` asks for; returns kinds and payloads, and checks the bound.
    fn read_all(mut stream: &[u8], mut cut: impl FnMut() -> usize) -> Vec<(Kind, Vec<u8>)> {
        let (mut buffer, mut frames) = (FrameBuffer::new(), Vec::new());
        loop {
            while let Some(frame) = buffer.next_frame().unwrap() {
                frames.push((frame.kind, frame.payload.to_vec()));
            }
            assert!(buffer.capacity() <= LARGEST_BYTES);
            let space = buffer.unfilled();
            let count = cut().clamp(1, space.len()).min(stream.len());
            if count == 0 {
                assert!(buffer.is_empty());
                return frames;
            }
            space[..count].copy_from_slice(&stream[..count]);
            buffer.advance(count);
            stream = &stream[count..];
        }
    }

    fn fill(buffer: &mut FrameBuffer, bytes: &[u8]) {
        buffer.unfilled()[..bytes.len()].copy_from_slice(bytes);
        buffer.advance(bytes.len());
    }

    #[test]
    fn a_frame_that_comes_byte_by_byte_is_whole_at_its_last_byte() {
        let (mut buffer, mut stream) = (FrameBuffer::new(), Vec::new());
        encode_data(Kind::Stdout, 7, b"hello", &mut stream);
        for byte in &stream {
            assert_eq!(buffer.next_frame(), Ok(None));
            fill(&mut buffer, &[*byte]);
        }
        assert_eq!(buffer.next_frame().unwrap().unwrap().data(), Ok((7, &b"hello"[..])));
        assert_eq!(buffer.next_frame(), Ok(None));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_leaves_it_not_empty() {
        let mut buffer = FrameBuffer::new();
        assert!(buffer.is_empty());
        fill(&mut buffer, &[1, 0, 0]);
        assert_eq!(buffer.next_frame(), Ok(None));
        assert!(!buffer.is_empty());
    }

    #[test]
    fn the_largest_frame_fits_and_more_is_refused() {
        let mut stream = Vec::new();
        encode_data(Kind::Stdin, 0, &vec![3; MAX_DATA], &mut stream);
        let frames = read_all(&stream, || usize::MAX);
        assert_eq!(frames[0].1.len(), MAX_PAYLOAD);

        let mut buffer = FrameBuffer::new();
        fill(&mut buffer, &[1, 0, 0, 0, 1, 0, 4, 0]);
        for _ in 0..2 {
            assert_eq!(buffer.next_frame(), Err(FrameError::TooLong(MAX_PAYLOAD + 1)));
            assert!(!buffer.unfilled().is_empty());
            assert_eq!(buffer.capacity(), SMALL_BYTES);
        }
    }

    #[test]
    fn a_large_buffer_is_given_back_after_a_run_of_small_frames() {
        let (mut buffer, mut large, mut small) = (FrameBuffer::new(), Vec::new(), Vec::new());
        encode_data(Kind::Stdin, 0, &vec![0; 60_000], &mut large);
        encode(Kind::Message, &[0], &mut small);
        fill(&mut buffer, &large[..HEADER_BYTES]);
        fill(&mut buffer, &large[HEADER_BYTES..]);
        assert!(buffer.next_frame().unwrap().is_some());
        for _ in 0..SMALL_RUN {
            assert_eq!(buffer.capacity(), 64 * 1024);
            fill(&mut buffer, &small);
            assert!(buffer.next_frame().unwrap().is_some());
        }
        buffer.unfilled();
        assert_eq!(buffer.capacity(), SMALL_BYTES);
        buffer.release();
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn release_keeps_what_waits() {
        let mut buffer = FrameBuffer::new();
        fill(&mut buffer, &[1, 0, 0]);
        buffer.release();
        assert_eq!(buffer.rest(), [1, 0, 0]);
    }

    #[test]
    fn what_follows_a_frame_can_be_taken_raw() {
        let (mut buffer, mut stream) = (FrameBuffer::new(), Vec::new());
        encode(Kind::Request, &[0], &mut stream);
        stream.extend_from_slice(b"raw");
        fill(&mut buffer, &stream);
        assert!(buffer.next_frame().unwrap().is_some());
        assert_eq!(buffer.rest(), b"raw");
    }

    #[test]
    #[should_panic(expected = "must be taken before more is read")]
    fn reading_on_into_a_full_buffer_is_a_mistake_of_the_caller() {
        let (mut buffer, mut small) = (FrameBuffer::new(), Vec::new());
        encode(Kind::Message, &[0; 100], &mut small);
        for byte in small.iter().cycle() {
            fill(&mut buffer, &[*byte]);
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            payloads in prop::collection::vec((0usize..9_000, 0usize..8), 0..40),
            cuts in prop::collection::vec(1usize..12_000, 1..20),
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (at, (len, kind)) in payloads.into_iter().enumerate() {
                let kind = Kind::ALL[kind];
                let payload = vec![u8::try_from(at).unwrap(); len + 8];
                encode(kind, &payload, &mut stream);
                expected.push((kind, payload));
            }
            let mut cuts = cuts.into_iter().cycle();
            prop_assert_eq!(read_all(&stream, || cuts.next().unwrap()), expected);
        }
    }
}
