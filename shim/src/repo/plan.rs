//! Which refs will change at home, decided before anything is asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    home::HomeRef,
    object_id::ObjectId,
    refs::{Advertised, RefName, folders},
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
}

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
        for (from, new) in &inside.refs {
            let is_chosen = choice.branches.is_empty() || choice.branches.contains(from);
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
            } else if choice.prune {
                plan.changes.push(goes);
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
    fn what_is_in_the_way_goes() {
        let home = home(&[("refs/agents/web/heads/a", '1'), ("refs/agents/web/heads/b/c", '1')]);
        let inside = inside(&[("refs/heads/a/x", '2'), ("refs/heads/b", '2')]);
        let plan = Plan::new(&inside, &home, PLACE, &Choice::default());
        assert_eq!(names(&plan.in_the_way), ["refs/agents/web/heads/a", "refs/agents/web/heads/b/c"]);
        assert_eq!(plan.changes.len(), 2);
    }
}
