//! Which objects are to be sent: everything in the new commits that was in none of their parents.

use std::collections::{HashMap, HashSet};

use super::{
    id::Id,
    object::{self, Entries, Kind},
    store::{Found, Store},
    trouble::{Outcome, Trouble},
    walk::{Commits, History, MAX_OBJECTS},
};

/// Parents that a commit is compared with; git makes no merge of more than a handful.
const MAX_COMPARED: usize = 8;

/// From so many objects on it pays to know everything that the other side has at the edge.
const MANY: usize = 64;

/// The same for a single large file, which may only have been moved.
const LARGE_BYTES: u64 = 1 << 20;

/// Folders at the edge that are read for this, for each object that is to be sent.
const LOOKED_AT: usize = 8;

/// Objects to be sent, each once.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) objects: Vec<(Id, Found)>,
    /// Some of what the other side has for sure.
    pub(crate) had: HashSet<Id>,
    /// For what is new under a name that it had before: what was there.
    pub(crate) before: HashMap<Id, Id>,
    chosen: HashSet<Id>,
}

/// A folder, and what was under its name in the parents.
struct Folder {
    id: Id,
    before: Vec<Id>,
}

impl Selection {
    /// Adds an object by itself.
    pub(crate) fn add(&mut self, store: &Store, id: Id) -> Outcome<()> {
        if self.had.contains(&id) || !self.chosen.insert(id) {
            return Ok(());
        }
        if self.objects.len() >= MAX_OBJECTS {
            return Err(Trouble::said(format!("there are more than {MAX_OBJECTS} objects to send")));
        }
        let found = store.find(id)?.ok_or_else(|| Trouble::missing(id))?;
        self.objects.push((id, found));
        Ok(())
    }

    pub(crate) fn has(&self, id: Id) -> bool {
        self.chosen.contains(&id)
    }

    /// Adds commits and what is in them. History ends at `cut`.
    pub(crate) fn add_commits(
        &mut self,
        history: &History<'_>,
        commits: &Commits,
        cut: &HashSet<Id>,
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<()> {
        for id in &commits.new {
            self.add(history.store, *id)?;
        }
        let is_all = commits.edges.is_empty();
        // Oldest first: what a commit has in common with its parents was seen there.
        for id in commits.new.iter().rev() {
            let commit = history.known(*id)?;
            let mut before = Vec::new();
            // Where the other side has nothing, what was seen is all that it will have. Nor has it what lies behind the end.
            if !is_all && !cut.contains(id) {
                for parent in history.parents(*id, &commit).iter().take(MAX_COMPARED) {
                    before.extend(history.commit(*parent)?.map(|parent| parent.tree));
                }
            }
            self.add_tree(history.store, Folder { id: commit.tree, before }, tick)?;
        }
        if !is_all {
            self.leave_out(history, &commits.edges, tick)?;
        }
        Ok(())
    }

    /// Adds a folder and everything in it.
    pub(crate) fn add_whole_tree(
        &mut self,
        store: &Store,
        id: Id,
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<()> {
        self.add_tree(store, Folder { id, before: Vec::new() }, tick)
    }

    fn add_tree(
        &mut self,
        store: &Store,
        root: Folder,
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<()> {
        if root.before.contains(&root.id) || self.has(root.id) {
            return Ok(());
        }
        self.new_at(store, root.id, &root.before)?;
        let mut folders = vec![root];
        while let Some(folder) = folders.pop() {
            tick()?;
            let tree = store.get(folder.id, Kind::Tree)?;
            let mut before = Vec::new();
            for id in &folder.before {
                // One that is not here has nothing that we could leave out.
                if let Some((Kind::Tree, tree)) = store.read(*id, super::store::MAX_CONTENT_BYTES)? {
                    before.push(tree);
                }
            }
            let mut before: Vec<_> = before.iter().map(|tree| Entries::of(tree).peekable()).collect();
            let mut entries = Entries::of(&tree);
            for entry in entries.by_ref() {
                let mut was = Vec::new();
                for old in &mut before {
                    while old.next_if(|old| object::order(old, &entry).is_lt()).is_some() {}
                    was.extend(
                        old.peek()
                            .filter(|old| old.name == entry.name && old.kind == entry.kind)
                            .map(|old| old.id),
                    );
                }
                // A commit of another repository is not here.
                if entry.kind == Kind::Commit || was.contains(&entry.id) || self.has(entry.id) {
                    continue;
                }
                self.new_at(store, entry.id, &was)?;
                if entry.kind == Kind::Tree {
                    folders.push(Folder { id: entry.id, before: was });
                }
            }
            if !entries.is_whole() {
                return Err(Trouble::corrupt(folder.id));
            }
        }
        Ok(())
    }

    fn new_at(&mut self, store: &Store, id: Id, before: &[Id]) -> Outcome<()> {
        self.add(store, id)?;
        if let Some(before) = before.first() {
            self.before.entry(id).or_insert(*before);
        }
        Ok(())
    }

    /// Leaves out what was moved: it is at the edge under another name. Only looked for where there is much to gain.
    fn leave_out(
        &mut self,
        history: &History<'_>,
        edges: &[Id],
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<()> {
        let mut bytes = 0;
        if self.objects.len() < MANY {
            for (id, found) in &self.objects {
                bytes += history.store.stored_size(*id, *found)?;
            }
            if bytes < LARGE_BYTES {
                return Ok(());
            }
        }
        let mut left = self.objects.len() * LOOKED_AT + 10_000;
        let mut folders = Vec::new();
        for edge in edges {
            folders.extend(history.commit(*edge)?.map(|commit| commit.tree));
        }
        let mut had: HashSet<Id> = folders.iter().copied().collect();
        while let Some(id) = folders.pop() {
            tick()?;
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
            let Some((Kind::Tree, tree)) = history.store.read(id, super::store::MAX_CONTENT_BYTES)? else {
                continue;
            };
            for entry in Entries::of(&tree) {
                if entry.kind != Kind::Commit && had.insert(entry.id) && entry.kind == Kind::Tree {
                    folders.push(entry.id);
                }
            }
        }
        self.objects.retain(|(id, _)| !had.contains(id));
        self.chosen.retain(|id| !had.contains(id));
        self.had.extend(had);
        Ok(())
    }
}
