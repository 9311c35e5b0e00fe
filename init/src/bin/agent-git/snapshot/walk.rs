//! From a folder of files to a tree of objects.
//!
//! Everything is opened relative to the folder it is in, and no link is followed: the agent may move things about
//! meanwhile, and nothing outside the worktree is read for that. Nothing is written but objects.

use std::{
    cell::OnceCell,
    iter,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use git2::{Oid, Repository, RepositoryOpenFlags};
use rustix::{
    fs::{AtFlags, FileType, RawDir, Stat, fstat, readlinkat, statat},
    io::Errno,
};

use super::{
    files::{Inode, Mount, Names, as_path, look, mode, open_file, open_folder, place_of, read_whole},
    ignore::{GITIGNORE, Level, Owner, Verdict},
    index::{Anchor, Builder, Folder, Index, Known, Marks, Mode, Moment, Record, digest},
    names::{self, Special},
    report::{Failure, LeftOut, MAX_NAMED_BYTES, MOST_NAMED, Missing, Why, quoted},
    store::{FOLDER, Put, SUBMODULE, Store, TreeEntry},
};

/// Most files and folders of one worktree.
pub(crate) const MAX_ENTRIES: u64 = 1_000_000;

/// Most folders in folders. The host refuses more than 512.
const MAX_DEPTH: usize = 500;

/// Longest path, bytes, as the host has it.
const MAX_PATH_BYTES: usize = 4095;

/// Looks at a file that changes while it is read.
const READ_TRIES: u32 = 3;

/// Names of one folder that are asked for at a time, bytes.
const NAMES_BYTES: usize = 64 * 1024;

/// What is taken, and what is left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Whether what the repository ignores is taken too.
    pub ignored: bool,
    /// Largest file, bytes.
    pub file_bytes: u64,
}

/// A worktree while it is looked at.
pub(super) struct Walk<'a, 'r> {
    pub store: Store<'r>,
    rules: Rules,
    old: Option<&'a Index>,
    /// Other worktrees of the same repository, which are taken by themselves: device and inode.
    others: &'a [Inode],
    root: &'a Path,
    began: Moment,
    new: Builder,
    path: Vec<u8>,
    buffer: Vec<u8>,
    mount: Mount,
    entries: u64,
    is_same: bool,
    left_out: Vec<LeftOut>,
    left_out_more: u64,
}

/// What came of it.
pub(super) struct Walked {
    pub tree: Oid,
    pub left_out: Vec<LeftOut>,
    pub left_out_more: u64,
    /// Its record.
    root: u32,
}

/// One folder to look at.
#[derive(Clone, Copy)]
struct Place<'p> {
    owner: &'p Owner,
    parent: Option<&'p Level<'p>>,
    rules: u64,
    known: Option<Folder<'p>>,
    /// Patterns are about the whole folder: only what is tracked counts.
    tracked_only: bool,
    /// Whether objects are written.
    write: bool,
    depth: usize,
}

/// A folder and what its entries have in common.
struct Scene<'p> {
    folder: BorrowedFd<'p>,
    level: &'p Level<'p>,
    place: Place<'p>,
    rules: u64,
    /// Whether what was decided last time holds.
    same_rules: bool,
    /// Whether the last folder in it has the tree it had.
    child_same: bool,
}

/// What was read of a file.
enum Content {
    Whole(Vec<u8>, Marks),
    TooLarge,
    Special,
}

/// What a folder is.
enum Found {
    /// Its tree, if anything is in it, and its record.
    Folder(Option<Oid>, u32),
    /// A submodule, and the record.
    Submodule(Oid, u32),
}

