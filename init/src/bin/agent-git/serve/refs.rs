//! The refs of a repository, read from its files: each with its own name, in packed-refs, through symbolic ones.
//!
//! Links and what is no ordinary file are passed over, as is what git would not take for a ref. Nothing here can wait, and
//! nothing goes round in circles for ever.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    file,
    id::Id,
    place::Place,
    trouble::{Outcome, Trouble},
};

/// Refs of a repository.
const MAX_REFS: usize = 1_200_000;

/// All packed refs: each is a name and an object's.
const MAX_PACKED_BYTES: u64 = 512 << 20;

/// A ref's file: the name of an object, or of another ref.
const MAX_REF_BYTES: u64 = 8192;

/// The name of a ref; it has to fit into a packet.
pub(crate) const MAX_NAME_BYTES: usize = 4096;

/// Folders within folders below `refs`.
const MAX_DEPTH: usize = 64;

/// Symbolic refs to symbolic refs; git has the same bound.
const MAX_LINKS: usize = 5;

/// A ref that leads to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ref {
    pub(crate) id: Id,
    /// The ref that it leads to first, if it is a symbolic one.
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) peeled: Peel,
}

/// What is known of where a tag leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peel {
    /// Nothing.
    Unknown,
    /// It is no tag.
    NoTag,
    /// There.
    To(Id),
}

/// Everything that has a name.
#[derive(Debug, Default)]
pub(crate) struct Refs {
    /// Below `refs/`, by name.
    pub(crate) all: BTreeMap<Vec<u8>, Ref>,
    /// `HEAD`, if it leads to an object.
    pub(crate) head: Option<Ref>,
    /// The branch that `HEAD` names, whether there is one or not.
    pub(crate) head_target: Option<Vec<u8>>,
}

/// What a ref's file says.
enum Value {
    Object(Id),
    Ref(Vec<u8>),
}

impl Refs {
    /// Reads all of them.
    pub(crate) fn read(place: &Place) -> Outcome<Self> {
        let (mut all, mut symbolic) = (BTreeMap::new(), Vec::new());
        let mut reading = Reading { root: &place.common, all: &mut all, symbolic: &mut symbolic };
        reading.folder(&place.common.join("refs"), b"refs/", 0)?;
        // Behind the files: git writes a ref into packed-refs before it removes the file (git-pack-refs(1)).
        for (name, found) in packed(&place.common)? {
            all.entry(name).or_insert(found);
        }
        bound(all.len() + symbolic.len())?;
        let mut refs = Self { all, ..Self::default() };
        for (name, target) in symbolic {
            if let Some(id) = refs.resolve(&place.common, &target) {
                refs.all.insert(name, Ref { id, target: Some(target), peeled: Peel::Unknown });
            } else {
                refs.all.remove(&name);
            }
        }
        match value(&place.own.join("HEAD")) {
            Some(Value::Object(id)) => refs.head = Some(Ref { id, target: None, peeled: Peel::Unknown }),
            Some(Value::Ref(target)) => {
                let found = refs.resolve(&place.common, &target);
                refs.head = found.map(|id| Ref { id, target: Some(target.clone()), peeled: Peel::Unknown });
                refs.head_target = Some(target);
            }
            None => {}
        }
        Ok(refs)
    }

    /// The object that a name leads to.
    fn resolve(&self, root: &Path, name: &[u8]) -> Option<Id> {
        let mut name = name.to_vec();
        for _ in 0..MAX_LINKS {
            if !is_valid(&name) {
                return None;
            }
            match value(&join(root, &name)) {
                Some(Value::Object(id)) => return Some(id),
                Some(Value::Ref(next)) => name = next,
                None => return self.all.get(&name).map(|found| found.id),
            }
        }
        None
    }

    /// The object of a ref.
    pub(crate) fn get(&self, name: &[u8]) -> Option<Id> {
        self.all.get(name).map(|found| found.id)
    }
}

struct Reading<'a> {
    root: &'a Path,
    all: &'a mut BTreeMap<Vec<u8>, Ref>,
    symbolic: &'a mut Vec<(Vec<u8>, Vec<u8>)>,
}

