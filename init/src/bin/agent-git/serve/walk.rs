//! Which commits one side has and the other does not.

use std::{
    cell::RefCell,
    collections::{BinaryHeap, HashMap, HashSet},
    rc::Rc,
};

use super::{
    id::Id,
    object::{self, Commit, Kind},
    store::{MAX_CONTENT_BYTES, Store},
    trouble::{Outcome, Trouble},
};

/// Objects that are kept in mind: commits here, and what is sent elsewhere. The host takes no more than that either.
pub(crate) const MAX_OBJECTS: usize = 10_000_000;

/// Commits that are looked at to find out whether a client has said enough. If that does not do, it says more.
const MAX_STEPS: usize = 2_000_000;

/// Tags of tags.
const MAX_TAGS: usize = 16_384;

/// The commits of a repository, each read once.
pub(crate) struct History<'a> {
    pub(crate) store: &'a Store,
    commits: RefCell<HashMap<Id, Option<Rc<Commit>>>>,
    /// Where history ends here although it goes on elsewhere.
    pub(crate) shallow: HashSet<Id>,
}

/// What a name leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peeled {
    pub(crate) tags: Vec<Id>,
    pub(crate) id: Id,
    pub(crate) kind: Kind,
}

/// Commits that are to be sent.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// Newest first, as far as their dates are right.
    pub(crate) new: Vec<Id>,
    /// Parents of those that the other side has.
    pub(crate) edges: Vec<Id>,
}

/// What is known of a commit.
#[derive(Clone, Copy)]
struct Mark {
    /// The other side has it.
    is_had: bool,
    /// Its parents were looked at.
    is_passed: bool,
}

impl<'a> History<'a> {
    pub(crate) fn new(store: &'a Store, shallow: HashSet<Id>) -> Self {
        Self { store, commits: RefCell::default(), shallow }
    }

    /// A commit; `None` where there is none.
    pub(crate) fn commit(&self, id: Id) -> Outcome<Option<Rc<Commit>>> {
        if let Some(known) = self.commits.borrow().get(&id) {
            return Ok(known.clone());
        }
        let commit = self.store.commit(id)?.map(Rc::new);
        let mut commits = self.commits.borrow_mut();
        if commits.len() >= MAX_OBJECTS {
            return Err(Trouble::said(format!("the repository inside has more than {MAX_OBJECTS} commits")));
        }
        commits.insert(id, commit.clone());
        Ok(commit)
    }

    /// A commit that has to be there.
    pub(crate) fn known(&self, id: Id) -> Outcome<Rc<Commit>> {
        self.commit(id)?.ok_or_else(|| Trouble::missing(id))
    }

    /// The parents of a commit, as far as history goes here.
    pub(crate) fn parents(&self, id: Id, commit: &Commit) -> Box<[Id]> {
        if self.shallow.contains(&id) { Box::default() } else { commit.parents.clone() }
    }

    /// Follows tags; `None` where something is not there.
    pub(crate) fn peel(&self, id: Id) -> Outcome<Option<Peeled>> {
        let (mut at, mut tags) = (id, Vec::new());
        loop {
            let Some(kind) = self.store.kind(at)? else { return Ok(None) };
            if kind != Kind::Tag {
                return Ok(Some(Peeled { tags, id: at, kind }));
            }
            if tags.len() >= MAX_TAGS {
                return Err(Trouble::corrupt(id));
            }
            tags.push(at);
            let Some((_, content)) = self.store.read(at, MAX_CONTENT_BYTES)? else { return Ok(None) };
            at = object::tagged(&content).ok_or_else(|| Trouble::corrupt(at))?.0;
        }
    }