/// What a name is.
enum Entry {
    Take(Known, &'static [u8], Oid),
    /// It is no part of the tree, and remembered for that.
    Note(Known),
    Skip,
}

impl<'a, 'r> Walk<'a, 'r> {
    /// `began` is a moment of the file system's own clock, from before anything is looked at.
    pub(super) fn new(
        store: Store<'r>,
        rules: Rules,
        (old, began): (Option<&'a Index>, Moment),
        (root, others): (&'a Path, &'a [Inode]),
    ) -> Self {
        Self {
            store,
            rules,
            old,
            others,
            root,
            began,
            new: Builder::new(old.map_or(4096, Index::size)),
            path: Vec::new(),
            buffer: Vec::with_capacity(NAMES_BYTES),
            mount: Mount::default(),
            entries: 0,
            is_same: old.is_some(),
            left_out: Vec::new(),
            left_out_more: 0,
        }
    }

    /// Looks at the whole worktree of `owner`.
    pub(super) fn run(&mut self, folder: &OwnedFd, owner: &Owner) -> Result<Walked, Failure> {
        self.mount = place_of(folder.as_fd()).map_err(unreadable_root)?.0;
        let rules = digest(owner.rules, &[u8::from(self.rules.ignored)]);
        let known = self.old.and_then(Index::root);
        self.is_same &= known.is_some();
        let place = Place { owner, parent: None, rules, known, tracked_only: false, write: true, depth: 0 };
        let (tree, root) = match self.folder(folder.as_fd(), place)? {
            Found::Folder(Some(tree), root) => (tree, root),
            Found::Folder(None, root) | Found::Submodule(_, root) => {
                (self.store.tree(Vec::new(), true)?, root)
            }
        };
        Ok(Walked {
            tree,
            left_out: std::mem::take(&mut self.left_out),
            left_out_more: self.left_out_more,
            root,
        })
    }

    /// The index for next time, with the commit that keeps what is in it. `None` where the last one is as good: the
    /// same files, and the same commit.
    pub(super) fn index(self, walked: &Walked, anchor: Anchor, same_anchor: bool) -> Option<Vec<u8>> {
        if self.is_same && same_anchor {
            return None;
        }
        self.new.finish(walked.root, self.began, anchor)
    }

    fn folder(&mut self, folder: BorrowedFd<'_>, place: Place<'_>) -> Result<Found, Failure> {
        let names = match self.names(folder) {
            Ok(names) => names,
            Err(Errno::NOENT) => return Ok(Found::Folder(None, self.nothing(place.rules))),
            Err(error) if place.depth == 0 => return Err(unreadable_root(error)),
            Err(_) => {
                self.leave(b"", true, Missing::Unreadable);
                return Ok(Found::Folder(None, self.nothing(place.rules)));
            }
        };
        let is_nested = place.depth > 0 && names.has(b".git");
        if place.depth > 0 && (is_nested || names.is_empty()) {
            let below = self.path[place.owner.base..self.path.len() - 1].to_vec();
            let submodule = place.owner.submodule(&below);
            match submodule {
                // One that was never filled.
                Some(commit) if names.is_empty() => {
                    let record = self.nothing(place.rules);
                    return Ok(Found::Submodule(commit, record));
                }
                _ if is_nested => return self.nested(folder, &names, place, submodule),
                _ => {}
            }
        }
        self.listed(folder, &names, place)
    }

    /// A repository in the repository: its files count, not what it calls them. A submodule that is just as the checked-out
    /// commit has it stays one.
    fn nested(
        &mut self,
        folder: BorrowedFd<'_>,
        names: &Names,
        place: Place<'_>,
        submodule: Option<Oid>,
    ) -> Result<Found, Failure> {
        let folder_path = self.root.join(as_path(&self.path));
        let flags = RepositoryOpenFlags::NO_SEARCH;
        let repository = Repository::open_ext(folder_path, flags, iter::empty::<&Path>()).ok();
        let owner = Owner::new(repository, self.path.len(), self.began);
        let rules = digest(owner.rules, &[u8::from(self.rules.ignored), u8::from(place.tracked_only)]);
        let inner = Place { owner: &owner, parent: None, rules, tracked_only: false, ..place };
        if let (Some(commit), true) = (submodule, submodule == owner.commit()) {
            let (had, more) = (self.left_out.len(), self.left_out_more);
            let found = self.listed(folder, names, Place { write: false, ..inner })?;
            if let Found::Folder(tree, record) = found
                && tree == owner.head_tree()
                && (self.left_out.len(), self.left_out_more) == (had, more)
            {
                return Ok(Found::Submodule(commit, record));
            }
            self.left_out.truncate(had);
            self.left_out_more = more;
            self.is_same = false;
        }
        self.listed(folder, names, inner)
    }

    fn listed(
        &mut self,
        folder: BorrowedFd<'_>,
        names: &Names,
        mut place: Place<'_>,
    ) -> Result<Found, Failure> {
        // What was only named the last time has yet to be written.
        place.known = place.known.filter(|known| known.stored || !place.write);
        let mut rules = digest(place.rules, &[u8::from(place.tracked_only)]);
        let patterns = names.has(GITIGNORE) && !self.rules.ignored;
        if patterns && let Ok(stat) = statat(folder, ".gitignore", AtFlags::SYMLINK_NOFOLLOW) {
            rules = Marks::of(&stat).rules(rules, self.began);
        }
        let level = Level {
            parent: place.parent,
            folder: patterns.then_some(folder),
            base: self.path.len(),
            patterns: OnceCell::new(),
        };
        let known_rules = place.known.map(|known| known.rules);
        let mut scene = Scene {
            folder,
            level: &level,
            place,
            rules,
            same_rules: known_rules == Some(rules),
            child_same: false,
        };
        let mut known = place.known;
        let mut cached = known.as_mut().and_then(Folder::next);
        let mut record = Record::default();
        let mut tree = Vec::with_capacity(names.len());
        let mut same = place.known.is_some();
        self.is_same &= scene.same_rules;
        for (name, kind) in names.iter() {
            while let Some((_, gone)) = cached.filter(|(old, _)| *old < name) {
                same &= matches!(gone, Known::Ignored(_));
                self.is_same = false;
                cached = known.as_mut().and_then(Folder::next);
            }
            let old = cached.filter(|(old, _)| *old == name).map(|(_, known)| known);
            if old.is_some() {
                cached = known.as_mut().and_then(Folder::next);
            }
            if name == b".git" {
                continue;
            }
            let entry = self.entry(&mut scene, name, kind, old)?;
            let now = match &entry {
                Entry::Take(known, mode, oid) => {
                    tree.push(TreeEntry { mode, name, oid: *oid });
                    Some(*known)
                }
                Entry::Note(known) => Some(*known),
                Entry::Skip => None,
            };
            if let Some(now) = &now {
                record.add(name, now);
            }
            let is_as_it_was = match (&now, &old) {
                (Some(Known::Folder(..)), Some(Known::Folder(..))) => scene.child_same,
                (Some(Known::File(mode, oid, marks)), Some(Known::File(old_mode, old_oid, old_marks))) => {
                    self.is_same &=
                        marks == old_marks && marks.is_settled(self.old.map_or(self.began, |old| old.began));
                    mode == old_mode && oid == old_oid
                }
                (Some(Known::Link(oid, _)), Some(Known::Link(old_oid, _))) => oid == old_oid,
                (Some(Known::Ignored(_)), Some(Known::Ignored(_)) | None) => {
                    self.is_same &= old.is_some();
                    true
                }
                (None, None) => true,
                _ => false,
            };
            self.is_same &= is_as_it_was;
            same &= is_as_it_was;
        }
        while let Some((_, gone)) = cached {
            same &= matches!(gone, Known::Ignored(_));
            self.is_same = false;
            cached = known.as_mut().and_then(Folder::next);
        }
        let tree = match (tree.is_empty(), place.known) {
            (true, _) => None,
            (false, Some(known)) if same => Some(known.tree),
            _ => Some(self.store.tree(tree, place.write)?),
        };
        let at = self.new.folder(&record, tree.unwrap_or(Oid::zero()), scene.rules, place.write);
        Ok(Found::Folder(tree, at))
    }

    fn entry(
        &mut self,
        scene: &mut Scene<'_>,
        name: &[u8],
        kind: FileType,
        old: Option<Known>,
    ) -> Result<Entry, Failure> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            let message = format!("there are more than {MAX_ENTRIES} files and folders");
            return Err(Failure::new(Why::TooMany, message));
        }
        let mut stat = None;
        let mut kind = kind;
        if kind == FileType::Unknown {
            match look(scene.folder, name) {
                Some(found) => {
                    kind = FileType::from_raw_mode(found.st_mode);
                    stat = Some(found);
                }
                None => return Ok(Entry::Skip),
            }
        }
        let is_folder = kind == FileType::Directory;
        if let (Some(Known::Ignored(was_folder)), true) = (old, scene.same_rules)
            && was_folder == is_folder
        {
            return Ok(Entry::Note(Known::Ignored(is_folder)));
        }
        let was_taken = match old {
            Some(Known::Folder(_, tracked_only)) if is_folder => Some(tracked_only),
            Some(Known::Link(..)) if is_folder => Some(false),
            Some(Known::File(..)) if !is_folder => Some(false),
            _ => None,
        };
        let tracked_only = match was_taken.filter(|_| scene.same_rules) {
            Some(tracked_only) => tracked_only,
            None if self.rules.ignored => false,
            None => match self.verdict(scene, name, is_folder) {
                Verdict::Taken => false,
                Verdict::TrackedOnly => true,
                Verdict::Ignored => return Ok(Entry::Note(Known::Ignored(is_folder))),
            },
        };
        let special = names::special(name);
        if special == Some(Special::Repository) || (special.is_some() && kind != FileType::RegularFile) {
            self.leave(name, is_folder, Missing::Refused);
            return Ok(Entry::Skip);
        }
        if self.path.len() + name.len() > MAX_PATH_BYTES {
            self.leave(name, is_folder, Missing::TooDeep);
            return Ok(Entry::Skip);
        }
        match kind {
            FileType::Directory => self.subfolder(scene, name, old, tracked_only),
            FileType::RegularFile | FileType::Symlink => {
                let Some(stat) = stat.or_else(|| look(scene.folder, name)) else { return Ok(Entry::Skip) };
                self.file(scene, name, &stat, old, special)
            }
            _ => {
                self.leave(name, false, Missing::Special);
                Ok(Entry::Skip)
            }
        }
    }