impl Reading<'_> {
    /// Everything in a folder whose refs begin with `prefix`.
    fn folder(&mut self, folder: &Path, prefix: &[u8], depth: usize) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if file::is_absent(&error) => return Ok(()),
            Err(error) => return Err(reading(&error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| reading(&error))?;
            let Ok(kind) = entry.file_type() else { continue };
            let mut name = prefix.to_vec();
            name.extend_from_slice(entry.file_name().as_bytes());
            if name.len() > MAX_NAME_BYTES {
                continue;
            }
            if kind.is_dir() {
                name.push(b'/');
                self.folder(&entry.path(), &name, depth + 1)?;
            } else if kind.is_file() && is_valid(&name) {
                match value(&join(self.root, &name)) {
                    Some(Value::Object(id)) => {
                        self.all.insert(name, Ref { id, target: None, peeled: Peel::Unknown });
                    }
                    Some(Value::Ref(target)) => self.symbolic.push((name, target)),
                    None => {}
                }
                bound(self.all.len() + self.symbolic.len())?;
            }
        }
        Ok(())
    }
}

/// What stands in packed-refs.
fn packed(root: &Path) -> Outcome<BTreeMap<Vec<u8>, Ref>> {
    let bytes = file::read(&root.join("packed-refs"), MAX_PACKED_BYTES).map_err(|error| reading(&error))?;
    let bytes = bytes.unwrap_or_default();
    let mut sorted: Vec<(Vec<u8>, Ref)> = Vec::new();
    let mut is_peeled = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(says) = line.strip_prefix(b"# pack-refs with:") {
            is_peeled = says.split(|byte| *byte == b' ').any(|word| word == b"fully-peeled");
        } else if let Some(peeled) = line.strip_prefix(b"^") {
            if let (Some(id), Some((_, last))) = (Id::from_hex(peeled), sorted.last_mut()) {
                last.peeled = Peel::To(id);
            }
        } else if line.len() > 41 && line.len() <= 41 + MAX_NAME_BYTES && line[40] == b' ' {
            let (Some(id), name) = (Id::from_hex(&line[..40]), &line[41..]) else { continue };
            if is_valid(name) && !id.is_zero() {
                let peeled = if is_peeled { Peel::NoTag } else { Peel::Unknown };
                sorted.push((name.to_vec(), Ref { id, target: None, peeled }));
                bound(sorted.len())?;
            }
        }
    }
    Ok(sorted.into_iter().collect())
}

fn bound(count: usize) -> Outcome<()> {
    if count > MAX_REFS {
        return Err(Trouble::said(format!("the repository inside has more than {MAX_REFS} refs")));
    }
    Ok(())
}

/// What a ref's file says; `None` where it says nothing that makes sense.
fn value(path: &Path) -> Option<Value> {
    let found = fs::symlink_metadata(path).ok()?;
    if !found.is_file() {
        return None;
    }
    let bytes = file::read(path, MAX_REF_BYTES).ok()??;
    let text = bytes.trim_ascii();
    if let Some(name) = text.strip_prefix(b"ref:") {
        return Some(Value::Ref(name.trim_ascii().to_vec()));
    }
    // What stands behind the name is git's own affair, as in FETCH_HEAD.
    let id = Id::from_hex(text.get(..40)?)?;
    let is_end = text.get(40).is_none_or(u8::is_ascii_whitespace);
    (is_end && !id.is_zero()).then_some(Value::Object(id))
}

fn join(root: &Path, name: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(name))
}

fn reading(error: &io::Error) -> Trouble {
    Trouble::reading("the refs", error)
}

