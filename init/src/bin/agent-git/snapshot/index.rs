//! What the last snapshot saw of every file, so that the next one reads only what has changed.
//!
//! A file of ours in the worktree's git folder, rewritten as a whole. Each folder is a record: its tree, the rules it was
//! looked at with, and its entries by name. A file counts as unchanged while its size, times and inode are the same, unless
//! it was written so late that one more change would not have shown: then it is read again.

use git2::Oid;
use rustix::fs::Stat;

const MAGIC: &[u8; 8] = b"agshim\x00\x01";

/// Behind the records: root, time, anchor, moment of the anchor, checksum.
const TRAILER_BYTES: usize = 4 + 12 + OID_BYTES + 8 + 8;

const OID_BYTES: usize = 20;

/// Largest that is read, bytes. A million files take about a tenth.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// A moment as file systems have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    size: u64,
    modified: Moment,
    changed: Moment,
    inode: u64,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A file or a link: its mode in git, its content, and its marks.
    File(Mode, Oid, Marks),
    /// A folder: where its record is, and whether only its tracked files are taken.
    Folder(u32, bool),
    /// A submodule that is as it should be: its commit, and where its record is.
    Link(Oid, u32),
    /// Not taken: a file or a folder.
    Ignored(bool),
}

/// Modes of files that git knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Plain,
    Executable,
    Symlink,
}

/// The last snapshot's.
#[derive(Debug)]
pub(super) struct Index {
    bytes: Vec<u8>,
    root: u32,
    /// When it began.
    pub began: Moment,
    /// What keeps its objects: a commit with this tree.
    pub anchor: Anchor,
}

/// A commit that holds every object of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub commit: Oid,
    /// The snapshot's moment; 0 where the commit is one of the agent's.
    pub at_ms: u64,
}

/// A record that is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folder<'a> {
    bytes: &'a [u8],
    /// Its tree; zero where it is empty.
    pub tree: Oid,
    /// The rules it was looked at with.
    pub rules: u64,
    /// Whether its objects were written, or only named.
    pub stored: bool,
    left: u32,
}

/// A record that is made.
#[derive(Debug, Default)]
pub(super) struct Record {
    entries: Vec<u8>,
    count: u32,
}

/// An index that is made, from the innermost folders outwards.
#[derive(Debug)]
pub(super) struct Builder(Vec<u8>);

impl Marks {
    pub(super) fn of(stat: &Stat) -> Self {
        let moment = |seconds, nanoseconds| Moment { seconds, nanoseconds };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // As the kernel has them.
        Self {
            size: stat.st_size as u64,
            modified: moment(stat.st_mtime, stat.st_mtime_nsec as u32),
            changed: moment(stat.st_ctime, stat.st_ctime_nsec as u32),
            inode: stat.st_ino,
        }
    }

    /// Whether a change after this moment would show. One within the same tick of the clock might not.
    pub(super) fn is_settled(&self, at: Moment) -> bool {
        self.changed < at && self.modified < at
    }

    /// Differs if a file with rules in it was replaced or changed. One that may change once more without a mark counts
    /// as changed the next time.
    pub(super) fn rules(&self, so_far: u64, began: Moment) -> u64 {
        let mut bytes = [0; 40];
        self.write(&mut bytes);
        let rules = digest(so_far, &bytes);
        if self.is_settled(began) { rules } else { digest(rules, &began.nanoseconds.to_le_bytes()) }
    }

    fn write(&self, into: &mut [u8; 40]) {
        into[..8].copy_from_slice(&self.size.to_le_bytes());
        into[8..16].copy_from_slice(&self.modified.seconds.to_le_bytes());
        into[16..20].copy_from_slice(&self.modified.nanoseconds.to_le_bytes());
        into[20..28].copy_from_slice(&self.changed.seconds.to_le_bytes());
        into[28..32].copy_from_slice(&self.changed.nanoseconds.to_le_bytes());
        into[32..].copy_from_slice(&self.inode.to_le_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            size: reader.u64()?,
            modified: reader.moment()?,
            changed: reader.moment()?,
            inode: reader.u64()?,
        })
    }
}

impl Mode {
    /// As it stands in a tree.
    pub(super) fn text(self) -> &'static [u8] {
        match self {
            Self::Plain => b"100644",
            Self::Executable => b"100755",
            Self::Symlink => b"120000",
        }
    }
}