    fn verdict(&mut self, scene: &Scene<'_>, name: &[u8], is_folder: bool) -> Verdict {
        let length = self.path.len();
        self.path.extend_from_slice(name);
        let (owner, inside) = (scene.place.owner, scene.place.tracked_only);
        let verdict = owner.verdict(scene.level, (&self.path, name), is_folder, inside);
        self.path.truncate(length);
        verdict
    }

    fn subfolder(
        &mut self,
        scene: &mut Scene<'_>,
        name: &[u8],
        old: Option<Known>,
        tracked_only: bool,
    ) -> Result<Entry, Failure> {
        scene.child_same = false;
        let place = scene.place;
        if place.depth + 1 >= MAX_DEPTH {
            self.leave(name, true, Missing::TooDeep);
            return Ok(Entry::Skip);
        }
        let opened = open_folder(scene.folder, name);
        let (folder, (mount, inode)) = match opened.and_then(|folder| Ok((place_of(folder.as_fd())?, folder)))
        {
            Ok((found, folder)) => (folder, found),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Entry::Skip),
            Err(_) => {
                self.leave(name, true, Missing::Unreadable);
                return Ok(Entry::Skip);
            }
        };
        if mount != self.mount {
            self.leave(name, true, Missing::Mounted);
            return Ok(Entry::Skip);
        }
        if self.others.contains(&inode) {
            return Ok(Entry::Skip);
        }
        let at = match old {
            Some(Known::Folder(at, _) | Known::Link(_, at)) => Some(at),
            _ => None,
        };
        let known = at.and_then(|at| self.old?.folder(at));
        let length = self.path.len();
        self.path.extend_from_slice(name);
        self.path.push(b'/');
        let inner = Place {
            parent: Some(scene.level),
            rules: scene.rules,
            known,
            tracked_only,
            depth: place.depth + 1,
            ..place
        };
        let found = self.folder(folder.as_fd(), inner);
        self.path.truncate(length);
        Ok(match found? {
            Found::Submodule(commit, at) => Entry::Take(Known::Link(commit, at), SUBMODULE, commit),
            Found::Folder(tree, at) => {
                scene.child_same = known.is_some_and(|known| {
                    known.tree == tree.unwrap_or(Oid::zero()) && known.stored >= place.write
                });
                match tree {
                    Some(tree) => Entry::Take(Known::Folder(at, tracked_only), FOLDER, tree),
                    None => Entry::Note(Known::Folder(at, tracked_only)),
                }
            }
        })
    }

    fn file(
        &mut self,
        scene: &Scene<'_>,
        name: &[u8],
        stat: &Stat,
        old: Option<Known>,
        special: Option<Special>,
    ) -> Result<Entry, Failure> {
        let Some(mode) = mode(stat) else { return Ok(Entry::Skip) };
        let marks = Marks::of(stat);
        if let (Some(Known::File(old_mode, oid, old_marks)), Some(index)) = (old, self.old)
            && (mode, marks) == (old_mode, old_marks)
            && marks.is_settled(index.began)
        {
            return Ok(Entry::Take(Known::File(mode, oid, marks), mode.text(), oid));
        }
        let read = if mode == Mode::Symlink {
            readlinkat(scene.folder, name, Vec::new())
                .map(|target| Content::Whole(target.into_bytes(), marks))
        } else {
            self.read(scene.folder, name)
        };
        let missing = match read {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::LOOP) => return Ok(Entry::Skip),
            Err(_) => Missing::Unreadable,
            Ok(Content::TooLarge) => Missing::TooLarge,
            Ok(Content::Special) => Missing::Special,
            Ok(Content::Whole(content, _)) if !self.is_fine(special, &content, scene, name) => {
                Missing::Refused
            }
            Ok(Content::Whole(content, marks)) => match self.store.blob(&content, scene.place.write)? {
                Put::Done(oid) => return Ok(Entry::Take(Known::File(mode, oid, marks), mode.text(), oid)),
                Put::NoRoom => Missing::NoRoom,
            },
        };
        self.leave(name, false, missing);
        Ok(Entry::Skip)
    }

    /// What the checked-out commit has as well can do no harm that it does not do already.
    fn is_fine(&self, special: Option<Special>, content: &[u8], scene: &Scene<'_>, name: &[u8]) -> bool {
        let is_fine = match special {
            Some(Special::Modules) => names::is_fine_modules(content),
            Some(Special::Attributes) => names::is_fine_attributes(content),
            Some(Special::Repository) => false,
            None => true,
        };
        is_fine || {
            let mut path = self.path[scene.place.owner.base..].to_vec();
            path.extend_from_slice(name);
            let there = scene.place.owner.entry(&path).map(|entry| entry.id());
            scene.place.owner.base == 0
                && there.is_some()
                && there == Oid::hash_object(git2::ObjectType::Blob, content).ok()
        }
    }

    /// Reads a file to its end. One that is written to at the same time is read again, and then taken as it was last seen.
    fn read(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<Content, Errno> {
        let mut tries = 1;
        loop {
            let file = open_file(folder, name)?;
            let before = fstat(&file)?;
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                return Ok(Content::Special);
            }
            let size = u64::try_from(before.st_size).unwrap_or(u64::MAX);
            if size > self.rules.file_bytes {
                return Ok(Content::TooLarge);
            }
            let Some(content) = read_whole(&file, size, self.rules.file_bytes)? else {
                return Ok(Content::TooLarge);
            };
            let (before, after) = (Marks::of(&before), Marks::of(&fstat(&file)?));
            if before == after {
                return Ok(Content::Whole(content, after));
            }
            if tries == READ_TRIES {
                // Marks that no file has: it is read again next time.
                return Ok(Content::Whole(content, Marks::default()));
            }
            tries += 1;
        }
    }

    fn names(&mut self, folder: BorrowedFd<'_>) -> Result<Names, Errno> {
        let mut names = Names::default();
        let mut entries = RawDir::new(folder, self.buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.add(name, entry.file_type());
            }
        }
        names.sort();
        Ok(names)
    }

    fn leave(&mut self, name: &[u8], is_folder: bool, why: Missing) {
        let mut path = [&self.path, name].concat();
        if is_folder && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let path = quoted(&path);
        let named: usize = self.left_out.iter().map(|one| one.path.len()).sum();
        if self.left_out.len() < MOST_NAMED && named + path.len() <= MAX_NAMED_BYTES {
            self.left_out.push(LeftOut { path, why });
        } else {
            self.left_out_more += 1;
        }
    }

    /// The record of a folder with nothing in it.
    fn nothing(&mut self, rules: u64) -> u32 {
        self.new.folder(&Record::default(), Oid::zero(), rules, true)
    }
}

fn unreadable_root(error: Errno) -> Failure {
    Failure::new(Why::NoWorktree, format!("its folder cannot be read: {error}"))
}
