//! What a merge changes: paths with what stands there before and after.

use std::collections::BTreeMap;

use git2::{AttrCheckFlags, Commit, Index, ObjectType, Oid, Repository, Tree};

use super::{MAX_MERGED_BYTES, MAX_MERGED_FILES, MergeError, unable};
use crate::repo::check::MAX_PATH_DEPTH;

/// What a path is in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mode: u32,
    pub(super) id: Oid,
}

/// A path that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: Vec<u8>,
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
}

/// Modes of a tree's entries.
pub(super) const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;
const EXECUTABLE: u32 = 0o100_755;

impl Entry {
    pub(super) fn is_link(&self) -> bool {
        self.mode == LINK
    }

    pub(super) fn is_submodule(&self) -> bool {
        self.mode == SUBMODULE
    }

    pub(super) fn is_executable(&self) -> bool {
        self.mode == EXECUTABLE
    }
}

/// Refuses a tree that unfolds to more files than a person could have: the same folder can be in it any number of times, which
/// costs the agent nothing and a list of all files everything.
pub(super) fn check_size(repository: &Repository, tree: &Tree<'_>) -> Result<(), MergeError> {
    unfolded(repository, tree, 0, &mut BTreeMap::new()).map(drop)
}

fn unfolded(
    repository: &Repository,
    tree: &Tree<'_>,
    depth: usize,
    known: &mut BTreeMap<Oid, u64>,
) -> Result<u64, MergeError> {
    if let Some(count) = known.get(&tree.id()) {
        return Ok(*count);
    }
    let mut count = 0_u64;
    for entry in tree {
        count = count.saturating_add(match entry.kind() {
            Some(ObjectType::Tree) if depth < MAX_PATH_DEPTH => {
                let tree = repository.find_tree(entry.id()).map_err(unable)?;
                unfolded(repository, &tree, depth + 1, known)?
            }
            Some(ObjectType::Tree) => MAX_MERGED_FILES + 1,
            _ => 1,
        });
        if count > MAX_MERGED_FILES {
            return Err(MergeError::Unable(format!("it has more than {MAX_MERGED_FILES} files")));
        }
    }
    known.insert(tree.id(), count);
    Ok(count)
}

/// A tree as an index.
pub(super) fn of_tree(tree: &Tree<'_>) -> Result<Index, MergeError> {
    let mut index = Index::new().map_err(unable)?;
    index.read_tree(tree).map_err(unable)?;
    Ok(index)
}

/// Everything that differs, by path.
pub(super) fn between(old: &Index, new: &Index) -> Result<Vec<Change>, MergeError> {
    let mut changes: BTreeMap<Vec<u8>, (Option<Entry>, Option<Entry>)> = BTreeMap::new();
    for entry in old.iter() {
        changes.entry(entry.path).or_default().0 = Some(Entry { mode: entry.mode, id: entry.id });
    }
    for entry in new.iter() {
        changes.entry(entry.path).or_default().1 = Some(Entry { mode: entry.mode, id: entry.id });
    }
    let changed = changes.into_iter().filter(|(_, (old, new))| old != new);
    let changed: Vec<Change> = changed.map(|(path, (old, new))| Change { path, old, new }).collect();
    for change in &changed {
        if !is_safe(&change.path) {
            let path = String::from_utf8_lossy(&change.path).into_owned();
            return Err(MergeError::Unable(format!("the path `{path}` is not safe")));
        }
        let is_submodule = |entry: Option<Entry>| entry.is_some_and(|entry| entry.is_submodule());
        if is_submodule(change.old) != is_submodule(change.new)
            && change.old.is_some()
            && change.new.is_some()
        {
            let path = String::from_utf8_lossy(&change.path).into_owned();
            return Err(MergeError::Unable(format!("`{path}` becomes a submodule or stops being one")));
        }
    }
    Ok(changed)
}

