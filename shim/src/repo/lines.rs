//! What two trees differ in, counted without a process.
//!
//! It is what `git diff --shortstat -M` counts, or `None` where only git can tell: a file that was perhaps renamed and
//! changed at once, a submodule, more or larger files than are read here.

use std::collections::HashMap;

use git2::{DiffOptions, Oid, Patch};

use super::{
    check::DiffStat,
    objects::{Entry, Kind, Objects},
};

/// Files that are compared; for more git is faster.
const MAX_FILES: usize = 500;

/// Largest file, and all of them together, bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;
const MAX_TOTAL_BYTES: usize = 16 * 1024 * 1024;

/// Folders that are opened.
const MAX_FOLDERS: usize = 5_000;

/// Where git looks for a zero byte, which makes a file binary.
const TEXT_BYTES: usize = 8000;

/// Counts what changed from `old` to `new`.
pub(crate) fn count(objects: &Objects<'_>, old: Oid, new: Oid) -> Option<DiffStat> {
    let mut difference = Difference { objects, changes: Vec::new(), folders: 0 };
    if old != new {
        difference.folders(Some(old), Some(new), 0)?;
    }
    let changes = without_renames(difference.changes)?;
    let (mut stat, mut total) = (changes.1, 0);
    for (old, new) in changes.0 {
        let mut content = |side: Option<File>| match side {
            None => Some(Vec::new()),
            Some((id, _)) => objects.file(id, MAX_FILE_BYTES).inspect(|bytes| total += bytes.len()),
        };
        let (old, new) = (content(old)?, content(new)?);
        if total > MAX_TOTAL_BYTES {
            return None;
        }
        let lines = lines(&old, &new)?;
        stat.files += 1;
        stat.insertions += lines.0;
        stat.deletions += lines.1;
    }
    Some(stat)
}

/// What stands in a file, and whether it is a link.
type File = (Oid, Kind);

/// A file before and after.
type Change = (Option<File>, Option<File>);

struct Difference<'a> {
    objects: &'a Objects<'a>,
    changes: Vec<Change>,
    folders: usize,
}

impl Difference<'_> {
    fn folders(&mut self, old: Option<Oid>, new: Option<Oid>, depth: usize) -> Option<()> {
        self.folders += 1;
        if self.folders > MAX_FOLDERS || depth > super::check::MAX_PATH_DEPTH {
            return None;
        }
        let read = |id: Option<Oid>| id.map_or(Some(Vec::new()), |id| self.objects.tree(id));
        let mut before: HashMap<Vec<u8>, Entry> =
            read(old)?.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let after = read(new)?;
        for entry in after {
            let old = before.remove(&entry.name);
            self.entry(old.as_ref(), Some(&entry), depth)?;
        }
        before.values().try_for_each(|entry| self.entry(Some(entry), None, depth))
    }

    fn entry(&mut self, old: Option<&Entry>, new: Option<&Entry>, depth: usize) -> Option<()> {
        if let (Some(old), Some(new)) = (old, new)
            && (old.id, old.mode) == (new.id, new.mode)
        {
            return Some(());
        }
        if [old, new].into_iter().flatten().any(|entry| entry.kind == Kind::Submodule) {
            return None;
        }
        let tree = |entry: Option<&Entry>| entry.filter(|one| one.kind == Kind::Tree).map(|one| one.id);
        let file =
            |entry: Option<&Entry>| entry.filter(|one| one.kind != Kind::Tree).map(|one| (one.id, one.kind));
        if tree(old).is_some() || tree(new).is_some() {
            self.folders(tree(old), tree(new), depth + 1)?;
        }
        match (file(old), file(new)) {
            (None, None) => {}
            // A link in the place of a file is a file that went and a link that came.
            (Some(old), Some(new)) if old.1 != new.1 => {
                self.changes.extend([(Some(old), None), (None, Some(new))]);
            }
            change => self.changes.push(change),
        }
        (self.changes.len() <= MAX_FILES).then_some(())
    }
}

/// Takes out what only has another name, and counts it. `None` where something came and something went that differ, so
/// that one could be the other, changed.
fn without_renames(changes: Vec<Change>) -> Option<(Vec<Change>, DiffStat)> {
    let mut gone: HashMap<File, u64> = HashMap::new();
    for (old, _) in changes.iter().filter(|change| change.1.is_none()) {
        *gone.entry((*old)?).or_default() += 1;
    }
    let (mut left, mut stat) = (Vec::new(), DiffStat::default());
    for change in changes {
        match change {
            (None, Some(new)) => match gone.get_mut(&new).filter(|count| **count > 0) {
                Some(count) => {
                    *count -= 1;
                    stat.files += 1;
                }
                None => left.push(change),
            },
            (_, None) => {}
            (Some(_), Some(_)) => left.push(change),
        }
    }
    let gone = gone.into_iter().flat_map(|(old, count)| (0..count).map(move |_| (Some(old), None)));
    let gone: Vec<Change> = gone.collect();
    let came = left.iter().any(|(old, _)| old.is_none());
    if came && !gone.is_empty() {
        return None;
    }
    left.extend(gone);
    Some((left, stat))
}

/// Lines that came and that went.
fn lines(old: &[u8], new: &[u8]) -> Option<(u64, u64)> {
    let is_binary = |bytes: &[u8]| bytes.iter().take(TEXT_BYTES).any(|byte| *byte == 0);
    if is_binary(old) || is_binary(new) {
        return Some((0, 0));
    }
    let mut options = DiffOptions::new();
    options.context_lines(0).force_text(true);
    let patch = Patch::from_buffers(old, None, new, None, Some(&mut options)).ok()?;
    let (_, came, went) = patch.line_stats().ok()?;
    Some((came as u64, went as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(digit: char) -> File {
        (Oid::from_str(&digit.to_string().repeat(40)).unwrap(), Kind::File)
    }

    #[test]
    fn lines_of_files() {
        assert_eq!(lines(b"a\nb\n", b"a\nc\nd\n"), Some((2, 1)));
        assert_eq!(lines(b"", b"a"), Some((1, 0)));
        assert_eq!(lines(b"a\n", b""), Some((0, 1)));
        assert_eq!(lines(b"a\n", b"\0"), Some((0, 0)));
        assert_eq!(lines(b"", b""), Some((0, 0)));
    }

    #[test]
    fn another_name_is_no_change_of_lines() {
        let [a, b] = ['a', 'b'].map(file);
        let (left, stat) =
            without_renames(vec![(Some(a), None), (None, Some(a)), (Some(a), Some(b))]).unwrap();
        assert_eq!((left, stat.files), (vec![(Some(a), Some(b))], 1));
        assert_eq!(without_renames(vec![(Some(a), None), (None, Some(b))]), None);
        let (left, _) = without_renames(vec![(None, Some(a)), (None, Some(a)), (Some(b), Some(a))]).unwrap();
        assert_eq!(left.len(), 3);
        let link = (a.0, Kind::Link);
        assert_eq!(without_renames(vec![(Some(a), None), (None, Some(link))]), None);
    }
}
