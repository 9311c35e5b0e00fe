//! Which refs will change at home, decided before anything is asked for.

use std::collections::{BTreeMap, BTreeSet};

use agent_protocol::retention::{self, Keep};

use super::{
    home::HomeRef,
    object_id::ObjectId,
    refs::{Advertised, RefName, folders},
    snapshot::INSIDE,
};

/// A ref at home that is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name inside; none where it is there no more.
    pub from: Option<RefName>,
    /// Its name at home.
    pub name: RefName,
    /// What it points to.
    pub old: Option<ObjectId>,
    /// What it will point to; none where it goes.
    pub new: Option<ObjectId>,
}

/// Everything that is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// New, moved and pruned refs, by name.
    pub changes: Vec<Change>,
    /// Refs that are in the way of new ones, and go for that.
    pub in_the_way: Vec<Change>,
    /// At home and no longer inside: they stay.
    pub gone: Vec<RefName>,
    /// Objects that are not known to be here.
    pub wants: Vec<ObjectId>,
}

/// What a person chose.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// These branches alone; everything where there are none.
    pub branches: Vec<RefName>,
    /// Whether what is no longer inside goes at home too.
    pub prune: bool,
    /// What is kept of snapshots that are no longer inside, and what time it is; all of them where this is not said.
    pub expiry: Option<(Keep, u64)>,
}

/// Where snapshots are at home, below the sandbox's own place.
const SNAPSHOTS: &str = "snapshots/";

/// Snapshots that are taken at most: the newest.
const MAX_SNAPSHOTS: usize = 5_000;

impl Plan {
    /// Compares what is inside with what is here.
    pub(crate) fn new(inside: &Advertised, home: &[HomeRef], namespace: &str, choice: &Choice) -> Self {
        let here: BTreeMap<&RefName, &ObjectId> = home
            .iter()
            .filter(|one| one.name.as_bytes().starts_with(namespace.as_bytes()))
            .map(|one| (&one.name, &one.id))
            .collect();
        let known: BTreeSet<&ObjectId> = home.iter().map(|one| &one.id).collect();
        let mut plan = Self::default();
        let (mut wants, mut there) = (BTreeSet::new(), BTreeSet::new());
        let oldest = oldest_snapshot(inside);
        for (from, new) in &inside.refs {
            let is_chosen = if choice.branches.is_empty() {
                moment(from.as_bytes()).is_none_or(|at| at >= oldest)
            } else {
                choice.branches.contains(from)
            };
            let Some(name) = from.at_home(namespace).filter(|_| is_chosen) else { continue };
            let old = here.get(&name).copied();
            if old != Some(new) {
                if !known.contains(new) {
                    wants.insert(new.clone());
                }
                let (from, new, old) = (Some(from.clone()), Some(new.clone()), old.cloned());
                plan.changes.push(Change { from, name: name.clone(), old, new });
            }
            there.insert(name);
        }
        plan.wants = wants.into_iter().collect();
        let expired = expired(&here, &there, namespace, choice);
        let needed: BTreeSet<&[u8]> = there.iter().flat_map(|name| folders(name.as_bytes())).collect();
        for (name, old) in here.into_iter().filter(|(name, _)| !there.contains(name)) {
            let goes = Change { from: None, name: name.clone(), old: Some(old.clone()), new: None };
            let in_the_way = needed.contains(name.as_bytes())
                || folders(name.as_bytes())
                    .any(|folder| there.iter().any(|other| other.as_bytes() == folder));
            if in_the_way {
                plan.in_the_way.push(goes);
            } else if !choice.branches.is_empty() {
                // Nobody looked for it.
            } else if choice.prune || expired.contains(name) {
                plan.changes.push(goes);
            } else if is_snapshot(name, namespace) {
                // It goes when its time has come. Until then nobody needs to be told every time.
            } else {
                plan.gone.push(name.clone());
            }
        }
        plan
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.in_the_way.is_empty()
    }
}

/// Whether a ref at home is a snapshot of a sandbox.
pub(crate) fn is_snapshot(name: &RefName, namespace: &str) -> bool {
    snapshot(name, namespace).is_some()
}

/// The worktree and the moment of a snapshot at home.
fn snapshot<'n>(name: &'n RefName, namespace: &str) -> Option<(&'n [u8], u64)> {
    let rest = name.strip_prefix(namespace)?.strip_prefix(SNAPSHOTS.as_bytes())?;
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    Some((&rest[..slash], number(&rest[slash + 1..])?))
}

