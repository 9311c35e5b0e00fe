//! One pull: from two lists of refs to objects and refs at home, or to nothing at all.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use super::{
    check::{self, CheckError, DiffStat, Followed, Found},
    dialogue::Fetch,
    home::{HomeError, HomeRef, HomeRepository},
    host_git::{GitError, HostGit, Running},
    object_id::{ObjectFormat, ObjectId},
    plan::{Change, Choice, Plan},
    publish::{PublishError, Publisher},
    quarantine::Quarantine,
    refs::{self, RefName},
    session::{Limits, Session, SessionError},
    source::{Source, SourceError},
};
use crate::sandbox::name::Name;

/// Refs of ours that a server hears of at first: what it gave us last time is among them.
const FIRST_HAVES: usize = 1024;

/// Commits that it hears of where that was not enough.
const MORE_HAVES: &str = "--max-count=8192";

/// Refs whose changes are described one by one.
const MOST_DESCRIBED: usize = 16;

/// For all of these descriptions: they are for people, and what they describe is the agent's choice.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// Tries where another pull was faster. Each costs a round of questions; one that always loses is behind the others
/// by no more than what came last.
const TRIES: u32 = 20;

/// What is to be pulled, and how.
#[derive(Clone, Debug)]
pub struct Pull<'a> {
    /// Whose work it is.
    pub name: &'a Name,
    /// Who speaks for it.
    pub source: Source<'a>,
    /// A folder of the repository that it goes to.
    pub into: &'a Path,
    /// What the agent writes on this host: no repository in there is ever opened.
    pub agents_own: &'a [PathBuf],
    /// Which refs.
    pub choice: Choice,
    /// How much, how long.
    pub limits: Limits,
    /// Whether everything is done but the last step.
    pub dry_run: bool,
}

/// What came.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The repository at home.
    pub repository: PathBuf,
    /// Refs that changed, or would.
    pub refs: Vec<Described>,
    /// Refs that are no longer inside and stay at home.
    pub gone: Vec<RefName>,
    /// New commits and objects.
    pub found: Found,
    /// All changes together; a change that two branches share counts once.
    pub diff: DiffStat,
}

