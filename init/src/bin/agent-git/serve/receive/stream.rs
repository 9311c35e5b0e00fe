//! A pack on its way in: nothing says how long it is but itself, so it is followed to its end while it is passed on.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use crate::serve::{
    id::ID_BYTES,
    store::{Form, Head, MAX_HEAD_BYTES},
    trouble::{Outcome, Trouble},
    walk::MAX_OBJECTS,
};

/// Largest pack that is taken.
const MAX_PACK_BYTES: u64 = 16 << 30;

/// Bytes that are read and passed on at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// How a pack begins: its name, its version, and how many objects are in it.
const START_BYTES: usize = 12;

/// Follows a pack.
pub(super) struct Stream<R> {
    from: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes before `start`.
    passed: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, passed: 0 }
    }

    /// Gives all of it to `sink`, piece by piece; how many objects it holds.
    pub(super) fn follow(&mut self, sink: &mut dyn FnMut(&[u8]) -> Outcome<()>) -> Outcome<u32> {
        self.have(START_BYTES, sink)?;
        let head = &self.buffer[self.start..self.start + START_BYTES];
        let [.., a, b, c, d] = head[..START_BYTES] else { return Err(broken()) };
        let count = u32::from_be_bytes([a, b, c, d]);
        if !head.starts_with(b"PACK\0\0\0\x02") && !head.starts_with(b"PACK\0\0\0\x03") {
            return Err(Trouble::said("that is no pack"));
        }
        if count as usize > MAX_OBJECTS {
            return Err(Trouble::said(format!("a pack of more than {MAX_OBJECTS} objects")));
        }
        self.pass(START_BYTES);
        let mut engine = Decompress::new(true);
        let mut nowhere = Vec::with_capacity(BUFFER_BYTES);
        for _ in 0..count {
            let head = self.head(sink)?;
            self.pass(usize::try_from(head.bytes).unwrap_or(0));
            self.skip(&mut engine, &mut nowhere, head.size, sink)?;
        }
        self.have(ID_BYTES, sink)?;
        self.pass(ID_BYTES);
        sink(&self.buffer[..self.start])?;
        Ok(count)
    }

    /// The head of the next entry, however little of it is there at first.
    fn head(&mut self, sink: &mut dyn FnMut(&[u8]) -> Outcome<()>) -> Outcome<Head> {
        for least in 1..=MAX_HEAD_BYTES {
            self.have(least, sink)?;
            // A base that would be before the start of everything is found by whoever reads the pack.
            if let Some(head) = Head::parse(&self.buffer[self.start..self.end], u64::MAX) {
                return Ok(match head.form {
                    Form::Whole(_) | Form::From(_) | Form::FromNamed(_) => head,
                });
            }
        }
        Err(broken())
    }

    /// Passes what is compressed and has `size` bytes when it is not.
    fn skip(
        &mut self,
        engine: &mut Decompress,
        nowhere: &mut Vec<u8>,
        size: u64,
        sink: &mut dyn FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<()> {
        engine.reset(true);
        loop {
            let (in_before, out_before) = (engine.total_in(), engine.total_out());
            nowhere.clear();
            let status =
                engine.decompress_vec(&self.buffer[self.start..self.end], nowhere, FlushDecompress::None);
            self.pass(usize::try_from(engine.total_in() - in_before).unwrap_or(0));
            match status {
                Ok(Status::StreamEnd) if engine.total_out() == size => return Ok(()),
                Ok(Status::Ok | Status::BufError) if engine.total_out() <= size => {
                    let moved = (engine.total_in(), engine.total_out()) != (in_before, out_before);
                    if self.start == self.end {
                        self.have(1, sink)?;
                    } else if !moved {
                        return Err(broken());
                    }
                }
                _ => return Err(broken()),
            }
        }
    }

    fn pass(&mut self, count: usize) {
        self.start += count;
        self.passed += count as u64;
    }

    /// Waits until so many bytes are there.
    fn have(&mut self, count: usize, sink: &mut dyn FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
        while self.end - self.start < count {
            if self.buffer.len() - self.start < count.max(BUFFER_BYTES / 4) {
                sink(&self.buffer[..self.start])?;
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.passed > MAX_PACK_BYTES {
                return Err(Trouble::said(format!("a pack of more than {MAX_PACK_BYTES} bytes")));
            }
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) | Err(_) => return Err(Trouble::Gone),
                Ok(read) => self.end += read,
            }
        }
        Ok(())
    }
}

fn broken() -> Trouble {
    Trouble::said("the pack is broken")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::ZlibEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn pack() -> Vec<u8> {
        let mut bytes = b"PACK\0\0\0\x02\0\0\0\x02".to_vec();
        for content in [b"hello".to_vec(), vec![7; 100_000]] {
            Head::write(3, content.len() as u64, &mut bytes);
            let mut compressed = ZlibEncoder::new(Vec::new(), Compression::none());
            compressed.write_all(&content).unwrap();
            bytes.extend(compressed.finish().unwrap());
        }
        bytes.extend([9; ID_BYTES]);
        bytes
    }

    /// Reads a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = into.len().min(self.1);
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn it_ends_where_the_pack_ends_and_everything_is_passed_on() {
        let pack = pack();
        for step in [1, 7, 100_000] {
            let mut seen = Vec::new();
            let mut stream = Stream::new(Slow(&pack, step));
            let count = stream.follow(&mut |bytes| {
                seen.extend_from_slice(bytes);
                Ok(())
            });
            assert!(matches!(count, Ok(2)) && seen == pack, "{step} bytes at a time");
        }
    }

    proptest! {
        #[test]
        fn what_is_broken_ends(at in 0..300_usize, byte: u8, cut in 0..100_000_usize) {
            let mut pack = pack();
            pack[at] = byte;
            pack.truncate(cut.max(at));
            let mut stream = Stream::new(&pack[..]);
            let _ = stream.follow(&mut |_| Ok(()));
        }
    }
}
