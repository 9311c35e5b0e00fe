//! Packets, as git frames what it says (gitprotocol-common(5)): four hexadecimal digits that count themselves, then bytes.

use std::io::{self, Read, Write};

use super::trouble::{Outcome, Trouble};

/// Largest packet, its digits included.
pub(crate) const MAX_PACKET_BYTES: usize = 65_520;

/// Bytes of the length.
const HEAD_BYTES: usize = 4;

/// Bytes that are read or written at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the end of a section.
    Delimiter,
    /// The client has closed its side between two packets.
    End,
}

/// The client's side of the conversation, packet by packet.
pub(crate) struct Reader<R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// The next packet; the end of a line is taken off.
    pub(crate) fn packet(&mut self) -> Outcome<Packet<'_>> {
        if !self.have(HEAD_BYTES)? {
            return if self.start == self.end { Ok(Packet::End) } else { Err(Trouble::Gone) };
        }
        let length = length(&self.buffer[self.start..self.start + HEAD_BYTES])
            .ok_or_else(|| Trouble::said("that is no packet"))?;
        match length {
            0 | 1 => {
                self.start += HEAD_BYTES;
                return Ok(if length == 0 { Packet::Flush } else { Packet::Delimiter });
            }
            HEAD_BYTES..=MAX_PACKET_BYTES => {}
            _ => return Err(Trouble::said("a packet has an impossible length")),
        }
        if !self.have(length)? {
            return Err(Trouble::Gone);
        }
        let data = &self.buffer[self.start + HEAD_BYTES..self.start + length];
        self.start += length;
        Ok(Packet::Data(data.strip_suffix(b"\n").unwrap_or(data)))
    }

    /// What comes behind the packets, such as a pack.
    pub(crate) fn rest(&mut self) -> impl Read + '_ {
        Rest(self)
    }

    /// Whether so many bytes are there, after reading what is needed.
    fn have(&mut self, count: usize) -> Outcome<bool> {
        while self.end - self.start < count {
            if self.buffer.len() - self.start < count {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Trouble::Gone),
            }
        }
        Ok(true)
    }
}

struct Rest<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Rest<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        if reader.start == reader.end {
            return reader.from.read(into);
        }
        let count = into.len().min(reader.end - reader.start);
        into[..count].copy_from_slice(&reader.buffer[reader.start..reader.start + count]);
        reader.start += count;
        Ok(count)
    }
}

/// Our side. What is written is sent when a buffer is full, and by [`Writer::send`].
pub(crate) struct Writer<W> {
    to: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, buffer: Vec::with_capacity(BUFFER_BYTES + MAX_PACKET_BYTES) }
    }

    /// One packet, of several pieces. What does not fit is left out: nobody says such things.
    pub(crate) fn data(&mut self, pieces: &[&[u8]]) -> Outcome<()> {
        let head = self.buffer.len();
        self.buffer.extend_from_slice(b"0000");
        for piece in pieces {
            let room = MAX_PACKET_BYTES - (self.buffer.len() - head);
            self.buffer.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let length = self.buffer.len() - head;
        digits(length, &mut self.buffer[head..head + HEAD_BYTES]);
        if self.buffer.len() >= BUFFER_BYTES { self.send() } else { Ok(()) }
    }

    /// One line of text.
    pub(crate) fn line(&mut self, text: &str) -> Outcome<()> {
        self.data(&[text.as_bytes(), b"\n"])
    }

    /// The end of a message.
    pub(crate) fn flush(&mut self) {
        self.buffer.extend_from_slice(b"0000");
    }

    /// The end of a section.
    pub(crate) fn delimiter(&mut self) {
        self.buffer.extend_from_slice(b"0001");
    }

    /// Bytes that are in no packet: a pack for a client that asked for no side band.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.send()?;
        self.to.write_all(bytes).map_err(|_| Trouble::Gone)
    }

    /// Sends what was written so far.
    pub(crate) fn send(&mut self) -> Outcome<()> {
        let sent = self.to.write_all(&self.buffer).and_then(|()| self.to.flush());
        self.buffer.clear();
        sent.map_err(|_| Trouble::Gone)
    }
}

/// The length that four digits say.
fn length(head: &[u8]) -> Option<usize> {
    head.iter().try_fold(0, |sum, byte| Some(sum << 4 | char::from(*byte).to_digit(16)? as usize))
}

fn digits(length: usize, into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digit, shift) in into.iter_mut().zip([12, 8, 4, 0]) {
        *digit = DIGITS[(length >> shift) & 0xf];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(bytes: &[u8]) -> Vec<Result<Vec<u8>, String>> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        loop {
            let packet = match reader.packet() {
                Ok(Packet::End) => return all,
                Ok(Packet::Data(data)) => Ok(data.to_vec()),
                Ok(other) => Ok(format!("{other:?}").into_bytes()),
                Err(trouble) => Err(format!("{trouble:?}")),
            };
            let is_end = packet.is_err();
            all.push(packet);
            if is_end {
                return all;
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.line("want x").unwrap();
        writer.delimiter();
        writer.data(&[b"a", b"", b"b"]).unwrap();
        writer.data(&[&vec![7; MAX_PACKET_BYTES]]).unwrap();
        writer.flush();
        writer.send().unwrap();
        let read: Vec<_> = packets(&bytes).into_iter().map(Result::unwrap).collect();
        assert_eq!(read[..3], [b"want x".to_vec(), b"Delimiter".to_vec(), b"ab".to_vec()]);
        assert_eq!((read[3].len(), &read[4][..]), (MAX_PACKET_BYTES - HEAD_BYTES, &b"Flush"[..]));
    }

    #[test]
    fn what_is_no_packet_is_told() {
        for wrong in [&b"zzzz"[..], b"0002", b"0003", b"fff1", b"-001"] {
            assert!(packets(wrong)[0].as_ref().is_err_and(|error| error.contains("Said")), "{wrong:?}");
        }
        assert!(packets(b"000").pop().unwrap().is_err());
        assert!(packets(b"0009wan").pop().unwrap().is_err());
        assert_eq!(packets(b"0004"), [Ok(Vec::new())]);
    }
}
