//! Whether what came is whole, found out without a process.
//!
//! Everything that a new object refers to must be there, and be whole itself. Two things are: what a ref of this
//! repository points to, with all that it reaches, because git never lets a ref be otherwise; and what is walked here.
//! A new commit is walked against its parents, so that only what differs is looked at: an entry that one of them has in
//! the same place belongs to a whole tree, and any other is walked to its end, whether it came or was here. A file has
//! nothing to walk: being there is enough.
//!
//! The walk can say "whole" and "I cannot tell", never "not whole". Where a commit grew out of one that no ref points
//! to, where history ends early, where it is too much, git is asked, and its word counts.

use std::collections::{BTreeSet, HashMap, HashSet};

use git2::{ObjectType, Oid};

use super::{
    check::{MAX_PATH_BYTES, MAX_PATH_DEPTH},
    objects::{Entry, Kind, Objects, Side},
};

/// Most folders and files that are looked at one by one; for more git is faster.
const MAX_LOOKS: usize = 20_000;

/// Parents whose trees a new one is compared with.
const MAX_BASES: usize = 8;

/// What a walk came to.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// New commits and their parents.
    commits: HashMap<Oid, Vec<Oid>>,
}

/// Walks all that `tips` reach until it comes to what is `known` to be whole. `None` where it cannot tell.
pub(crate) fn walk(objects: &Objects<'_>, tips: &[Oid], known: &HashSet<Oid>) -> Option<Walked> {
    let mut walk = Walk {
        objects,
        known,
        trees: HashMap::new(),
        seen: HashMap::new(),
        walked: Walked::default(),
        looks: 0,
    };
    walk.commits(tips)?;
    let new: Vec<Oid> = walk.trees.keys().copied().collect();
    for commit in new {
        walk.tree_of(commit)?;
    }
    Some(walk.walked)
}

impl Walked {
    /// How many commits are new.
    pub(crate) fn new_commits(&self) -> u64 {
        self.commits.len() as u64
    }

    /// How many new commits `new` reaches, where all of them grew out of `old` and of nothing else.
    pub(crate) fn since(&self, old: Oid, new: Oid) -> Option<u64> {
        let (mut seen, mut left, mut count) = (HashSet::from([new]), vec![new], 0);
        let mut borders = BTreeSet::new();
        while let Some(commit) = left.pop() {
            match self.commits.get(&commit) {
                None => drop(borders.insert(commit)),
                Some(parents) => {
                    count += 1;
                    left.extend(parents.iter().filter(|parent| seen.insert(**parent)));
                }
            }
        }
        borders.into_iter().eq([old]).then_some(count)
    }
}

struct Walk<'a> {
    objects: &'a Objects<'a>,
    known: &'a HashSet<Oid>,
    /// The tree of each new commit.
    trees: HashMap<Oid, Oid>,
    /// Folders and files that are whole if the walk ends well.
    seen: HashMap<Oid, Kind>,
    walked: Walked,
    looks: usize,
}

impl Walk<'_> {
    fn commits(&mut self, tips: &[Oid]) -> Option<()> {
        let mut left = Vec::new();
        for tip in tips {
            left.push(self.peel(*tip)?);
        }
        while let Some(id) = left.pop() {
            if self.known.contains(&id) || self.walked.commits.contains_key(&id) {
                continue;
            }
            self.look()?;
            let (commit, side) = self.objects.commit(id)?;
            // It may be whole or not: which of its ancestors are, a ref would have to say.
            if side == Side::Home {
                return None;
            }
            self.trees.insert(id, commit.tree);
            left.extend(&commit.parents);
            self.walked.commits.insert(id, commit.parents);
        }
        Some(())
    }

    /// A tag is there for what it is put on.
    fn peel(&mut self, tip: Oid) -> Option<Oid> {
        let mut id = tip;
        while self.objects.side(id, ObjectType::Tag) == Some(Side::Came) {
            self.look()?;
            let (target, kind) = self.objects.tag(id)?;
            if kind != b"commit" && kind != b"tag" {
                return None;
            }
            id = target;
        }
        Some(id)
    }

    fn tree_of(&mut self, commit: Oid) -> Option<()> {
        let tree = *self.trees.get(&commit)?;
        let mut bases = Vec::new();
        for parent in self.walked.commits.get(&commit)?.iter().take(MAX_BASES) {
            bases.push(match self.trees.get(parent) {
                Some(tree) => *tree,
                None => self.objects.commit(*parent)?.0.tree,
            });
        }
        if bases.contains(&tree) { Some(()) } else { self.tree(tree, &bases, (0, 0)) }
    }

    /// A folder that none of the `bases` has in its place.
    fn tree(&mut self, id: Oid, bases: &[Oid], (depth, bytes): (usize, usize)) -> Option<()> {
        match self.seen.insert(id, Kind::Tree) {
            None => {}
            Some(kind) => return (kind == Kind::Tree).then_some(()),
        }
        self.look()?;
        let entries = self.objects.tree(id)?;
        let mut of_bases: HashMap<Vec<u8>, Vec<Entry>> = HashMap::new();
        for base in bases {
            for entry in self.objects.tree(*base)? {
                of_bases.entry(entry.name.clone()).or_default().push(entry);
            }
        }
        for entry in entries {
            let there = of_bases.get(&entry.name).map_or(&[][..], Vec::as_slice);
            let is_tree = entry.kind == Kind::Tree;
            if there.iter().any(|base| base.id == entry.id && (base.kind == Kind::Tree) == is_tree) {
                continue;
            }
            let bytes = bytes + entry.name.len() + 1;
            if bytes > MAX_PATH_BYTES || depth > MAX_PATH_DEPTH {
                return None;
            }
            match entry.kind {
                Kind::Submodule => {}
                Kind::Tree => {
                    let folders = there.iter().filter(|base| base.kind == Kind::Tree);
                    let bases: Vec<Oid> = folders.map(|base| base.id).collect();
                    self.tree(entry.id, &bases, (depth + 1, bytes))?;
                }
                Kind::File | Kind::Link => self.file(entry.id)?,
            }
        }
        Some(())
    }

    fn file(&mut self, id: Oid) -> Option<()> {
        match self.seen.insert(id, Kind::File) {
            None => {}
            Some(kind) => return (kind == Kind::File).then_some(()),
        }
        self.look()?;
        self.objects.side(id, ObjectType::Blob)?;
        Some(())
    }

    fn look(&mut self) -> Option<()> {
        self.looks += 1;
        (self.looks <= MAX_LOOKS).then_some(())
    }
}
