//! Objects that came and objects that are here, read without a process: raw bytes by libgit2, taken apart by ourselves.
//!
//! What came was hashed and checked by `git index-pack --strict` before anything is read here. Whatever is too large, too
//! odd or not there is `None`: then git is asked, which has its own limits.

use git2::{ObjectType, Odb, OdbLookupFlags, Oid};

use super::{home::HomeRepository, library, quarantine::Quarantine};

/// Largest commit, tag or folder that is read here, bytes.
const MAX_READ_BYTES: usize = 16 * 1024 * 1024;

/// Both sides.
pub(crate) struct Objects<'a> {
    came: Odb<'a>,
    home: Odb<'a>,
}

/// Which side something is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It came.
    Came,
    /// It was here.
    Home,
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A folder.
    Tree,
    /// A file.
    File,
    /// A symbolic link.
    Link,
    /// A commit of another repository.
    Submodule,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Whether it can be run; of files alone.
    pub(crate) mode: u32,
    pub(crate) id: Oid,
}

/// What a commit needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) tree: Oid,
    pub(crate) parents: Vec<Oid>,
}

impl<'a> Objects<'a> {
    /// Both, where libgit2 can read them.
    pub(crate) fn of(home: &'a HomeRepository, quarantine: &Quarantine) -> Option<Self> {
        let came = library::objects_in(&quarantine.objects())?;
        Some(Self { came, home: home.library.as_ref()?.objects()? })
    }

    /// Where an object of this type is.
    pub(crate) fn side(&self, id: Oid, kind: ObjectType) -> Option<Side> {
        let (side, odb) = self.find(id)?;
        let (_, found) = odb.read_header(id).ok()?;
        (found == kind).then_some(side)
    }

    /// A folder.
    pub(crate) fn tree(&self, id: Oid) -> Option<Vec<Entry>> {
        entries(&self.read(id, ObjectType::Tree, MAX_READ_BYTES)?.0)
    }

    /// A commit, and where it is.
    pub(crate) fn commit(&self, id: Oid) -> Option<(Commit, Side)> {
        let (bytes, side) = self.read(id, ObjectType::Commit, MAX_READ_BYTES)?;
        Some((commit(&bytes)?, side))
    }

    /// What a tag is put on, and whether that is a commit.
    pub(crate) fn tag(&self, id: Oid) -> Option<(Oid, Vec<u8>)> {
        let (bytes, _) = self.read(id, ObjectType::Tag, MAX_READ_BYTES)?;
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let target = oid(lines.next()?.strip_prefix(b"object ")?)?;
        Some((target, lines.next()?.strip_prefix(b"type ")?.to_vec()))
    }

    /// The content of a file that is no larger than this.
    pub(crate) fn file(&self, id: Oid, most: usize) -> Option<Vec<u8>> {
        Some(self.read(id, ObjectType::Blob, most)?.0)
    }

    /// What came comes first: of the same name, it is the same.
    fn find(&self, id: Oid) -> Option<(Side, &Odb<'a>)> {
        // Nobody adds to them meanwhile that we would wait for.
        let has = |odb: &Odb<'_>| odb.exists_ext(id, OdbLookupFlags::NO_REFRESH);
        if has(&self.came) {
            return Some((Side::Came, &self.came));
        }
        has(&self.home).then_some((Side::Home, &self.home))
    }

    fn read(&self, id: Oid, kind: ObjectType, most: usize) -> Option<(Vec<u8>, Side)> {
        let (side, odb) = self.find(id)?;
        // Nothing is unpacked before it is known how large it becomes.
        let (bytes, found) = odb.read_header(id).ok()?;
        if found != kind || bytes > most {
            return None;
        }
        Some((odb.read(id).ok()?.data().to_vec(), side))
    }
}

/// Its first lines: the tree, and then the parents.
fn commit(bytes: &[u8]) -> Option<Commit> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let tree = oid(lines.next()?.strip_prefix(b"tree ")?)?;
    let parents = lines.map_while(|line| line.strip_prefix(b"parent ")).map(oid).collect::<Option<_>>()?;
    Some(Commit { tree, parents })
}

/// `MODE NAME<nul>ID`, one after the other.
fn entries(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let nul = bytes.iter().position(|byte| *byte == 0)?;
        let mode = u32::from_str_radix(std::str::from_utf8(&bytes[..space]).ok()?, 8).ok()?;
        // Git takes what it does not know for one of these; that is left to git.
        let kind = match mode & 0o170_000 {
            0o040_000 => Kind::Tree,
            0o100_000 => Kind::File,
            0o120_000 => Kind::Link,
            0o160_000 => Kind::Submodule,
            _ => return None,
        };
        let name = bytes.get(space + 1..nul)?.to_vec();
        let (id, rest) = bytes[nul + 1..].split_at_checked(20)?;
        entries.push(Entry { name, kind, mode, id: Oid::from_bytes(id).ok()? });
        bytes = rest;
    }
    Some(entries)
}

fn oid(hex: &[u8]) -> Option<Oid> {
    let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 40)?;
    Oid::from_str(hex).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn lines_of_a_commit() {
        let id = Oid::from_str(ID).unwrap();
        let text = format!("tree {ID}\nparent {ID}\nparent {ID}\nauthor x\n\nparent {ID}\n");
        assert_eq!(commit(text.as_bytes()), Some(Commit { tree: id, parents: vec![id, id] }));
        for wrong in ["", "tree 12\n", &format!("parent {ID}\n"), &format!("tree {ID}\nparent x\n")] {
            assert_eq!(commit(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn entries_of_a_folder() {
        let entry =
            |mode: &str, name: &str| [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[7; 20]].concat();
        let folder =
            [entry("40000", "a b"), entry("100755", "c"), entry("160000", "d"), entry("120000", "e")];
        let read = entries(&folder.concat()).unwrap();
        let kinds: Vec<_> = read.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Tree, Kind::File, Kind::Submodule, Kind::Link]);
        assert_eq!((&read[0].name[..], read[1].mode), (&b"a b"[..], 0o100_755));
        for cut in 1..folder[0].len() {
            assert_eq!(entries(&folder[0][..cut]), None);
        }
        assert_eq!(entries(&entry("777", "x")), None);
    }
}