    /// What `wants` reach and `haves` do not, where history ends at `cut`. `tick` is called now and then.
    pub(crate) fn between(
        &self,
        wants: &[Id],
        haves: &[Id],
        cut: &HashSet<Id>,
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<Commits> {
        let mut marks: HashMap<Id, Mark> = HashMap::new();
        let mut queue: BinaryHeap<(i64, Id)> = BinaryHeap::new();
        // Those in the queue that the other side is not known to have.
        let mut open = 0_usize;
        for (ids, is_had) in [(haves, true), (wants, false)] {
            for id in ids {
                let commit = self.known(*id)?;
                marks.entry(*id).or_insert_with(|| {
                    queue.push((commit.date, *id));
                    open += usize::from(!is_had);
                    Mark { is_had, is_passed: false }
                });
            }
        }
        let mut order = Vec::new();
        while open > 0 {
            let Some((_, id)) = queue.pop() else { break };
            tick()?;
            let Some(mark) = marks.get_mut(&id) else { break };
            mark.is_passed = true;
            if !mark.is_had {
                open -= 1;
                order.push(id);
            }
            // What turns out to be had makes its ancestors had, also those that were passed already.
            let mut passed_on = vec![id];
            while let Some(id) = passed_on.pop() {
                if cut.contains(&id) {
                    continue;
                }
                let commit = self.known(id)?;
                let is_had = marks.get(&id).is_some_and(|mark| mark.is_had);
                for parent in self.parents(id, &commit) {
                    if let Some(mark) = marks.get_mut(&parent) {
                        if is_had && !mark.is_had {
                            mark.is_had = true;
                            if mark.is_passed {
                                passed_on.push(parent);
                            } else {
                                open -= 1;
                            }
                        }
                        continue;
                    }
                    let date = match self.commit(parent)? {
                        Some(commit) => commit.date,
                        // The other side has it; it need not be here.
                        None if is_had => continue,
                        None => return Err(Trouble::missing(parent)),
                    };
                    marks.insert(parent, Mark { is_had, is_passed: false });
                    queue.push((date, parent));
                    open += usize::from(!is_had);
                }
            }
        }
        let mut found = Commits::default();
        let mut edges = HashSet::new();
        for id in order {
            if marks.get(&id).is_some_and(|mark| mark.is_had) {
                continue;
            }
            found.new.push(id);
            if !cut.contains(&id) {
                let commit = self.known(id)?;
                for parent in self.parents(id, &commit) {
                    if marks.get(&parent).is_some_and(|mark| mark.is_had) && edges.insert(parent) {
                        found.edges.push(parent);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether each of `wants` reaches one of `haves`: then the other side has said enough. No commit older than the oldest
    /// of them is looked at.
    pub(crate) fn all_reach(
        &self,
        wants: &[Id],
        haves: &HashSet<Id>,
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<bool> {
        let mut oldest = i64::MAX;
        for id in haves {
            oldest = oldest.min(self.commit(*id)?.map_or(i64::MAX, |commit| commit.date));
        }
        let mut seen = HashSet::new();
        let mut left = MAX_STEPS;
        for want in wants {
            seen.clear();
            let (mut found, mut stack) = (false, vec![*want]);
            while let Some(id) = stack.pop() {
                if haves.contains(&id) {
                    found = true;
                    break;
                }
                tick()?;
                left -= 1;
                if left == 0 {
                    return Ok(false);
                }
                let Some(commit) = self.commit(id)? else { continue };
                if commit.date >= oldest && seen.insert(id) {
                    stack.extend(self.parents(id, &commit));
                }
            }
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where history ends that is `depth` commits long from each of `heads` on, and what lies before.
    pub(crate) fn to_depth(
        &self,
        heads: &[Id],
        depth: u32,
        tick: &mut dyn FnMut() -> Outcome<()>,
    ) -> Outcome<Depth> {
        let mut found = Depth::default();
        let mut level: Vec<Id> = heads.to_vec();
        let mut seen = HashSet::new();
        let mut at = 1;
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in level {
                if !seen.insert(id) {
                    continue;
                }
                tick()?;
                let commit = self.known(id)?;
                if at >= depth || self.shallow.contains(&id) {
                    found.ends.push(id);
                } else {
                    found.before.insert(id);
                    next.extend(commit.parents.iter().copied());
                }
            }
            level = next;
            at += 1;
        }
        Ok(found)
    }
}

/// A history of a certain length.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Its last commits.
    pub(crate) ends: Vec<Id>,
    /// The commits before those, which have all their parents.
    pub(crate) before: HashSet<Id>,
}