/// Whether git would take it for the name of a ref (git-check-ref-format(1)); all of them begin with `refs/`.
pub(crate) fn is_valid(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"refs/") else { return false };
    let bad = |byte: &u8| byte.is_ascii_control() || b" ~^:?*[\\".contains(byte);
    let part_is_valid = |part: &[u8]| {
        !part.is_empty()
            && !part.starts_with(b".")
            && !part.ends_with(b".lock")
            && !part.windows(2).any(|pair| pair == b".." || pair == b"@{")
    };
    name.len() <= MAX_NAME_BYTES
        && !name.iter().any(bad)
        && !name.ends_with(b".")
        && rest.split(|byte| *byte == b'/').all(part_is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::Folder;
    use std::os::unix::fs::symlink;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn repository() -> (Folder, Place) {
        let folder = Folder::new();
        let root = folder.path().to_owned();
        fs::create_dir_all(root.join("refs/heads/a")).unwrap();
        (folder, Place { own: root.clone(), common: root })
    }

    #[test]
    fn what_is_packed_meanwhile_is_not_missed() {
        use std::fmt::Write as _;
        use std::sync::atomic::{AtomicUsize, Ordering};
        const REFS: usize = 300;
        let (folder, place) = repository();
        let root = folder.path();
        let put = |name: &str, text: &str| {
            fs::write(root.join("new"), text).unwrap();
            fs::rename(root.join("new"), root.join(name)).unwrap();
        };
        let there = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut all = String::new();
                for number in 0..REFS {
                    let name = format!("refs/heads/a/{number:03}");
                    put(&name, ONE);
                    there.store(number + 1, Ordering::SeqCst);
                    writeln!(all, "{ONE} {name}").unwrap();
                    put("packed-refs", &all);
                    fs::remove_file(root.join(&name)).unwrap();
                }
            });
            while there.load(Ordering::SeqCst) < REFS {
                let count = there.load(Ordering::SeqCst);
                let refs = Refs::read(&place).unwrap();
                assert!(refs.all.len() >= count, "{} of {count}", refs.all.len());
            }
        });
    }

    #[test]
    fn names_are_those_that_git_takes() {
        for good in ["refs/heads/main", "refs/x", "refs/heads/ä/-x", "refs/heads/@", "refs/heads/a.b"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "HEAD",
            "refs",
            "refs/",
            "refs//x",
            "refs/x/",
            "refs/.x",
            "refs/x.lock",
            "refs/x.lock/y",
            "refs/a..b",
            "refs/a@{b",
            "refs/a b",
            "refs/a\x7f",
            "refs/a\n",
            "refs/a\\b",
            "refs/a.",
            "refs/../x",
            "refs/a:b",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn files_come_before_what_is_packed_and_symbolic_refs_are_followed() {
        let (folder, place) = repository();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "packed-refs",
            &format!(
                "# pack-refs with: peeled fully-peeled sorted \n{ONE} refs/heads/main\n{ONE} refs/tags/v\n^{TWO}\nx\n"
            ),
        );
        write("refs/heads/main", &format!("{TWO}\n"));
        write("refs/heads/a/b", "ref: refs/heads/main\n");
        write("refs/heads/dangling", "ref: refs/heads/none");
        write("refs/heads/self", "ref: refs/heads/self");
        write("refs/heads/broken", "hello");
        write("refs/heads/x.lock", ONE);
        write("HEAD", "ref: refs/heads/a/b");
        let refs = Refs::read(&place).unwrap();
        let names: Vec<_> = refs.all.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["refs/heads/a/b", "refs/heads/main", "refs/tags/v"]);
        assert_eq!(refs.get(b"refs/heads/a/b").unwrap().to_string(), TWO);
        assert_eq!(refs.head.unwrap().target.unwrap(), b"refs/heads/a/b");
        assert_eq!(refs.all[&b"refs/tags/v"[..]].peeled, Peel::To(Id::from_hex(TWO.as_bytes()).unwrap()));
    }

    #[test]
    fn what_is_no_ordinary_file_is_passed_over() {
        let (folder, place) = repository();
        let at = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&at("refs/heads/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        nix::unistd::mkfifo(&at("HEAD"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", at("refs/heads/zero")).unwrap();
        symlink("..", at("refs/heads/up")).unwrap();
        fs::write(at("refs/heads/large"), vec![b'1'; 10_000]).unwrap();
        let refs = Refs::read(&place).unwrap();
        assert!(refs.all.is_empty() && refs.head.is_none());
        assert!(refs.head_target.is_none());
    }
}