/// A changed ref, and what its change is.
#[derive(Clone, Debug)]
pub struct Described {
    /// The change.
    pub change: Change,
    /// Commits that the new value reaches and the old one does not, and the other way round: of the latter there
    /// are some where history was rewritten. Only for refs that were there.
    pub commits: Option<(u64, u64)>,
    /// What changed in files, where that could be told.
    pub diff: Option<DiffStat>,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The place it was to go to is the agent's.
    #[error("{} is what the agent itself writes: there is nothing to bring home", .0.display())]
    AgentsOwn(PathBuf),
    /// No repository to go to.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Nobody speaks for it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What was said is not believed.
    #[error("the repository inside cannot be pulled")]
    Session(#[source] SessionError),
    /// The names of objects are of another kind.
    #[error("its objects are named with {inside}, those of {} with {home}", .repository.display())]
    Format {
        /// Inside.
        inside: &'static str,
        /// At home.
        home: &'static str,
        /// The repository at home.
        repository: PathBuf,
    },
    /// The host's git failed, or refused what came.
    #[error("what came was refused")]
    Refused(#[source] GitError),
    /// The host's git is missing, too old, or broken.
    #[error(transparent)]
    Git(#[from] GitError),
    /// What came is not taken.
    #[error("what came was refused")]
    Check(#[from] CheckError),
    /// There is no place to put it for the time being.
    #[error("making a place in {}", .0.display())]
    Quarantine(PathBuf, #[source] std::io::Error),
    /// It could not be published.
    #[error("nothing was changed")]
    Publish(#[from] PublishError),
    /// A branch that was asked for is not there.
    #[error("there is no branch `{0}` inside")]
    NoBranch(String),
}

impl Pull<'_> {
    /// Does it.
    pub fn run(&self) -> Result<Pulled, PullError> {
        let until = Instant::now() + self.limits.time;
        let git = HostGit::find(self.limits.memory_bytes)?;
        let mut tries = 1;
        loop {
            match self.attempt(&git, until) {
                // Somebody else moved the same refs meanwhile: what they are now decides.
                Err(PullError::Publish(PublishError::Refs(_))) if tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    fn attempt(&self, git: &HostGit, until: Instant) -> Result<Pulled, PullError> {
        let is_agents = |path: &Path| self.agents_own.iter().any(|own| path.starts_with(own));
        if is_agents(self.into) {
            return Err(PullError::AgentsOwn(self.into.to_owned()));
        }
        // The other side works while we look around here.
        let opening = self.source.open()?;
        let home = match HomeRepository::of(git, self.into, until) {
            Ok(home) => home,
            Err(error) => {
                git.check_version(until)?;
                return Err(error.into());
            }
        };
        if is_agents(&home.git_dir) || is_agents(&home.objects) {
            return Err(PullError::AgentsOwn(home.git_dir));
        }
        let asked = home.ask_refs(git, until)?;
        let (stream, _speaker) = opening.stream(until)?;
        let mut session = Session::open(stream, self.limits, until).map_err(explained)?;
        if session.format() != home.format {
            let (inside, home_format) = (session.format().name(), home.format.name());
            return Err(PullError::Format { inside, home: home_format, repository: home.git_dir });
        }
        let inside = session.list_refs().map_err(explained)?;
        if let Some(missing) = self.choice.branches.iter().find(|name| !inside.refs.contains_key(name)) {
            return Err(PullError::NoBranch(missing.to_string()));
        }
        let here = home.refs(asked)?;
        let namespace = refs::namespace(self.name);
        let plan = Plan::new(&inside, &here, &namespace, &self.choice);
        let quarantine = if plan.wants.is_empty() {
            None
        } else {
            let shallow = home.shallow()?;
            let made = Quarantine::new(&home, &shallow);
            let mut quarantine = made.map_err(|error| PullError::Quarantine(home.objects.clone(), error))?;
            let pull =
                Transfer { git, home: &home, here: &here, namespace: &namespace, shallow: &shallow, until };
            pull.run(&mut session, &plan.wants, &mut quarantine)?;
            Some(quarantine)
        };
        session.close();
        self.take(git, &home, (&here, plan), quarantine.as_ref(), until)
    }

    /// Checks, describes and publishes.
    fn take(
        &self,
        git: &HostGit,
        home: &HomeRepository,
        (here, plan): (&[HomeRef], Plan),
        quarantine: Option<&Quarantine>,
        until: Instant,
    ) -> Result<Pulled, PullError> {
        let until_described = until.min(Instant::now() + DESCRIBE_WITHIN);
        let asked = quarantine.map(|quarantine| {
            let head = here.iter().find(|one| one.is_head);
            Descriptions::ask(
                git,
                quarantine,
                &plan.changes,
                head.map(|head| &head.id),
                home.format,
                until_described,
            )
        });
        let with_objects = quarantine.filter(|quarantine| !quarantine.is_empty());
        let publisher = (!self.dry_run && !plan.is_empty())
            .then(|| Publisher::new(git, home, with_objects, until))
            .transpose()
            .map_err(PublishError::Git)?;
        let known: BTreeSet<&ObjectId> = here.iter().map(|one| &one.id).collect();
        let known: Vec<ObjectId> = known.into_iter().cloned().collect();
        let found = match quarantine {
            Some(quarantine) => check::follow(git, quarantine, &plan.wants, &known, until)?,
            None => Followed::default(),
        };
        let (refs, diff) = match asked {
            Some(asked) => asked.answers(&plan, &found),
            None => plain(&plan),
        };
        if let Some(publisher) = publisher {
            publisher.publish((&plan.in_the_way, &plan.changes))?;
        }
        Ok(Pulled { repository: home.git_dir.clone(), refs, gone: plan.gone, found: found.count, diff })
    }
}

/// A refusal by the host's git stands for itself.
fn explained(error: SessionError) -> PullError {
    match error {
        SessionError::Sink(source) => match source.downcast::<GitError>() {
            Ok(error) => PullError::Refused(*error),
            Err(source) => PullError::Session(SessionError::Sink(source)),
        },
        error => PullError::Session(error),
    }
}

/// Objects on their way.
struct Transfer<'a> {
    git: &'a HostGit,
    home: &'a HomeRepository,
    here: &'a [HomeRef],
    namespace: &'a str,
    shallow: &'a [ObjectId],
    until: Instant,
}

impl Transfer<'_> {
    fn run(
        &self,
        session: &mut Session,
        wants: &[ObjectId],
        quarantine: &mut Quarantine,
    ) -> Result<(), PullError> {
        let haves = self.first_haves();
        let mut indexer = quarantine.indexer(self.git, self.until).map_err(PullError::Refused)?;
        let first = Fetch { wants, haves: &haves, shallow: self.shallow, done: haves.is_empty() };
        if let Some(mut common) = session.fetch(&first, &mut indexer).map_err(explained)? {
            common.extend(self.more_haves()?);
            common.sort_unstable();
            common.dedup();
            let last = Fetch { wants, haves: &common, shallow: self.shallow, done: true };
            session.fetch(&last, &mut indexer).map_err(explained)?;
        }
        indexer.finish().map_err(PullError::Refused)
    }

    /// What the refs here point to, what came from this sandbox first.
    fn first_haves(&self) -> Vec<ObjectId> {
        let is_its = |one: &&HomeRef| one.name.as_bytes().starts_with(self.namespace.as_bytes());
        let its = self.here.iter().filter(is_its);
        let head = self.here.iter().filter(|one| one.is_head);
        let others = self.here.iter().filter(|one| !is_its(one) && !one.is_head);
        let mut seen = BTreeSet::new();
        let all = its.chain(head).chain(others).map(|one| &one.id);
        all.filter(|id| seen.insert(*id)).take(FIRST_HAVES).cloned().collect()
    }

    /// The newest commits here.
    fn more_haves(&self) -> Result<Vec<ObjectId>, GitError> {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["rev-list", MORE_HAVES, "--stdin"]).stdin(Stdio::piped());
        let mut running = self.git.start(command, "rev-list", self.until)?;
        let tips: String = self.here.iter().map(|one| format!("{}\n", one.id)).collect();
        running.write(tips.as_bytes())?;
        running.end_input();
        let said = running.output(usize::MAX)?;
        let lines = said.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| ObjectId::parse(line, self.home.format)).collect())
    }
}

/// Questions about changes that git works on.
struct Descriptions<'a> {
    git: &'a HostGit,
    quarantine: &'a Quarantine,
    until: Instant,
    diffs: Vec<Option<Running>>,
}

impl<'a> Descriptions<'a> {
    fn ask(
        git: &'a HostGit,
        quarantine: &'a Quarantine,
        changes: &[Change],
        head: Option<&ObjectId>,
        format: ObjectFormat,
        until: Instant,
    ) -> Self {
        let mut asked = BTreeSet::new();
        let one = |change: &Change| {
            let new = change.new.as_ref().filter(|_| is_described(change, changes))?;
            let base = match (&change.old, head) {
                (Some(old), _) => (old.as_str(), false),
                (None, Some(head)) => (head.as_str(), true),
                (None, None) => (check::empty_tree(format), false),
            };
            // What two branches share is told once. A failure to tell is no failure to pull.
            let is_first = asked.insert((base.0.to_owned(), new.clone()));
            is_first.then(|| check::ask_diff(git, quarantine, base, new, until).ok()).flatten()
        };
        let diffs = changes.iter().take(MOST_DESCRIBED).map(one).collect();
        Self { git, quarantine, until, diffs }
    }

    fn answers(self, plan: &Plan, followed: &Followed) -> (Vec<Described>, DiffStat) {
        let (mut described, mut total) = plain(plan);
        let is_only = plan.wants.len() == 1;
        let counts: Vec<_> = described
            .iter()
            .take(MOST_DESCRIBED)
            .map(|one| self.ask_count(&one.change, &plan.changes, is_only.then_some(followed)))
            .collect();
        for ((one, diff), count) in described.iter_mut().zip(self.diffs).zip(counts) {
            one.diff = diff.and_then(check::diff);
            one.commits = match count {
                Count::Known(commits) => Some((commits, 0)),
                Count::Asked(asked) => asked.output(1024).ok().and_then(|said| parse_counts(&said)),
                Count::None => None,
            };
            if let Some(diff) = one.diff {
                total.files += diff.files;
                total.insertions += diff.insertions;
                total.deletions += diff.deletions;
            }
        }
        (described, total)
    }

    /// Where one thing is new and grew out of what was there, everything that came belongs to it.
    fn ask_count(&self, change: &Change, changes: &[Change], only: Option<&Followed>) -> Count {
        let (Some(old), Some(new), true) = (&change.old, &change.new, is_described(change, changes)) else {
            return Count::None;
        };
        match only {
            Some(followed) if followed.borders.contains(old) => Count::Known(followed.count.commits),
            _ => ask_count(self.git, self.quarantine, old, new, self.until).map_or(Count::None, Count::Asked),
        }
    }
}

/// Commits of a change.
enum Count {
    Known(u64),
    Asked(Running),
    None,
}

fn plain(plan: &Plan) -> (Vec<Described>, DiffStat) {
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
