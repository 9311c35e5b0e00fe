//! Content becomes objects, as it is: no filter, no line ending, no attribute has a say.

use git2::{ObjectType, Odb, OdbLookupFlags, Oid};

use super::report::{Failure, Why};

/// Where objects go, and how much of them.
pub(super) struct Store<'r> {
    odb: Odb<'r>,
    left: u64,
    /// Bytes that were not there before.
    pub new_bytes: u64,
}

/// What became of a file.
pub(super) enum Put {
    Done(Oid),
    /// It is new, and there is no room for more that is.
    NoRoom,
}

impl<'r> Store<'r> {
    /// Takes at most this much that is new.
    pub(super) fn new(odb: Odb<'r>, most: u64) -> Self {
        Self { odb, left: most, new_bytes: 0 }
    }

    /// A file's content. What is only named is not written.
    pub(super) fn blob(&mut self, content: &[u8], write: bool) -> Result<Put, Failure> {
        let oid = Oid::hash_object(ObjectType::Blob, content)?;
        if !write || self.has(oid) {
            return Ok(Put::Done(oid));
        }
        let size = content.len() as u64;
        if size > self.left {
            return Ok(Put::NoRoom);
        }
        self.left -= size;
        self.new_bytes += size;
        self.write(ObjectType::Blob, content)?;
        Ok(Put::Done(oid))
    }

    /// A folder's tree, from entries in any order.
    pub(super) fn tree(&mut self, mut entries: Vec<TreeEntry<'_>>, write: bool) -> Result<Oid, Failure> {
        entries.sort_unstable_by(TreeEntry::order);
        let mut content = Vec::with_capacity(entries.iter().map(|entry| entry.name.len() + 28).sum());
        for entry in entries {
            content.extend_from_slice(entry.mode);
            content.push(b' ');
            content.extend_from_slice(entry.name);
            content.push(0);
            content.extend_from_slice(entry.oid.as_bytes());
        }
        let oid = Oid::hash_object(ObjectType::Tree, &content)?;
        if write && !self.has(oid) {
            self.write(ObjectType::Tree, &content)?;
        }
        Ok(oid)
    }

    /// A commit.
    pub(super) fn commit(&mut self, content: &[u8]) -> Result<Oid, Failure> {
        self.write(ObjectType::Commit, content)
    }

    /// A pack that came this moment is not looked for: that would be a look at the disk for each new object.
    fn has(&self, oid: Oid) -> bool {
        self.odb.exists_ext(oid, OdbLookupFlags::NO_REFRESH)
    }

    fn write(&mut self, kind: ObjectType, content: &[u8]) -> Result<Oid, Failure> {
        self.odb.write(kind, content).map_err(|error| {
            let full = ["No space left", "quota exceeded", "File too large"];
            let is_full = full.iter().any(|text| error.message().contains(text));
            let why = if is_full { Why::DiskFull } else { Why::Failed };
            Failure::new(why, format!("writing an object: {}", error.message()))
        })
    }
}

/// An entry of a tree.
pub(super) struct TreeEntry<'a> {
    pub mode: &'static [u8],
    pub name: &'a [u8],
    pub oid: Oid,
}

/// The mode of a folder, and of a submodule.
pub(super) const FOLDER: &[u8] = b"40000";
pub(super) const SUBMODULE: &[u8] = b"160000";

impl TreeEntry<'_> {
    /// Git's order: a folder as if its name ended with a slash.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let end = |entry: &Self| (entry.mode == FOLDER).then_some(b'/');
        let ours = self.name.iter().copied().chain(end(self));
        ours.cmp(other.name.iter().copied().chain(end(other)))
    }
}
