//! The bands in which a client hears a pack, what goes on, and what went wrong (gitprotocol-pack(5)).

use std::{
    io::Write,
    time::{Duration, Instant},
};

use super::{
    pkt::{MAX_PACKET_BYTES, Writer},
    trouble::Outcome,
};

/// A sign of life, where there is nothing else to say for so long; git's own interval.
const LIFE_EVERY: Duration = Duration::from_secs(5);

/// Calls between two looks at the clock.
const CALLS: u32 = 1024;

/// Payload of the first side band that git had.
const SMALL_BYTES: usize = 995;

/// How wide the bands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// None: bytes of the pack and nothing else.
    None,
    /// Small packets.
    Small,
    /// Packets of the largest size.
    Large,
}

/// Writes in bands.
pub(crate) struct Bands<'a, W> {
    to: &'a mut Writer<W>,
    width: Width,
    waiting: Vec<u8>,
    calls: u32,
    last: Instant,
}

impl<'a, W: Write> Bands<'a, W> {
    pub(crate) fn new(to: &'a mut Writer<W>, width: Width) -> Self {
        Self { to, width, waiting: Vec::new(), calls: 0, last: Instant::now() }
    }

    /// Bytes of the pack.
    pub(crate) fn pack(&mut self, mut bytes: &[u8]) -> Outcome<()> {
        let most = self.payload();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(most - self.waiting.len()));
            self.waiting.extend_from_slice(piece);
            bytes = rest;
            if self.waiting.len() == most {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    /// What a person may want to know.
    pub(crate) fn progress(&mut self, text: &str) -> Outcome<()> {
        if self.width == Width::None {
            return Ok(());
        }
        self.to.data(&[b"\x02", text.as_bytes()])?;
        self.to.send()
    }

    /// Why it ends here.
    pub(crate) fn failed(&mut self, text: &str) -> Outcome<()> {
        if self.width == Width::None {
            return Ok(());
        }
        self.to.data(&[b"\x03", text.as_bytes(), b"\n"])?;
        self.to.send()
    }

    /// To be called while nothing is said.
    pub(crate) fn tick(&mut self) -> Outcome<()> {
        self.calls += 1;
        if self.calls < CALLS {
            return Ok(());
        }
        self.calls = 0;
        if self.width != Width::None && self.last.elapsed() >= LIFE_EVERY {
            self.last = Instant::now();
            self.to.data(&[b"\x01"])?;
            self.to.send()?;
        }
        Ok(())
    }

    /// The end of the pack.
    pub(crate) fn end(&mut self) -> Outcome<()> {
        self.pass_on()?;
        if self.width != Width::None {
            self.to.flush();
        }
        self.to.send()
    }

    fn pass_on(&mut self) -> Outcome<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let sent = match self.width {
            Width::None => self.to.raw(&self.waiting),
            Width::Small | Width::Large => self.to.data(&[b"\x01", &self.waiting]),
        };
        self.waiting.clear();
        sent
    }

    fn payload(&self) -> usize {
        match self.width {
            Width::None => MAX_PACKET_BYTES,
            Width::Small => SMALL_BYTES,
            Width::Large => MAX_PACKET_BYTES - 5,
        }
    }
}
