//! What is in objects, as far as it refers to others.

use std::cmp::Ordering;

use super::id::{ID_BYTES, Id};

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// What was committed, and after what.
    Commit,
    /// A folder.
    Tree,
    /// A file.
    Blob,
    /// A name for another object, with words.
    Tag,
}

impl Kind {
    /// As a pack has it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Commit => 1,
            Self::Tree => 2,
            Self::Blob => 3,
            Self::Tag => 4,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Commit, Self::Tree, Self::Blob, Self::Tag].into_iter().find(|kind| kind.number() == number)
    }

    /// As a loose object and a tag have it.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"commit" => Some(Self::Commit),
            b"tree" => Some(Self::Tree),
            b"blob" => Some(Self::Blob),
            b"tag" => Some(Self::Tag),
            _ => None,
        }
    }
}

/// A commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) tree: Id,
    pub(crate) parents: Box<[Id]>,
    /// When it was committed, in seconds; what is no number counts as long ago.
    pub(crate) date: i64,
}

impl Commit {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut lines = content.split(|byte| *byte == b'\n');
        let tree = Id::from_hex(lines.next()?.strip_prefix(b"tree ")?)?;
        let (mut parents, mut date) = (Vec::new(), 0);
        for line in lines.take_while(|line| !line.is_empty()) {
            if let Some(parent) = line.strip_prefix(b"parent ") {
                parents.push(Id::from_hex(parent)?);
            } else if let Some(who) = line.strip_prefix(b"committer ") {
                date = seconds(who).unwrap_or(0);
                break;
            }
        }
        Some(Self { tree, parents: parents.into(), date })
    }
}

/// The time in `Name <address> 1600000000 +0000`.
fn seconds(who: &[u8]) -> Option<i64> {
    let after = who.iter().rposition(|byte| *byte == b'>')? + 1;
    std::str::from_utf8(&who[after..]).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// What a tag names, and what kind it says that this is.
pub(crate) fn tagged(content: &[u8]) -> Option<(Id, Kind)> {
    let mut lines = content.split(|byte| *byte == b'\n');
    let id = Id::from_hex(lines.next()?.strip_prefix(b"object ")?)?;
    Some((id, Kind::named(lines.next()?.strip_prefix(b"type ")?)?))
}

/// One name in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) id: Id,
    /// A folder, a file, or a commit of another repository.
    pub(crate) kind: Kind,
}

/// The entries of a tree, to the first that is none; [`Entries::is_whole`] says whether that was the end.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    pub(crate) fn of(tree: &'a [u8]) -> Self {
        Self(tree)
    }

    /// After the last entry: whether everything was one.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        const FORMAT: u32 = 0o170_000;
        let space = self.0.iter().position(|byte| *byte == b' ')?;
        let (mode, rest) = (&self.0[..space], &self.0[space + 1..]);
        // One that is too large is no mode; what is left of it decides, as it does for git.
        let mode = mode.iter().try_fold(0_u32, |sum, digit| match digit {
            b'0'..=b'7' => Some(sum << 3 | u32::from(digit - b'0')),
            _ => None,
        })?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let id = Id::from_bytes(&rest[end + 1..])?;
        let kind = match mode & FORMAT {
            0o040_000 => Kind::Tree,
            0o160_000 => Kind::Commit,
            _ => Kind::Blob,
        };
        self.0 = &rest[end + 1 + ID_BYTES..];
        Some(Entry { name: &rest[..end], id, kind })
    }
}

/// The order of entries: the name of a folder counts as if it ended in a slash.
pub(crate) fn order(left: &Entry<'_>, right: &Entry<'_>) -> Ordering {
    let end = |entry: &Entry<'_>| (entry.kind == Kind::Tree).then_some(b'/');
    let bytes = |entry: &Entry<'_>| entry.name.len();
    let common = bytes(left).min(bytes(right));
    left.name[..common].cmp(&right.name[..common]).then_with(|| {
        let next = |entry: &Entry<'_>| entry.name.get(common).copied().or_else(|| end(entry));
        next(left).cmp(&next(right))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_commit_says_what_it_refers_to() {
        let text = format!(
            "tree {HEX}\nparent {HEX}\nauthor A <a> 1 +0\ncommitter B <b> 1600000000 +0100\n\nparent x"
        );
        let commit = Commit::parse(text.as_bytes()).unwrap();
        assert_eq!((commit.parents.len(), commit.date), (1, 1_600_000_000));
        assert_eq!(Commit::parse(b"tree x\n"), None);
        assert_eq!(Commit::parse(format!("tree {HEX}").as_bytes()).unwrap().date, 0);
        assert_eq!(Commit::parse(format!("tree {HEX}\ncommitter > -5").as_bytes()).unwrap().date, -5);
        assert_eq!(Commit::parse(format!("tree {HEX}\nparent 12\n").as_bytes()), None);
        assert_eq!(tagged(format!("object {HEX}\ntype tree\ntag x").as_bytes()).unwrap().1, Kind::Tree);
        assert_eq!(tagged(b"object"), None);
    }

    #[test]
    fn entries_are_read_until_one_is_none() {
        let mut tree = Vec::new();
        for (mode, name) in [("100644", "a"), ("40000", "b"), ("160000", "c")] {
            tree.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            tree.extend_from_slice(&[7; ID_BYTES]);
        }
        let mut entries = Entries::of(&tree);
        let kinds: Vec<_> = entries.by_ref().map(|entry| entry.kind).collect();
        assert_eq!((kinds, entries.is_whole()), (vec![Kind::Blob, Kind::Tree, Kind::Commit], true));
        for cut in 1..tree.len() {
            let mut entries = Entries::of(&tree[..cut]);
            let count = entries.by_ref().count();
            assert_eq!(entries.is_whole(), cut == 29 || cut == 57, "{cut} bytes, {count} entries");
        }
        assert_eq!(Entries::of(b"9 a\0aaaaaaaaaaaaaaaaaaaa").count(), 0);
        assert_eq!(
            Entries::of(b"70000000000000100644 a\0aaaaaaaaaaaaaaaaaaaa").next().unwrap().kind,
            Kind::Blob
        );
    }

    #[test]
    fn a_folder_is_ordered_as_if_it_ended_in_a_slash() {
        let entry = |name: &'static str, kind| Entry { name: name.as_bytes(), id: Id::ZERO, kind };
        let file = |name| entry(name, Kind::Blob);
        let folder = |name| entry(name, Kind::Tree);
        assert_eq!(order(&file("a.b"), &folder("a")), Ordering::Less);
        assert_eq!(order(&file("a0"), &folder("a")), Ordering::Greater);
        assert_eq!(order(&file("a"), &folder("a")), Ordering::Less);
        assert_eq!(order(&file("a"), &file("a")), Ordering::Equal);
        assert_eq!(order(&file("a"), &file("ab")), Ordering::Less);
    }
}
