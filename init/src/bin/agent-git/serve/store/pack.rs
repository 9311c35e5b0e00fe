//! One pack and its index, version 2 of both (gitformat-pack(5)). Anybody inside may have written them.

use std::{
    cell::{OnceCell, RefCell},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use flate2::{Decompress, FlushDecompress, Status};

use super::{
    super::{
        file,
        id::{ID_BYTES, Id},
        object::Kind,
    },
    delta,
};

/// Objects in one pack.
const MAX_PACK_OBJECTS: u32 = 20_000_000;

/// Bytes that nobody wants are unfolded to.
const NOWHERE_BYTES: usize = 16 * 1024;

/// The longest head of an entry: a size, and a name or a distance.
pub(crate) const MAX_HEAD_BYTES: usize = 32;

/// Bytes of a pack that are read at a time, and kept: few where one jumps about, more and more where one reads on.
const WINDOW_BYTES: std::ops::RangeInclusive<usize> = 4 * 1024..=256 * 1024;

/// Bytes of the name at the end of a pack.
const TRAILER_BYTES: u64 = ID_BYTES as u64;

/// Where names begin in an index: behind its magic, its version and 256 counts.
const NAMES_AT: usize = 8 + 256 * 4;

/// A pack.
pub(crate) struct Pack {
    index: File,
    data_path: PathBuf,
    data: OnceCell<Data>,
    /// How many names begin with a byte up to this one.
    counts: Box<[u32; 256]>,
    /// Names that begin with the same byte, read when one of them is looked for.
    names: RefCell<Vec<Option<Rc<[u8]>>>>,
    /// Where each entry begins, and which name is its.
    order: OnceCell<Rc<[(u64, u32)]>>,
}

struct Data {
    file: File,
    /// Where the entries end.
    end: u64,
    window: RefCell<(u64, Vec<u8>)>,
    engine: RefCell<Decompress>,
}

/// How an entry begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) form: Form,
    /// Of what is compressed behind it: the object, or the difference.
    pub(crate) size: u64,
    /// Bytes of the head.
    pub(crate) bytes: u64,
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object.
    Whole(Kind),
    /// The difference to the entry that begins there.
    From(u64),
    /// The difference to that object.
    FromNamed(Id),
}

impl Pack {
    /// Opens an index; its pack is beside it.
    pub(crate) fn open(index: &Path) -> io::Result<Self> {
        let file = file::open(index)?;
        let mut head = [0; NAMES_AT];
        file.read_exact_at(&mut head, 0)?;
        if head[..8] != *b"\xfftOc\0\0\0\x02" {
            return Err(corrupt("an index of a version other than 2"));
        }
        let mut counts = Box::new([0; 256]);
        for (count, bytes) in counts.iter_mut().zip(head[8..].chunks_exact(4)) {
            *count = u32::from_be_bytes(bytes.try_into().unwrap_or_default());
        }
        let length = file.metadata()?.len();
        let needed = NAMES_AT as u64 + u64::from(counts[255]) * (ID_BYTES as u64 + 8);
        if !counts.is_sorted() || counts[255] > MAX_PACK_OBJECTS || length < needed {
            return Err(corrupt("an index that counts wrongly"));
        }
        Ok(Self {
            index: file,
            data_path: index.with_extension("pack"),
            data: OnceCell::new(),
            counts,
            names: RefCell::new(vec![None; 256]),
            order: OnceCell::new(),
        })
    }

    /// How many objects it has.
    pub(crate) fn count(&self) -> u32 {
        self.counts[255]
    }