/// The moment of a snapshot inside.
fn moment(name: &[u8]) -> Option<u64> {
    let rest = name.strip_prefix(INSIDE.as_bytes())?;
    number(&rest[rest.iter().position(|byte| *byte == b'/')? + 1..])
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// The moment from which on there are as many as are taken.
fn oldest_snapshot(inside: &Advertised) -> u64 {
    let mut moments: Vec<u64> = inside.refs.keys().filter_map(|name| moment(name.as_bytes())).collect();
    moments.sort_unstable();
    moments.iter().rev().nth(MAX_SNAPSHOTS - 1).copied().unwrap_or(0)
}

/// Snapshots at home that are no longer inside and go there too: those that would have gone, had they all stayed.
fn expired(
    here: &BTreeMap<&RefName, &ObjectId>,
    there: &BTreeSet<RefName>,
    namespace: &str,
    choice: &Choice,
) -> BTreeSet<RefName> {
    let (Some((keep, now_ms)), true) = (choice.expiry, choice.branches.is_empty()) else {
        return BTreeSet::new();
    };
    let mut worktrees: BTreeMap<&[u8], BTreeMap<u64, &RefName>> = BTreeMap::new();
    for name in there.iter().chain(here.keys().copied()) {
        if let Some((worktree, at)) = snapshot(name, namespace) {
            worktrees.entry(worktree).or_default().insert(at, name);
        }
    }
    let gone = worktrees.values().flat_map(|snapshots| {
        let moments: Vec<u64> = snapshots.keys().copied().collect();
        retention::expired(&moments, now_ms, keep).into_iter().map(|at| snapshots[&at].clone())
    });
    gone.filter(|name| !there.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::object_id::ObjectFormat;

    const PLACE: &str = "refs/agents/web/";

    fn id(digit: char) -> ObjectId {
        ObjectId::parse(digit.to_string().repeat(40).as_bytes(), ObjectFormat::Sha1).unwrap()
    }

    fn name(text: &str) -> RefName {
        RefName::parse(text.as_bytes()).unwrap()
    }

    fn inside(refs: &[(&str, char)]) -> Advertised {
        let refs = refs.iter().map(|(text, digit)| (name(text), id(*digit))).collect();
        Advertised { refs, head: None }
    }

    fn home(refs: &[(&str, char)]) -> Vec<HomeRef> {
        let one = |(text, digit): &(&str, char)| HomeRef { name: name(text), id: id(*digit), is_head: false };
        refs.iter().map(one).collect()
    }

    fn names(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|change| change.name.to_string()).collect()
    }

    #[test]
    fn what_is_known_is_not_asked_for() {
        let inside =
            inside(&[("refs/heads/a", '1'), ("refs/heads/b", '2'), ("refs/heads/c", '3'), ("refs/x/y", '9')]);
        let home = home(&[("refs/agents/web/heads/a", '1'), ("refs/heads/main", '2')]);
        let plan = Plan::new(&inside, &home, PLACE, &Choice::default());
        assert_eq!(names(&plan.changes), ["refs/agents/web/heads/b", "refs/agents/web/heads/c"]);
        assert_eq!(plan.wants, [id('3')]);
    }

    #[test]
    fn what_is_gone_inside_stays_unless_it_is_to_go() {
        let home = home(&[("refs/agents/web/heads/old", '1'), ("refs/agents/web-2/heads/x", '1')]);
        let mut choice = Choice::default();
        let plan = Plan::new(&inside(&[]), &home, PLACE, &choice);
        assert!(plan.is_empty());
        assert_eq!(plan.gone, [name("refs/agents/web/heads/old")]);
        choice.prune = true;
        let plan = Plan::new(&inside(&[]), &home, PLACE, &choice);
        assert_eq!(names(&plan.changes), ["refs/agents/web/heads/old"]);
        choice.branches.push(name("refs/heads/main"));
        assert!(Plan::new(&inside(&[]), &home, PLACE, &choice).is_empty());
    }

    #[test]
    fn snapshots_that_are_gone_inside_stay_until_their_time_has_come() {
        let home = home(&[
            ("refs/agents/web/snapshots/main/10", '1'),
            ("refs/agents/web/snapshots/main/5000", '1'),
            ("refs/agents/web/snapshots/main/5001", '1'),
            ("refs/agents/web/snapshots/fix/20", '1'),
            ("refs/agents/web/snapshots/main/x", '1'),
        ]);
        let inside = inside(&[("refs/agents/snapshots/main/5002", '1')]);
        let mut choice = Choice::default();
        let plan = Plan::new(&inside, &home, PLACE, &choice);
        assert_eq!(names(&plan.changes), ["refs/agents/web/snapshots/main/5002"]);
        assert_eq!(plan.gone, [name("refs/agents/web/snapshots/main/x")]);
        choice.expiry = Some((Keep { count: 50, age_ms: 1000 }, 5500));
        let plan = Plan::new(&inside, &home, PLACE, &choice);
        let gone = names(&plan.changes);
        assert_eq!(gone, ["refs/agents/web/snapshots/main/5002", "refs/agents/web/snapshots/main/10"]);
        choice.expiry = Some((Keep { count: 1, age_ms: 10_000 }, 5500));
        assert_eq!(Plan::new(&inside, &home, PLACE, &choice).changes.len(), 4);
        choice.branches.push(name("refs/heads/x"));
        assert!(Plan::new(&inside, &home, PLACE, &choice).is_empty());
    }

    #[test]
    fn of_very_many_snapshots_the_newest_are_taken() {
        let refs =
            (0..MAX_SNAPSHOTS + 7).map(|at| (name(&format!("refs/agents/snapshots/main/{at}")), id('1')));
        let inside = Advertised { refs: refs.collect(), head: None };
        let plan = Plan::new(&inside, &[], PLACE, &Choice::default());
        assert_eq!(plan.changes.len(), MAX_SNAPSHOTS);
        assert!(!names(&plan.changes).contains(&"refs/agents/web/snapshots/main/6".to_owned()));
    }

    #[test]
    fn what_is_in_the_way_goes() {
        let home = home(&[("refs/agents/web/heads/a", '1'), ("refs/agents/web/heads/b/c", '1')]);
        let inside = inside(&[("refs/heads/a/x", '2'), ("refs/heads/b", '2')]);
        let plan = Plan::new(&inside, &home, PLACE, &Choice::default());
        assert_eq!(names(&plan.in_the_way), ["refs/agents/web/heads/a", "refs/agents/web/heads/b/c"]);
        assert_eq!(plan.changes.len(), 2);
    }
}
