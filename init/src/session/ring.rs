//! The newest bytes of a stream, addressed by their offset in the whole stream.
//!
//! Plain data: no reader is known here. A viewer is an offset that somebody else keeps; one that
//! fell behind learns where the kept bytes begin and is repainted from the screen model.

/// A byte ring that never grows and never blocks: new bytes push the oldest out.
pub(crate) struct Ring {
    /// Grows to `capacity` once and is never reallocated after that.
    bytes: Vec<u8>,
    capacity: usize,
    /// Where in `bytes` the next byte goes; once full, the oldest byte lies there.
    head: usize,
    /// Offset in the stream of the byte that comes after the newest one.
    end: u64,
}

/// The bytes asked for have been pushed out; the oldest ones kept begin at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes before offset {start} are no longer kept")]
pub(crate) struct Lost {
    pub(crate) start: u64,
}

impl Ring {
    /// An empty ring; memory is taken as bytes arrive, `capacity` at most.
    pub(crate) fn new(capacity: usize) -> Self {
        Self::starting_at(0, capacity)
    }

    /// An empty ring whose first byte will have this offset, for a stream taken over midway.
    pub(crate) fn starting_at(offset: u64, capacity: usize) -> Self {
        assert!(capacity > 0, "a ring that keeps nothing cannot serve a reader");
        Self { bytes: Vec::new(), capacity, head: 0, end: offset }
    }

    /// Offset of the oldest byte kept.
    pub(crate) fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Offset that the next byte pushed will have.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends `new`; the oldest bytes make room.
    pub(crate) fn push(&mut self, new: &[u8]) {
        self.end += new.len() as u64;
        // Of what is larger than the ring only the end can be kept.
        let mut rest = &new[new.len().saturating_sub(self.capacity)..];

        let growing = rest.len().min(self.capacity - self.bytes.len());
        if growing > 0 {
            self.reserve(growing);
            self.bytes.extend_from_slice(&rest[..growing]);
            self.head = self.bytes.len() % self.capacity;
            rest = &rest[growing..];
        }

        let first = rest.len().min(self.capacity - self.head);
        self.bytes[self.head..self.head + first].copy_from_slice(&rest[..first]);
        self.bytes[..rest.len() - first].copy_from_slice(&rest[first..]);
        self.head = (self.head + rest.len()) % self.capacity;
    }

    /// Everything from `offset` on, as the two pieces it may lie in. An offset at or past the end
    /// gives nothing: there is nothing yet.
    pub(crate) fn slices(&self, offset: u64) -> Result<(&[u8], &[u8]), Lost> {
        let start = self.start();
        if offset < start {
            return Err(Lost { start });
        }
        let wanted = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        // While the ring still grows `head` is its length or zero, and the older half is all there is.
        let split = if self.bytes.len() < self.capacity { 0 } else { self.head };
        let (newer, older) = self.bytes.split_at(split);
        Ok(if wanted <= newer.len() {
            (&newer[newer.len() - wanted..], &[])
        } else {
            (&older[older.len() - (wanted - newer.len())..], newer)
        })
    }

    /// Appends at most `max` bytes from `offset` on to `out` and says how many.
    pub(crate) fn read_at(&self, offset: u64, out: &mut Vec<u8>, max: usize) -> Result<usize, Lost> {
        let (first, second) = self.slices(offset)?;
        let first = &first[..first.len().min(max)];
        let second = &second[..second.len().min(max - first.len())];
        out.extend_from_slice(first);
        out.extend_from_slice(second);
        Ok(first.len() + second.len())
    }

    /// Sets memory aside for `more` bytes: doubling, but never past the capacity.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let target = needed.max(self.bytes.capacity() * 2).max(FIRST_BYTES).min(self.capacity);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
    }
}

/// A quiet stream costs this much and not the whole ring.
const FIRST_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(ring: &Ring, offset: u64) -> Result<Vec<u8>, Lost> {
        let mut out = Vec::new();
        ring.read_at(offset, &mut out, usize::MAX).map(|_| out)
    }

    #[test]
    fn a_lost_offset_says_where_the_kept_bytes_begin() {
        let mut ring = Ring::new(4);
        ring.push(b"abcdef");
        assert_eq!((ring.start(), ring.end()), (2, 6));
        assert_eq!(contents(&ring, 1), Err(Lost { start: 2 }));
        assert_eq!(contents(&ring, 2).unwrap(), b"cdef");
        assert_eq!(contents(&ring, 6).unwrap(), b"");
        assert_eq!(contents(&ring, 99).unwrap(), b"");
    }

    #[test]
    fn a_full_ring_never_reallocates() {
        let mut ring = Ring::new(10_000);
        ring.push(&[1; 10_000]);
        let (at, capacity) = (ring.bytes.as_ptr(), ring.bytes.capacity());
        for n in 0..100 {
            ring.push(&vec![n; 1 + 131 * usize::from(n)]);
        }
        assert_eq!((ring.bytes.as_ptr(), ring.bytes.capacity()), (at, capacity));
        assert_eq!(capacity, 10_000);
    }

    #[test]
    fn a_stream_taken_over_midway_keeps_its_offsets() {
        let mut ring = Ring::starting_at(1 << 40, 4);
        assert_eq!(contents(&ring, 0), Err(Lost { start: 1 << 40 }));
        ring.push(b"xyz12");
        assert_eq!(contents(&ring, (1 << 40) + 3).unwrap(), b"12");
    }

    proptest! {
        #[test]
        fn agrees_with_the_whole_stream(
            capacity in 1_usize..40,
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..30),
            reads in prop::collection::vec((0_u64..900, 0_usize..80), 1..40),
        ) {
            let (mut ring, mut whole) = (Ring::new(capacity), Vec::new());
            for push in pushes {
                ring.push(&push);
                whole.extend(push);
                prop_assert_eq!(ring.end(), whole.len() as u64);
                prop_assert_eq!(ring.start(), whole.len().saturating_sub(capacity) as u64);
                for &(offset, max) in &reads {
                    let mut out = Vec::new();
                    let got = ring.read_at(offset, &mut out, max);
                    if offset < ring.start() {
                        prop_assert_eq!(got, Err(Lost { start: ring.start() }));
                    } else {
                        let from = whole.len().min(usize::try_from(offset).unwrap());
                        let to = whole.len().min(from + max);
                        prop_assert_eq!(got, Ok(to - from));
                        prop_assert_eq!(&out[..], &whole[from..to]);
                    }
                }
            }
        }
    }
}