    /// Where the entry of an object begins.
    pub(crate) fn find(&self, id: Id) -> io::Result<Option<u64>> {
        let first = id.0[0];
        let names = self.names_with(first)?;
        let (mut low, mut high) = (0, names.len() / ID_BYTES);
        while low < high {
            let middle = usize::midpoint(low, high);
            match names[middle * ID_BYTES..(middle + 1) * ID_BYTES].cmp(&id.0) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let number = self.before(first) + u32::try_from(middle).unwrap_or(u32::MAX);
                    return self.offset(number).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// The name of the entry that begins there.
    pub(crate) fn name_at(&self, offset: u64) -> io::Result<Option<Id>> {
        let order = self.order()?;
        let Ok(at) = order.binary_search_by_key(&offset, |(offset, _)| *offset) else { return Ok(None) };
        let number = order[at].1;
        let first = u8::try_from(self.counts.partition_point(|count| *count <= number)).unwrap_or(u8::MAX);
        let names = self.names_with(first)?;
        let at = (number - self.before(first)) as usize * ID_BYTES;
        Ok(names.get(at..).and_then(Id::from_bytes))
    }

    /// Where the entry that begins there ends: where the next one begins.
    pub(crate) fn end_of(&self, offset: u64) -> io::Result<u64> {
        let order = self.order()?;
        let after = order.partition_point(|(other, _)| *other <= offset);
        Ok(order.get(after).map_or(self.data()?.end, |(offset, _)| *offset))
    }

    /// How the entry at a place begins.
    pub(crate) fn head(&self, offset: u64) -> io::Result<Head> {
        self.with(offset, MAX_HEAD_BYTES, |bytes| Head::parse(bytes, offset))?
            .ok_or_else(|| corrupt("an entry that is none"))
    }

    /// What is compressed at a place, `size` bytes of it once it is not any more.
    pub(crate) fn inflate(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        content.try_reserve_exact(size + 1).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.inflate_into(offset, Some(&mut content))?;
        if content.len() == size { Ok(content) } else { Err(corrupt("an entry of another size")) }
    }

    /// How many compressed bytes begin at a place.
    pub(crate) fn compressed(&self, offset: u64) -> io::Result<u64> {
        self.inflate_into(offset, None)
    }

    /// Gives `take` the bytes of the pack between two places.
    pub(crate) fn copy(
        &self,
        mut from: u64,
        to: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while from < to {
            from += self.with(from, 1, |bytes| {
                let wanted = usize::try_from(to - from).unwrap_or(usize::MAX);
                let piece = &bytes[..bytes.len().min(wanted)];
                take(piece).map(|()| piece.len() as u64)
            })??;
        }
        Ok(())
    }

    /// Unfolds what is compressed at a place, to nowhere where nobody wants it. Its compressed bytes are counted.
    fn inflate_into(&self, offset: u64, mut into: Option<&mut Vec<u8>>) -> io::Result<u64> {
        let mut engine = self.data()?.engine.borrow_mut();
        engine.reset(true);
        let mut thrown_away = Vec::new();
        if into.is_none() {
            thrown_away.reserve_exact(NOWHERE_BYTES);
        }
        loop {
            let at = offset + engine.total_in();
            let (before_in, before_out) = (engine.total_in(), engine.total_out());
            thrown_away.clear();
            let content = into.as_deref_mut().unwrap_or(&mut thrown_away);
            let status =
                self.with(at, 1, |bytes| engine.decompress_vec(bytes, content, FlushDecompress::None))?;
            match status {
                Ok(Status::StreamEnd) => return Ok(engine.total_in()),
                Ok(_) if (engine.total_in(), engine.total_out()) != (before_in, before_out) => {}
                // No progress: it is longer than its head says, or broken.
                Ok(_) | Err(_) => return Err(corrupt("an entry that does not unfold")),
            }
        }
    }

    /// Bytes of the pack from a place on, at least one and, where the pack has them, `least`.
    fn with<T>(&self, offset: u64, least: usize, work: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let data = self.data()?;
        if offset >= data.end {
            return Err(corrupt("an entry behind the end"));
        }
        let least = least.min(usize::try_from(data.end - offset).unwrap_or(usize::MAX));
        let mut window = data.window.borrow_mut();
        let (start, bytes) = &mut *window;
        let holds = offset >= *start && offset + least as u64 <= *start + bytes.len() as u64;
        if !holds {
            let reads_on = (*start..=*start + bytes.len() as u64).contains(&offset);
            let wished = if reads_on { bytes.len() * 2 } else { 0 };
            let wished = wished.clamp(*WINDOW_BYTES.start(), *WINDOW_BYTES.end());
            let count = usize::try_from(data.end - offset).unwrap_or(usize::MAX).min(wished);
            bytes.resize(count, 0);
            *start = offset;
            if let Err(error) = data.file.read_exact_at(bytes, offset) {
                bytes.clear();
                return Err(error);
            }
        }
        let at = usize::try_from(offset - *start).unwrap_or(0);
        Ok(work(&bytes[at..]))
    }

    fn data(&self) -> io::Result<&Data> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let file = file::open(&self.data_path)?;
        let mut head = [0; 8];
        file.read_exact_at(&mut head, 0)?;
        let length = file.metadata()?.len();
        if head[..4] != *b"PACK" || !matches!(head[7], 2 | 3) || length < 12 + TRAILER_BYTES {
            return Err(corrupt("a pack that is none"));
        }
        let data = Data {
            file,
            end: length - TRAILER_BYTES,
            window: RefCell::new((0, Vec::new())),
            engine: RefCell::new(Decompress::new(true)),
        };
        Ok(self.data.get_or_init(|| data))
    }

    fn before(&self, first: u8) -> u32 {
        if first == 0 { 0 } else { self.counts[usize::from(first) - 1] }
    }

    /// The names that begin with a byte, one behind the other.
    fn names_with(&self, first: u8) -> io::Result<Rc<[u8]>> {
        if let Some(names) = &self.names.borrow()[usize::from(first)] {
            return Ok(Rc::clone(names));
        }
        let (from, to) = (self.before(first), self.counts[usize::from(first)]);
        let mut names = vec![0; (to - from) as usize * ID_BYTES];
        self.index.read_exact_at(&mut names, NAMES_AT as u64 + u64::from(from) * ID_BYTES as u64)?;
        let names = Rc::<[u8]>::from(names);
        self.names.borrow_mut()[usize::from(first)] = Some(Rc::clone(&names));
        Ok(names)
    }

    fn offset(&self, number: u32) -> io::Result<u64> {
        let mut bytes = [0; 4];
        self.index.read_exact_at(&mut bytes, self.offsets_at() + u64::from(number) * 4)?;
        self.long_offset(u32::from_be_bytes(bytes))
    }

    /// An offset that does not fit into 31 bits stands in a table of its own.
    fn long_offset(&self, short: u32) -> io::Result<u64> {
        const LONG: u32 = 1 << 31;
        if short & LONG == 0 {
            return Ok(short.into());
        }
        let mut bytes = [0; 8];
        let table = self.offsets_at() + u64::from(self.count()) * 4;
        self.index.read_exact_at(&mut bytes, table + u64::from(short & !LONG) * 8)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn offsets_at(&self) -> u64 {
        NAMES_AT as u64 + u64::from(self.count()) * (ID_BYTES as u64 + 4)
    }

    fn order(&self) -> io::Result<&[(u64, u32)]> {
        if let Some(order) = self.order.get() {
            return Ok(order);
        }
        let mut short = vec![0; self.count() as usize * 4];
        self.index.read_exact_at(&mut short, self.offsets_at())?;
        let mut order = Vec::with_capacity(self.count() as usize);
        for (number, bytes) in (0..).zip(short.chunks_exact(4)) {
            let short = u32::from_be_bytes(bytes.try_into().unwrap_or_default());
            order.push((self.long_offset(short)?, number));
        }
        order.sort_unstable();
        Ok(self.order.get_or_init(|| order.into()))
    }
}

impl Head {
    /// Of an entry that begins at `offset`.
    pub(crate) fn parse(bytes: &[u8], offset: u64) -> Option<Self> {
        let mut rest = bytes;
        let (&first, _) = rest.split_first()?;
        let number = first >> 4 & 7;
        // The lowest four bits stand with the form; the others are a size as everywhere.
        let size = if first & 0x80 == 0 {
            rest = &rest[1..];
            u64::from(first & 0xf)
        } else {
            rest = &rest[1..];
            let high = delta::size(&mut rest)?;
            high.checked_mul(16)? | u64::from(first & 0xf)
        };
        let form = match number {
            6 => {
                let distance = distance(&mut rest)?;
                Form::From(offset.checked_sub(distance).filter(|base| distance > 0 && *base >= 12)?)
            }
            7 => {
                let base = Id::from_bytes(rest)?;
                rest = &rest[ID_BYTES..];
                Form::FromNamed(base)
            }
            number => Form::Whole(Kind::from_number(number)?),
        };
        Some(Self { form, size, bytes: (bytes.len() - rest.len()) as u64 })
    }

    /// The head of an entry that holds a whole object, or a difference in the form of `number`.
    pub(crate) fn write(number: u8, size: u64, out: &mut Vec<u8>) {
        let mut byte = number << 4 | u8::try_from(size & 0xf).unwrap_or(0);
        let mut rest = size >> 4;
        while rest > 0 {
            out.push(byte | 0x80);
            byte = u8::try_from(rest & 0x7f).unwrap_or(0);
            rest >>= 7;
        }
        out.push(byte);
    }

    /// How far back the base of a difference is.
    pub(crate) fn write_distance(mut distance: u64, out: &mut Vec<u8>) {
        let mut bytes = [0; 10];
        let mut at = bytes.len() - 1;
        bytes[at] = u8::try_from(distance & 0x7f).unwrap_or(0);
        distance >>= 7;
        while distance > 0 && at > 0 {
            distance -= 1;
            at -= 1;
            bytes[at] = u8::try_from(distance & 0x7f).unwrap_or(0) | 0x80;
            distance >>= 7;
        }
        out.extend_from_slice(&bytes[at..]);
    }
}

/// A distance: seven bits a byte, highest first, and each further byte counts one more.
fn distance(rest: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for count in 0..9 {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        if count > 0 {
            value += 1;
        }
        value = value.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(super) fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(size in 0..u64::MAX >> 5, distance in 1..1_u64 << 55, kind in 1..5_u8) {
            let mut bytes = Vec::new();
            Head::write(kind, size, &mut bytes);
            let length = bytes.len() as u64;
            let form = Form::Whole(Kind::from_number(kind).unwrap());
            prop_assert_eq!(Head::parse(&bytes, 12), Some(Head { form, size, bytes: length }));
            bytes.clear();
            Head::write(6, size, &mut bytes);
            Head::write_distance(distance, &mut bytes);
            prop_assert!(bytes.len() <= MAX_HEAD_BYTES);
            let head = Head::parse(&bytes, distance + 12).unwrap();
            prop_assert_eq!(head, Head { form: Form::From(12), size, bytes: bytes.len() as u64 });
            prop_assert_eq!(Head::parse(&bytes, distance + 11), None);
        }

        #[test]
        fn nothing_is_read_behind_the_end(bytes in prop::collection::vec(any::<u8>(), 0..40), offset: u64) {
            if let Some(head) = Head::parse(&bytes, offset) {
                prop_assert!(head.bytes <= bytes.len() as u64);
            }
        }
    }
}
