//! What a change of a ref is to a person: commits, files, lines. Told from what was walked where that is enough, and by
//! git otherwise. A failure to tell is no failure to pull.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use git2::Oid;

use super::{
    check::{self, DiffStat},
    host_git::{GitError, HostGit, Running},
    lines,
    object_id::{ObjectFormat, ObjectId},
    objects::Objects,
    plan::{Change, Plan},
    pull::Described,
    quarantine::Quarantine,
    refs,
    whole::Walked,
};

/// Refs whose changes are described one by one.
const MOST_DESCRIBED: usize = 16;

/// For all of these descriptions: they are for people, and what they describe is the agent's choice.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// Private memory of each git that describes; all of them run at once, on what the agent chose.
pub(crate) const DESCRIBE_MEMORY_BYTES: u64 = 256 * 1024 * 1024;

/// What git is asked with.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) git: &'a HostGit,
    pub(crate) quarantine: &'a Quarantine,
    pub(crate) format: ObjectFormat,
    /// What is checked out at home: new branches are compared with where they left its history.
    pub(crate) head: Option<&'a ObjectId>,
    /// Whether few objects came.
    pub(crate) is_little: bool,
    /// When it must have answered.
    pub(crate) until: Instant,
}

/// Descriptions on their way, one for each change that has one.
pub(crate) struct Descriptions {
    each: Vec<(Counting, Comparing)>,
}

/// Commits of a change that came, and that were left behind.
enum Counting {
    Known((u64, u64)),
    Asked(Running),
    None,
}

/// What changed in files.
enum Comparing {
    Known(DiffStat),
    Asked(Running),
    None,
}

impl<'a> Asking<'a> {
    /// With an end to it.
    pub(crate) fn within(self, until: Instant) -> Self {
        Self { until: until.min(Instant::now() + DESCRIBE_WITHIN), ..self }
    }

    /// Has everything told. What was walked answers at once; git begins to work on the rest.
    pub(crate) fn ask(self, changes: &[Change], walked: Option<(&Objects<'a>, &Walked)>) -> Descriptions {
        let mut asked = BTreeSet::new();
        let one = |change: &Change| {
            let Some(new) = change.new.as_ref().filter(|_| is_described(change, changes)) else {
                return (Counting::None, Comparing::None);
            };
            let counting = match &change.old {
                Some(old) => self.count(old, new, walked),
                None => Counting::None,
            };
            // What two branches share is told once.
            let base = change.old.as_ref().or(self.head);
            let is_first = asked.insert((base.cloned(), new.clone()));
            let comparing =
                if is_first { self.compare(change.old.as_ref(), new, walked) } else { Comparing::None };
            (counting, comparing)
        };
        Descriptions { each: changes.iter().take(MOST_DESCRIBED).map(one).collect() }
    }

    fn count(self, old: &ObjectId, new: &ObjectId, walked: Option<(&Objects<'a>, &Walked)>) -> Counting {
        let known = walked.and_then(|(_, walked)| walked.since(old.oid()?, new.oid()?));
        match known {
            Some(commits) => Counting::Known((commits, 0)),
            None => ask_count(self.git, self.quarantine, old, new, self.until)
                .map_or(Counting::None, Counting::Asked),
        }
    }

    fn compare(
        self,
        old: Option<&ObjectId>,
        new: &ObjectId,
        walked: Option<(&Objects<'a>, &Walked)>,
    ) -> Comparing {
        let known = walked.and_then(|(objects, walked)| {
            let new = new.oid()?;
            let base = match old {
                Some(old) => old.oid()?,
                // It grew out of what is checked out.
                None => {
                    self.head.and_then(ObjectId::oid).filter(|head| walked.since(*head, new).is_some())?
                }
            };
            let tree = |commit: Oid| Some(objects.commit(commit)?.0.tree);
            lines::count(objects, tree(base)?, tree(new)?)
        });
        if let Some(stat) = known {
            return Comparing::Known(stat);
        }
        let base = match (old, self.head) {
            (Some(old), _) => (old.as_str(), false),
            (None, Some(head)) => (head.as_str(), true),
            // Every line of every file would have to be read, to say that all of it is new.
            (None, None) if !self.is_little => return Comparing::None,
            (None, None) => (check::empty_tree(self.format), false),
        };
        check::ask_diff(self.git, self.quarantine, base, new, self.until)
            .map_or(Comparing::None, Comparing::Asked)
    }
}

impl Descriptions {
    /// The answers, and all changes together.
    pub(crate) fn answers(self, plan: &Plan) -> (Vec<Described>, DiffStat) {
        let (mut described, mut total) = plain(plan);
        for (one, (counting, comparing)) in described.iter_mut().zip(self.each) {
            one.commits = match counting {
                Counting::Known(commits) => Some(commits),
                Counting::Asked(asked) => asked.output(1024).ok().and_then(|said| parse_counts(&said)),
                Counting::None => None,
            };
            one.diff = match comparing {
                Comparing::Known(stat) => Some(stat),
                Comparing::Asked(asked) => check::diff(asked),
                Comparing::None => None,
            };
            if let Some(diff) = one.diff {
                total.files += diff.files;
                total.insertions += diff.insertions;
                total.deletions += diff.deletions;
            }
        }
        (described, total)
    }
}

/// The changes alone.
pub(crate) fn plain(plan: &Plan) -> (Vec<Described>, DiffStat) {
    let all = plan.changes.iter().chain(&plan.in_the_way).cloned();
    (all.map(|change| Described { change, commits: None, diff: None }).collect(), DiffStat::default())
}

/// What a person thinks of as work: branches, and the checked-out commit where it is on none that changed as well.
fn is_described(change: &Change, changes: &[Change]) -> bool {
    let is_branch =
        |change: &Change| change.from.as_ref().is_some_and(|from| from.strip_prefix("refs/heads/").is_some());
    let is_head = change.from.as_ref().is_some_and(|from| from.as_bytes() == refs::HEAD.as_bytes());
    is_branch(change) || (is_head && !changes.iter().any(|other| is_branch(other) && other.new == change.new))
}

fn ask_count(
    git: &HostGit,
    quarantine: &Quarantine,
    old: &ObjectId,
    new: &ObjectId,
    until: Instant,
) -> Result<Running, GitError> {
    let mut command = git.on(quarantine.git_dir());
    command.args(["rev-list", "--left-right", "--count", &format!("{old}...{new}"), "--"]);
    git.start(command, "rev-list", until)
}

/// `LEFT<tab>RIGHT`: of the old value alone, and of the new one alone.
fn parse_counts(said: &[u8]) -> Option<(u64, u64)> {
    let (lost, new) = std::str::from_utf8(said).ok()?.trim().split_once('\t')?;
    Some((new.parse().ok()?, lost.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_both_sides() {
        assert_eq!(parse_counts(b"0\t5\n"), Some((5, 0)));
        assert_eq!(parse_counts(b"2\t1\n"), Some((1, 2)));
        assert_eq!(parse_counts(b"fatal"), None);
    }
}