impl Index {
    /// Reads one that was written whole; anything else is as if there were none.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let end = bytes.len().checked_sub(TRAILER_BYTES)?;
        if bytes.len() as u64 > MAX_INDEX_BYTES || !bytes.starts_with(MAGIC) {
            return None;
        }
        let (content, sum) = bytes.split_at(bytes.len() - 8);
        if digest(0, content).to_le_bytes() != sum {
            return None;
        }
        let mut trailer = Reader(&bytes[end..]);
        let (root, began) = (trailer.u32()?, trailer.moment()?);
        let anchor = Anchor { commit: trailer.oid()?, at_ms: trailer.u64()? };
        Some(Self { bytes, root, began, anchor })
    }

    /// The record of the worktree itself.
    pub(super) fn root(&self) -> Option<Folder<'_>> {
        self.folder(self.root)
    }

    /// Bytes of it.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Another one.
    pub(super) fn folder(&self, at: u32) -> Option<Folder<'_>> {
        let mut reader = Reader(self.bytes.get(at as usize..self.bytes.len() - TRAILER_BYTES)?);
        let (tree, rules, stored, left) = (reader.oid()?, reader.u64()?, reader.u8()? != 0, reader.u32()?);
        Some(Folder { bytes: reader.0, tree, rules, stored, left })
    }
}

impl<'a> Folder<'a> {
    /// The next entry, by name. Damage ends the list: what is not in it is looked at anew.
    pub(super) fn next(&mut self) -> Option<(&'a [u8], Known)> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader(self.bytes);
        let (kind, length) = (reader.u8()?, reader.u16()?);
        let name = reader.take(usize::from(length))?;
        let known = match kind {
            0 => Known::File(Mode::Plain, reader.oid()?, Marks::read(&mut reader)?),
            1 => Known::File(Mode::Executable, reader.oid()?, Marks::read(&mut reader)?),
            2 => Known::File(Mode::Symlink, reader.oid()?, Marks::read(&mut reader)?),
            3 | 4 => Known::Folder(reader.u32()?, kind == 4),
            5 => Known::Link(reader.oid()?, reader.u32()?),
            6 | 7 => Known::Ignored(kind == 7),
            _ => return None,
        };
        self.bytes = reader.0;
        Some((name, known))
    }
}

impl Record {
    /// Adds an entry. They come by name.
    pub(super) fn add(&mut self, name: &[u8], known: &Known) {
        let kind = match known {
            Known::File(mode, ..) => *mode as u8,
            Known::Folder(_, tracked_only) => 3 + u8::from(*tracked_only),
            Known::Link(..) => 5,
            Known::Ignored(is_folder) => 6 + u8::from(*is_folder),
        };
        // The kernel's names have at most 255 bytes.
        let length = u16::try_from(name.len()).unwrap_or_default();
        self.entries.push(kind);
        self.entries.extend_from_slice(&length.to_le_bytes());
        self.entries.extend_from_slice(&name[..usize::from(length)]);
        match known {
            Known::File(_, oid, marks) => {
                let mut bytes = [0; 40];
                marks.write(&mut bytes);
                self.entries.extend_from_slice(oid.as_bytes());
                self.entries.extend_from_slice(&bytes);
            }
            Known::Folder(at, _) => self.entries.extend_from_slice(&at.to_le_bytes()),
            Known::Link(oid, at) => {
                self.entries.extend_from_slice(oid.as_bytes());
                self.entries.extend_from_slice(&at.to_le_bytes());
            }
            Known::Ignored(_) => {}
        }
        self.count += 1;
    }
}

impl Builder {
    pub(super) fn new(expected: usize) -> Self {
        let mut bytes = Vec::with_capacity(expected);
        bytes.extend_from_slice(MAGIC);
        Self(bytes)
    }

    /// Adds a folder whose own folders are there already, and says where it is.
    pub(super) fn folder(&mut self, record: &Record, tree: Oid, rules: u64, stored: bool) -> u32 {
        // Larger ones are refused when they are finished.
        let at = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(tree.as_bytes());
        self.0.extend_from_slice(&rules.to_le_bytes());
        self.0.push(u8::from(stored));
        self.0.extend_from_slice(&record.count.to_le_bytes());
        self.0.extend_from_slice(&record.entries);
        at
    }