/// Whether a path can only lie in the working tree. `index-pack --strict` has refused what is not; this is not about that.
fn is_safe(path: &[u8]) -> bool {
    let is_git = |part: &[u8]| {
        part.split_at_checked(4).is_some_and(|(name, rest)| {
            name.eq_ignore_ascii_case(b".git") && rest.iter().all(|byte| matches!(byte, b' ' | b'.'))
        })
    };
    path.split(|byte| *byte == b'/').all(|part| {
        !matches!(part, b"" | b"." | b"..") && !is_git(part) && !part.eq_ignore_ascii_case(b"git~1")
    })
}

/// Refuses where both sides changed a file in a way that only git can merge: with a driver of the person's, or large.
pub(super) fn check_both(
    memory: &Repository,
    ours: &Commit<'_>,
    theirs: &Commit<'_>,
) -> Result<(), MergeError> {
    let base = memory.merge_base(ours.id(), theirs.id()).and_then(|base| memory.find_commit(base));
    let [base, ours, theirs] = [&base.map_err(unable)?, ours, theirs].map(|commit| {
        let tree = commit.tree().map_err(unable)?;
        of_tree(&tree)
    });
    let (base, ours, theirs) = (base?, ours?, theirs?);
    let by_theirs: BTreeMap<Vec<u8>, Change> =
        between(&base, &theirs)?.into_iter().map(|change| (change.path.clone(), change)).collect();
    let objects = memory.odb().map_err(unable)?;
    for our in between(&base, &ours)? {
        let Some(their) = by_theirs.get(&our.path).filter(|their| their.new != our.new) else { continue };
        let text = String::from_utf8_lossy(&our.path).into_owned();
        let sides = [our.old, our.new, their.new].into_iter().flatten().filter(|entry| !entry.is_submodule());
        for side in sides {
            let (bytes, _) = objects.read_header(side.id).map_err(unable)?;
            if bytes > MAX_MERGED_BYTES {
                return Err(MergeError::Unable(format!("both sides changed `{text}`, which is large")));
            }
        }
        let driver =
            memory.get_attr_bytes(std::path::Path::new(&text), "merge", AttrCheckFlags::FILE_THEN_INDEX);
        match git2::AttrValue::from_bytes(driver.map_err(unable)?) {
            git2::AttrValue::String(name) if !["text", "binary", "union"].contains(&name) => {
                return Err(MergeError::Unable(format!("`{text}` has a merge driver of its own, `{name}`")));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_unfolds_without_an_end_is_refused() {
        let temp = crate::sandbox::testing::TempDir::new();
        let repository = Repository::init_bare(temp.path().join("r")).unwrap();
        let blob = repository.blob(b"x").unwrap();
        let tree = |entries: &[(Oid, i32)]| {
            let mut builder = repository.treebuilder(None).unwrap();
            for (number, (id, mode)) in entries.iter().enumerate() {
                builder.insert(number.to_string(), *id, *mode).unwrap();
            }
            builder.write().unwrap()
        };
        let mut wide = tree(&[(blob, 0o100_644); 10]);
        let mut deep = wide;
        for level in 0..12 {
            let found = repository.find_tree(wide).unwrap();
            assert_eq!(check_size(&repository, &found).is_ok(), level < 6, "{level}");
            wide = tree(&[(wide, 0o040_000); 10]);
        }
        for _ in 0..=MAX_PATH_DEPTH {
            deep = tree(&[(deep, 0o040_000)]);
        }
        assert!(check_size(&repository, &repository.find_tree(deep).unwrap()).is_err());
    }

    #[test]
    fn paths_that_could_lie_elsewhere_are_refused() {
        for wrong in ["..", "a/../b", "/a", "a//b", "a/", ".git", "a/.GIT/x", ".git. /x", "GIT~1", ".", ""] {
            assert!(!is_safe(wrong.as_bytes()), "{wrong}");
        }
        for right in ["a", "a/b", ".github/x", ".gitignore", "git", "a/.gitmodules", "...", ".g", "x.git"] {
            assert!(is_safe(right.as_bytes()), "{right}");
        }
    }
}
