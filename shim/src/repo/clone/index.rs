//! A list of files as git writes it (gitformat-index(5), version 2): read for what a clone lacks, and given the owner that
//! files have inside.

use std::ops::Range;

use sha1::Digest;

use crate::repo::object_id::ObjectFormat;

/// Signature, version and number of entries.
const HEADER_BYTES: usize = 12;
const VERSION: u32 = 2;
/// Where in an entry is what.
const MODE: Range<usize> = 24..28;
const UID: Range<usize> = 28..32;
const GID: Range<usize> = 32..36;
/// Times, device, inode, mode, owner and size, before the object's name.
const STAT_BYTES: usize = 40;
const FLAGS_BYTES: usize = 2;
/// Every entry ends with zeros up to a multiple of this.
const ALIGNMENT: usize = 8;

/// The mode of a submodule.
pub(super) const SUBMODULE: u32 = 0o160_000;

/// An index file.
pub(super) struct IndexFile {
    bytes: Vec<u8>,
    format: ObjectFormat,
    /// Where its entries are, and their paths.
    entries: Vec<(usize, Range<usize>)>,
}

impl IndexFile {
    /// Reads one that git has just written; `None` for what it does not write.
    pub(super) fn parse(bytes: Vec<u8>, format: ObjectFormat) -> Option<Self> {
        let (id_bytes, hash_bytes) = match format {
            ObjectFormat::Sha1 => (20, 20),
            ObjectFormat::Sha256 => (32, 32),
        };
        let end = bytes.len().checked_sub(hash_bytes)?;
        let number = |at: Range<usize>| Some(u32::from_be_bytes(bytes.get(at)?.try_into().ok()?));
        if bytes.get(..4)? != b"DIRC" || number(4..8)? != VERSION {
            return None;
        }
        let count = usize::try_from(number(8..12)?).ok()?;
        let fixed = STAT_BYTES + id_bytes + FLAGS_BYTES;
        // Each takes more than its fixed part, so that a wrong count sets no memory aside.
        let mut entries = Vec::with_capacity(count.min(end / fixed));
        let mut at = HEADER_BYTES;
        for _ in 0..count {
            let path = at + fixed;
            let length = bytes.get(path..end)?.iter().position(|byte| *byte == 0)?;
            entries.push((at, path..path + length));
            at += (fixed + length + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        }
        (at <= end).then_some(Self { bytes, format, entries })
    }

    /// The mode and path of every entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.entries.iter().map(|(at, path)| {
            let mode = self.bytes[at + MODE.start..at + MODE.end].try_into().map_or(0, u32::from_be_bytes);
            (mode, &self.bytes[path.clone()])
        })
    }

    /// The same file with another owner of everything.
    ///
    /// Git takes a file whose owner is another for one that has changed, and reads it: inside, that would be all of them.
    pub(super) fn owned_by(mut self, user: u32) -> Vec<u8> {
        for (at, _) in &self.entries {
            for field in [UID, GID] {
                self.bytes[at + field.start..at + field.end].copy_from_slice(&user.to_be_bytes());
            }
        }
        let hash = |bytes: &[u8]| match self.format {
            ObjectFormat::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            ObjectFormat::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
        };
        let content = self.bytes.len() - hash(b"").len();
        let sum = hash(&self.bytes[..content]);
        self.bytes[content..].copy_from_slice(&sum);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(paths: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = b"DIRC\0\0\0\x02".to_vec();
        bytes.extend(u32::try_from(paths.len()).unwrap().to_be_bytes());
        for (path, mode) in paths {
            let begin = bytes.len();
            bytes.extend([7; 24]);
            bytes.extend(mode.to_be_bytes());
            bytes.extend([7; 12 + 20 + 2]);
            bytes.extend(path.as_bytes());
            bytes.push(0);
            while !(bytes.len() - begin).is_multiple_of(ALIGNMENT) {
                bytes.push(0);
            }
        }
        bytes.extend(b"TREE\0\0\0\x01x");
        let sum = sha1::Sha1::digest(&bytes);
        bytes.extend(sum);
        bytes
    }

    #[test]
    fn entries_are_found_and_owned() {
        for path in ["a", "ab/cd", "123456", "1234567", "12345678"] {
            let bytes = sample(&[(path, 0o100_644), ("sub", SUBMODULE)]);
            let index = IndexFile::parse(bytes.clone(), ObjectFormat::Sha1).unwrap();
            let entries: Vec<_> = index.entries().collect();
            assert_eq!(entries, [(0o100_644, path.as_bytes()), (SUBMODULE, &b"sub"[..])]);
            let owned = index.owned_by(1000);
            assert_eq!(owned.len(), bytes.len());
            assert_eq!(owned[HEADER_BYTES + UID.start..][..8], [0, 0, 3, 232, 0, 0, 3, 232]);
            assert_eq!(owned[owned.len() - 20..], sha1::Sha1::digest(&owned[..owned.len() - 20])[..]);
        }
    }

    #[test]
    fn what_git_does_not_write_is_not_read() {
        let whole = sample(&[("a", 0o100_644), ("b", 0o100_644)]);
        for length in 0..whole.len() {
            // It ends in extensions, whose absence nobody misses.
            drop(IndexFile::parse(whole[..length].to_vec(), ObjectFormat::Sha1));
        }
        let mut wrong = whole.clone();
        wrong[7] = 4;
        assert!(IndexFile::parse(wrong, ObjectFormat::Sha1).is_none());
        let mut wrong = whole;
        wrong[8..12].copy_from_slice(&[0xff; 4]);
        assert!(IndexFile::parse(wrong, ObjectFormat::Sha1).is_none());
    }
}
