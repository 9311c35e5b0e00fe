//! Refs that a server names, and where they go here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::object_id::{ObjectFormat, ObjectId};
use crate::{sandbox::name::Name, terminal::sanitize::sanitized};

/// Most refs that are taken from one repository.
pub(crate) const MAX_REFS: usize = 100_000;

/// Longest name of a ref, bytes. Each part is a file name for git, with `.lock` behind it for a while.
pub(crate) const MAX_REF_BYTES: usize = 1024;

const MAX_PART_BYTES: usize = 250;

/// What is asked for, and what it is called below `refs/agents/NAME/`. Everything else stays where it is.
const TAKEN: [(&str, &str); 6] = [
    ("refs/heads/", "heads/"),
    ("refs/tags/", "tags/"),
    ("refs/notes/", "notes/"),
    ("refs/agents/snapshots/", "snapshots/"),
    ("refs/agents/kept/", "kept/"),
    ("refs/stash", "stash"),
];

/// The checked-out commit, which no branch may hold.
pub(crate) const HEAD: &str = "HEAD";

/// A name that git allows (git-check-ref-format(1)), and not too long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(Vec<u8>);

/// A server's refs make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefError {
    /// Not what a server says about a ref.
    #[error("it names a ref in a way that nobody does")]
    Line,
    /// No name for a ref.
    #[error("it names a ref that cannot be: {0}")]
    Name(String),
    /// The same twice.
    #[error("it names {0} twice")]
    Twice(RefName),
    /// A name that is a folder of another one.
    #[error("it names both {0} and {1}")]
    Conflict(RefName, RefName),
    /// More than [`MAX_REFS`].
    #[error("it has more than {MAX_REFS} refs")]
    TooMany,
}

/// What a server has: names as they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Advertised {
    /// By name.
    pub refs: BTreeMap<RefName, ObjectId>,
    /// The branch that is checked out, where one is.
    pub head: Option<RefName>,
}

impl RefName {
    /// The name, if it is one.
    pub fn parse(name: &[u8]) -> Option<Self> {
        is_valid(name).then(|| Self(name.to_vec()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What follows a prefix.
    pub fn strip_prefix(&self, prefix: &str) -> Option<&[u8]> {
        self.0.strip_prefix(prefix.as_bytes())
    }

    /// Where a ref of the sandbox goes; `None` for what is not taken.
    pub fn at_home(&self, namespace: &str) -> Option<Self> {
        let below = |rest: &[u8], place: &str| {
            let mut name = format!("{namespace}{place}").into_bytes();
            name.extend_from_slice(rest);
            Self::parse(&name)
        };
        if self.0 == HEAD.as_bytes() {
            return below(b"", HEAD);
        }
        TAKEN.iter().find_map(|(from, to)| {
            let rest = self.strip_prefix(from)?;
            (rest.is_empty() != from.ends_with('/')).then(|| below(rest, to))?
        })
    }
}

/// For people: nothing in it controls a terminal.
impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sanitized(&self.0).fmt(f)
    }
}

impl fmt::Debug for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where everything of a sandbox goes, with a slash at its end. Not every name of a sandbox can stand in a ref; `%` is in
/// none of them.
pub(crate) fn namespace(name: &Name) -> String {
    let name = name.as_str();
    let part = if is_valid_part(name.as_bytes()) && !name.contains("..") && !name.ends_with('.') {
        name.to_owned()
    } else {
        name.replace('.', "%2e")
    };
    format!("refs/agents/{part}/")
}

/// What a server is asked to name.
pub(crate) fn prefixes() -> impl Iterator<Item = &'static str> {
    [HEAD].into_iter().chain(TAKEN.iter().map(|(from, _)| *from))
}

impl Advertised {
    /// Takes one line of a server's answer to `ls-refs`.
    pub(crate) fn add(&mut self, line: &[u8], format: ObjectFormat) -> Result<(), RefError> {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(RefError::Line) };
        let name = RefName::parse(name).ok_or_else(|| RefError::Name(sanitized(&cut(name)).to_string()))?;
        for word in words {
            let target = word.strip_prefix(b"symref-target:").filter(|_| name.0 == HEAD.as_bytes());
            if let Some(target) = target {
                self.head = RefName::parse(target);
            }
        }
        // A branch that has no commit yet.
        if id == b"unborn" {
            return Ok(());
        }
        let id = ObjectId::parse(id, format).ok_or(RefError::Line)?;
        if self.refs.len() >= MAX_REFS {
            return Err(RefError::TooMany);
        }
        match self.refs.insert(name.clone(), id) {
            None => Ok(()),
            Some(_) => Err(RefError::Twice(name)),
        }
    }

    /// Refuses refs of which one would be a file where another needs a folder.
    pub(crate) fn check(&self) -> Result<(), RefError> {
        let names: BTreeSet<&[u8]> = self.refs.keys().map(RefName::as_bytes).collect();
        for name in &names {
            if let Some(folder) = folders(name).find(|folder| names.contains(folder)) {
                return Err(RefError::Conflict(RefName(folder.to_vec()), RefName(name.to_vec())));
            }
        }
        Ok(())
    }
}

/// Every folder that a ref lies in, the outermost first.
pub(crate) fn folders(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &name[..at])
}

fn cut(name: &[u8]) -> &[u8] {
    &name[..name.len().min(100)]
}

