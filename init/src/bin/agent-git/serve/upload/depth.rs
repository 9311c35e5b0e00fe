//! Histories that end somewhere: what a client has of one, and what it is to have.

use std::collections::HashSet;

use super::request::{ALL, Wish};
use crate::serve::{
    id::Id,
    refs::Refs,
    trouble::{Outcome, Trouble},
    walk::{Depth, History},
};

/// What becomes of a client's history.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Lines for the client.
    pub(super) lines: Vec<String>,
    /// Commits at which nothing is followed any further.
    pub(super) cut: HashSet<Id>,
    /// Commits behind the old ends, which are to be sent now.
    pub(super) behind: Vec<Id>,
    /// The old ends of those.
    pub(super) edges: Vec<Id>,
}

/// Whether anything is to be said about it at all.
pub(super) fn matters(history: &History<'_>, wish: &Wish) -> bool {
    wish.deepens() || !wish.shallow.is_empty() || !history.shallow.is_empty()
}

/// Finds out where history is to end. `heads` are the commits that are wanted.
pub(super) fn ends(
    history: &History<'_>,
    refs: &Refs,
    wish: &Wish,
    heads: &[Id],
    tick: &mut dyn FnMut() -> Outcome<()>,
) -> Outcome<Ends> {
    let mut ends = Ends { cut: wish.shallow.clone(), ..Ends::default() };
    let depth = wish.depth.unwrap_or(ALL);
    let is_all = wish.depth == Some(ALL) && history.shallow.is_empty();
    let found = if wish.depth.is_some() && (wish.since.is_some() || !wish.not.is_empty()) {
        return Err(Trouble::said("deepen and deepen-since (or deepen-not) cannot be used together"));
    } else if wish.since.is_some() || !wish.not.is_empty() {
        selected(history, refs, wish, heads, tick)?
    } else if is_all {
        // Everything that the client lacks.
        Depth { ends: Vec::new(), before: wish.shallow.clone() }
    } else if wish.depth.is_some() && wish.is_relative {
        let reached = history.to_depth(heads, ALL, tick)?;
        let is_reached = |id: &&Id| reached.before.contains(id) || reached.ends.contains(id);
        let from: Vec<Id> = wish.shallow.iter().filter(is_reached).copied().collect();
        history.to_depth(&from, depth.saturating_add(1), tick)?
    } else if wish.depth.is_some() || !history.shallow.is_empty() {
        history.to_depth(heads, depth, tick)?
    } else {
        Depth::default()
    };
    for id in &found.ends {
        if !wish.shallow.contains(id) {
            ends.lines.push(format!("shallow {id}"));
            ends.cut.insert(*id);
        }
    }
    for id in wish.shallow.iter().filter(|id| found.before.contains(id)) {
        ends.lines.push(format!("unshallow {id}"));
        ends.edges.push(*id);
        if let Some(commit) = history.commit(*id)? {
            ends.behind.extend(history.parents(*id, &commit));
        }
    }
    ends.lines.sort_unstable();
    Ok(ends)
}

/// A history without what is too old, and without what other refs reach.
fn selected(
    history: &History<'_>,
    refs: &Refs,
    wish: &Wish,
    heads: &[Id],
    tick: &mut dyn FnMut() -> Outcome<()>,
) -> Outcome<Depth> {
    let mut without = Vec::new();
    for name in &wish.not {
        let full = [&b""[..], b"refs/", b"refs/tags/", b"refs/heads/"]
            .into_iter()
            .find_map(|start| refs.get(&[start, name].concat()));
        let peeled = match full {
            Some(id) => history.peel(id)?,
            None => None,
        };
        let name = String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
        without.push(peeled.ok_or_else(|| Trouble::said(format!("deepen-not is no ref: {name}")))?.id);
    }
    let none = HashSet::new();
    let mut commits = history.between(heads, &without, &none, tick)?;
    if let Some(since) = wish.since {
        // What a commit that is too old comes from is too old as well, whatever its clock said.
        for id in &commits.new {
            if history.known(*id)?.date < since {
                without.push(*id);
            }
        }
        commits = history.between(heads, &without, &none, tick)?;
    }
    let kept: HashSet<Id> = commits.new.into_iter().collect();
    if kept.is_empty() {
        return Err(Trouble::said("no commits selected for shallow requests"));
    }
    let mut depth = Depth::default();
    for id in kept.iter().copied() {
        let commit = history.known(id)?;
        if history.shallow.contains(&id) || commit.parents.iter().any(|parent| !kept.contains(parent)) {
            depth.ends.push(id);
        } else {
            depth.before.insert(id);
        }
    }
    Ok(depth)
}