    /// The file's content; `None` where it would be too large to be read again.
    pub(super) fn finish(mut self, root: u32, began: Moment, anchor: Anchor) -> Option<Vec<u8>> {
        self.0.extend_from_slice(&root.to_le_bytes());
        self.0.extend_from_slice(&began.seconds.to_le_bytes());
        self.0.extend_from_slice(&began.nanoseconds.to_le_bytes());
        self.0.extend_from_slice(anchor.commit.as_bytes());
        self.0.extend_from_slice(&anchor.at_ms.to_le_bytes());
        let sum = digest(0, &self.0);
        self.0.extend_from_slice(&sum.to_le_bytes());
        (self.0.len() as u64 <= MAX_INDEX_BYTES).then_some(self.0)
    }
}

/// Tells accidents, not forgers: whoever can write the file is whose work it is about.
pub(super) fn digest(seed: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        sum = (sum ^ word).wrapping_mul(FACTOR).rotate_left(29);
    }
    for byte in words.remainder() {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(FACTOR).rotate_left(29);
    }
    sum ^ (sum >> 32)
}

/// Takes from the front, never beyond the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn moment(&mut self) -> Option<Moment> {
        Some(Moment { seconds: self.array().map(i64::from_le_bytes)?, nanoseconds: self.u32()? })
    }

    fn oid(&mut self) -> Option<Oid> {
        Oid::from_bytes(self.take(OID_BYTES)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: u32) -> Moment {
        Moment { seconds, nanoseconds }
    }

    /// A change within the tick of the clock in which the last look began has the same marks as one before it.
    #[test]
    fn what_was_written_just_before_a_look_is_read_again() {
        let marks = |modified, changed| Marks { size: 1, modified, changed, inode: 1 };
        assert!(marks(at(5, 0), at(5, 1)).is_settled(at(5, 2)));
        assert!(!marks(at(5, 0), at(5, 2)).is_settled(at(5, 2)));
        assert!(!marks(at(5, 3), at(5, 1)).is_settled(at(5, 2)));
        assert!(!marks(at(9, 0), at(5, 1)).is_settled(at(5, 2)), "from a clock that was ahead");
        // The same for files with rules in them.
        let rules = |changed| marks(at(0, 0), changed).rules(0, at(7, 3));
        assert_eq!(rules(at(7, 2)), marks(at(0, 0), at(7, 2)).rules(0, at(8, 4)));
        assert_ne!(rules(at(7, 3)), marks(at(0, 0), at(7, 3)).rules(0, at(8, 4)));
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_not() {
        let oid = Oid::from_bytes(&[7; 20]).unwrap();
        let known = [
            Known::File(Mode::Executable, oid, Marks { size: 1, inode: 2, ..Marks::default() }),
            Known::Folder(8, true),
            Known::Link(oid, 8),
            Known::Ignored(false),
        ];
        let mut builder = Builder::new(0);
        let mut record = Record::default();
        for (name, known) in [&b"a"[..], b"b\xff", b"c", b""].into_iter().zip(&known) {
            record.add(name, known);
        }
        let root = builder.folder(&record, oid, 9, true);
        let anchor = Anchor { commit: oid, at_ms: 3 };
        let bytes = builder.finish(root, at(1, 2), anchor).unwrap();
        let index = Index::parse(bytes.clone()).unwrap();
        assert_eq!((index.began, index.anchor), (at(1, 2), anchor));
        let mut folder = index.root().unwrap();
        assert_eq!((folder.tree, folder.rules, folder.stored), (oid, 9, true));
        let read: Vec<_> = std::iter::from_fn(|| folder.next()).collect();
        assert_eq!(read.iter().map(|(_, known)| *known).collect::<Vec<_>>(), known);
        assert_eq!(read[1].0, b"b\xff");
        for end in 0..bytes.len() {
            assert!(Index::parse(bytes[..end].to_vec()).is_none(), "{end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Index::parse(bad).is_none(), "{bit}");
        }
        // One that somebody forged is read without harm.
        for at in 0..bytes.len() - 8 {
            let mut forged = bytes[..bytes.len() - 8].to_vec();
            forged[at] = 0xff;
            let sum = digest(0, &forged);
            forged.extend_from_slice(&sum.to_le_bytes());
            if let Some(index) = Index::parse(forged)
                && let Some(mut folder) = index.root()
            {
                assert!(std::iter::from_fn(|| folder.next()).count() < 100);
            }
        }
    }
}