fn is_valid(name: &[u8]) -> bool {
    let places = name == HEAD.as_bytes() || name.starts_with(b"refs/");
    let has = |text: &[u8]| name.windows(text.len()).any(|part| part == text);
    places
        && name.len() <= MAX_REF_BYTES
        && !has(b"..")
        && !has(b"@{")
        && !name.ends_with(b".")
        && name.split(|byte| *byte == b'/').all(is_valid_part)
}

fn is_valid_part(part: &[u8]) -> bool {
    let forbidden =
        |byte: &u8| matches!(byte, 0..=b' ' | 0x7f | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\');
    !part.is_empty()
        && part.len() <= MAX_PART_BYTES
        && !part.starts_with(b".")
        && !part.ends_with(b".lock")
        && !part.iter().any(forbidden)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn name(text: &str) -> RefName {
        RefName::parse(text.as_bytes()).unwrap()
    }

    fn home(text: &str) -> Option<String> {
        Some(name(text).at_home("refs/agents/web/")?.to_string())
    }

    #[test]
    fn names_that_git_would_not_make_are_refused() {
        let long = format!("refs/heads/{}", "a".repeat(300));
        for wrong in [
            "",
            "main",
            "refs/",
            "refs//a",
            "refs/heads/",
            "/refs/heads/a",
            "refs/heads/../x",
            "refs/heads/.x",
            "refs/heads/a.lock",
            "refs/heads/a.lock/b",
            "refs/heads/a b",
            "refs/heads/a\nb",
            "refs/heads/a\0",
            "refs/heads/a~1",
            "refs/heads/a^",
            "refs/heads/a:b",
            "refs/heads/a?",
            "refs/heads/*",
            "refs/heads/[",
            "refs/heads/a\\b",
            "refs/heads/a@{1}",
            "refs/heads/a.",
            "../../etc/passwd",
            "-x",
            "FETCH_HEAD",
            &long,
        ] {
            assert_eq!(RefName::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        for right in ["HEAD", "refs/heads/main", "refs/heads/-x", "refs/heads/ü/@", "refs/stash"] {
            assert!(RefName::parse(right.as_bytes()).is_some(), "{right}");
        }
    }

    #[test]
    fn everything_goes_below_the_sandboxes_own_place() {
        assert_eq!(home("refs/heads/a/b").as_deref(), Some("refs/agents/web/heads/a/b"));
        assert_eq!(home("refs/tags/v1").as_deref(), Some("refs/agents/web/tags/v1"));
        assert_eq!(home("HEAD").as_deref(), Some("refs/agents/web/HEAD"));
        assert_eq!(home("refs/stash").as_deref(), Some("refs/agents/web/stash"));
        for elsewhere in ["refs/remotes/origin/x", "refs/agents/web/heads/x", "refs/stash2", "refs/stash/x"] {
            assert_eq!(home(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_sandboxes_name_becomes_part_of_a_ref_whatever_it_is() {
        let place = |text: &str| namespace(&text.parse().unwrap());
        assert_eq!(place("web"), "refs/agents/web/");
        assert_eq!(place("a.b"), "refs/agents/a.b/");
        for odd in ["a..b", "a.lock", "a."] {
            let Ok(odd) = odd.parse::<Name>() else { continue };
            assert!(RefName::parse(format!("{}HEAD", namespace(&odd)).as_bytes()).is_some(), "{odd}");
        }
    }

    #[test]
    fn lines_of_a_server() {
        let mut refs = Advertised::default();
        let mut add = |line: &str| refs.add(line.as_bytes(), ObjectFormat::Sha1);
        add(&format!("{ID} HEAD symref-target:refs/heads/main")).unwrap();
        add(&format!("{ID} refs/heads/main")).unwrap();
        add("unborn HEAD symref-target:refs/heads/other").unwrap();
        assert_eq!(add(&format!("{ID} refs/heads/main")), Err(RefError::Twice(name("refs/heads/main"))));
        for wrong in ["", ID, "x refs/heads/a", &format!("{} refs/heads/a", "0".repeat(40))] {
            assert!(add(wrong).is_err(), "{wrong}");
        }
        assert_eq!(refs.head, Some(name("refs/heads/other")));
    }

    #[test]
    fn a_ref_in_the_way_of_another_is_refused() {
        let mut refs = Advertised::default();
        for line in ["refs/heads/a-b", "refs/heads/a", "refs/heads/a/b"] {
            refs.add(format!("{ID} {line}").as_bytes(), ObjectFormat::Sha1).unwrap();
        }
        assert!(matches!(refs.check(), Err(RefError::Conflict(..))));
        refs.refs.remove(&name("refs/heads/a"));
        refs.check().unwrap();
    }

    proptest! {
        #[test]
        fn nothing_leaves_the_sandboxes_own_place(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut text = b"refs/heads/".to_vec();
            text.extend(bytes);
            if let Some(at_home) = RefName::parse(&text).and_then(|name| name.at_home("refs/agents/web/")) {
                prop_assert!(at_home.as_bytes().starts_with(b"refs/agents/web/heads/"));
                prop_assert!(!at_home.as_bytes().windows(2).any(|pair| pair == b".." || pair == b"//"));
            }
        }

        #[test]
        fn whatever_a_server_says_is_a_ref_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Advertised::default().add(&line, ObjectFormat::Sha1);
        }
    }
}
