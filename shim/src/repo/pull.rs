//! One pull: from two lists of refs to objects and refs at home, or to nothing at all.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    rc::Rc,
    thread,
    time::Instant,
};

use super::{
    check::{self, CheckError, DiffStat, Found},
    describe::{self, Asking},
    dialogue::Fetch,
    home::{HomeError, HomeRef, HomeRepository},
    host_git::{GitError, HostGit},
    merge::{Merge, MergeError, Merged},
    object_id::ObjectId,
    objects::Objects,
    plan::{Change, Choice, Plan},
    publish::{PublishError, Publisher},
    quarantine::Quarantine,
    refs::{self, Advertised, RefName},
    session::{Limits, Session, SessionError},
    source::{Source, SourceError},
    upkeep,
    watch::Watch,
    whole::{self, Walked},
};
use crate::sandbox::name::Name;

/// Refs of ours that a server hears of at first: what it gave us last time is among them.
const FIRST_HAVES: usize = 1024;

/// Commits that it hears of where that was not enough.
const MORE_HAVES: &str = "--max-count=8192";

/// Objects that are looked at without a process; for more git is faster.
const NEAR_OBJECTS: u32 = 10_000;

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
    /// How much came.
    pub found: Found,
    /// All changes together; a change that two branches share counts once.
    pub diff: DiffStat,
    /// What a merge would merge: the branch that was asked for, or the one that is checked out inside.
    pub to_merge: Option<(RefName, ObjectId)>,
    /// Where the objects are after a dry run.
    came: Option<Rc<Quarantine>>,
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
    /// The person called it off.
    #[error("it was called off; nothing was changed")]
    Cancelled,
    /// A branch that was asked for is not there.
    #[error("there is no branch `{0}` inside")]
    NoBranch(String),
}

impl PullError {
    /// Whether the host's git said no.
    fn is_gits(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Git(_)
                | Self::Check(CheckError::NotWhole(_))
                | Self::Publish(PublishError::Refs(_) | PublishError::Git(_))
                | Self::Home(_)
        )
    }
}

impl Pull<'_> {
    /// Does it.
    pub fn run(&self) -> Result<Pulled, PullError> {
        self.run_watched(Watch::default())
    }

    /// Does it, and tells how it goes. Called off, it leaves nothing behind.
    pub fn run_watched(&self, watch: Watch<'_>) -> Result<Pulled, PullError> {
        let until = Instant::now() + self.limits.time;
        let git = HostGit::find(self.limits.memory_bytes)?.interrupted_by(watch.interrupt);
        let mut tries = 1;
        loop {
            match self.attempt(&git, watch, until) {
                // Whatever failed, it failed for that.
                Err(_) if watch.is_called_off() => return Err(PullError::Cancelled),
                // Somebody else moved the same refs meanwhile: what they are now decides.
                Err(PullError::Publish(PublishError::Refs(_))) if tries < TRIES => tries += 1,
                Err(error) => {
                    // One that is too old fails in any way.
                    if error.is_gits() {
                        git.check_version(until)?;
                    }
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    fn attempt(&self, git: &HostGit, watch: Watch<'_>, until: Instant) -> Result<Pulled, PullError> {
        let is_agents = |path: &Path| self.agents_own.iter().any(|own| path.starts_with(own));
        if is_agents(self.into) {
            return Err(PullError::AgentsOwn(self.into.to_owned()));
        }
        // The other side works while we look around here.
        let opening = self.source.open()?;
        let home = HomeRepository::of(git, self.into, &is_agents, until).map_err(|error| match error {
            HomeError::Forbidden(place) => PullError::AgentsOwn(place),
            error => error.into(),
        })?;
        let asked = home.ask_refs(git, until)?;
        let (stream, _speaker) = opening.stream(until, watch.interrupt)?;
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
        let shallow = if plan.wants.is_empty() { Vec::new() } else { home.shallow()? };
        let mut arrival = if plan.wants.is_empty() {
            Arrival::default()
        } else {
            let pull =
                Transfer { git, home: &home, here: &here, namespace: &namespace, shallow: &shallow, until };
            pull.run(&mut session, &plan.wants, watch, !self.dry_run)?
        };
        session.close();
        if arrival.publisher.is_none() && !self.dry_run && !plan.is_empty() {
            let publisher = Publisher::new(git, &home, None, until);
            arrival.publisher = Some(publisher.map_err(PublishError::Git)?);
        }
        let (refs, commits, diff) = take(
            git,
            &home,
            (&here, &plan),
            arrival.publisher,
            (arrival.quarantine.as_ref(), arrival.is_little),
            until,
        )?;
        let to_merge =
            to_merge(&inside, &self.choice).and_then(|(from, id)| Some((from.at_home(&namespace)?, id)));
        if !self.dry_run && arrival.objects > 0 {
            upkeep::look_after(git, &home, until);
        }
        let found = Found { commits, objects: arrival.objects.into() };
        let came = arrival.quarantine.filter(|_| self.dry_run).map(Rc::new);
        Ok(Pulled { repository: home.git_dir, refs, gone: plan.gone, found, diff, to_merge, came })
    }

    /// Merges what was pulled into the branch that is checked out at home. Nothing where nothing is to be merged.
    pub fn merge(&self, pulled: &Pulled) -> Result<Option<Merged>, MergeError> {
        let Some((name, id)) = &pulled.to_merge else { return Ok(None) };
        let merge = Merge {
            into: self.into,
            agents_own: self.agents_own,
            name,
            id,
            came: pulled.came.as_deref(),
            dry_run: self.dry_run,
            until: Instant::now() + self.limits.time,
        };
        merge.run().map(Some)
    }
}

/// The branch that was asked for, or what is checked out inside: a branch, or a commit that is on none.
fn to_merge(inside: &Advertised, choice: &Choice) -> Option<(RefName, ObjectId)> {
    let head = || inside.head.clone().filter(|head| inside.refs.contains_key(head));
    let from = match &choice.branches[..] {
        [] => head().or_else(|| RefName::parse(refs::HEAD.as_bytes())),
        [branch] => Some(branch.clone()),
        _ => None,
    }?;
    let id = inside.refs.get(&from)?.clone();
    Some((from, id))
}

/// Checks, describes and publishes.
fn take(
    git: &HostGit,
    home: &HomeRepository,
    (here, plan): (&[HomeRef], &Plan),
    publisher: Option<Publisher<'_>>,
    (quarantine, is_little): (Option<&Quarantine>, bool),
    until: Instant,
) -> Result<(Vec<Described>, u64, DiffStat), PullError> {
    let Some(quarantine) = quarantine else {
        let (refs, diff) = describe::plain(plan);
        if let Some(publisher) = publisher {
            publisher.publish(None, (&plan.in_the_way, &plan.changes), || Ok(()))?;
        }
        return Ok((refs, 0, diff));
    };
    let head = here.iter().find(|one| one.is_head).map(|head| &head.id);
    let modest = git.within_memory(describe::DESCRIBE_MEMORY_BYTES);
    let asking =
        Asking { git: &modest, quarantine, format: home.format, head, is_little, until }.within(until);
    thread::scope(|scope| {
        // The disk is slow, and has nothing to do with what is checked here.
        let durable = scope.spawn(|| quarantine.make_durable());
        let wait_for_disk =
            || durable.join().unwrap_or_else(|_| Err(io::Error::other("waiting for the disk")));
        let objects = is_little.then(|| Objects::of(home, quarantine)).flatten();
        let near = objects.as_ref().and_then(|objects| Some((objects, walked(objects, here, plan)?)));
        let asked = asking.ask(&plan.changes, near.as_ref().map(|(objects, walked)| (*objects, walked)));
        let commits = match &near {
            Some((_, walked)) => walked.new_commits(),
            None => follow(git, quarantine, here, plan, until)?,
        };
        let (refs, diff) = asked.answers(plan);
        if let Some(publisher) = publisher {
            publisher.publish(Some(quarantine), (&plan.in_the_way, &plan.changes), wait_for_disk)?;
        }
        Ok((refs, commits, diff))
    })
}

/// What came, followed by git.
fn follow(
    git: &HostGit,
    quarantine: &Quarantine,
    here: &[HomeRef],
    plan: &Plan,
    until: Instant,
) -> Result<u64, CheckError> {
    let known: BTreeSet<&ObjectId> = here.iter().map(|one| &one.id).collect();
    let known: Vec<ObjectId> = known.into_iter().cloned().collect();
    check::follow(git, quarantine, &plan.wants, &known, until)
}

/// What came, walked without a process, if that shows that it is whole.
fn walked(objects: &Objects<'_>, here: &[HomeRef], plan: &Plan) -> Option<Walked> {
    let known: Option<HashSet<_>> = here.iter().map(|one| one.id.oid()).collect();
    let tips: Option<Vec<_>> = plan.wants.iter().map(ObjectId::oid).collect();
    whole::walk(objects, &tips?, &known?)
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

/// Objects that have come, and who will publish them.
#[derive(Default)]
struct Arrival<'a> {
    publisher: Option<Publisher<'a>>,
    quarantine: Option<Quarantine>,
    objects: u32,
    /// Whether it can be looked at without a process.
    is_little: bool,
}

impl<'a> Transfer<'a> {
    /// Has everything come into a quarantine. While the other side makes the pack, everything is started that takes it.
    fn run(
        &self,
        session: &mut Session,
        wants: &[ObjectId],
        watch: Watch<'_>,
        publishes: bool,
    ) -> Result<Arrival<'a>, PullError> {
        let haves = self.first_haves();
        let first = Fetch { wants, haves: &haves, shallow: self.shallow, done: haves.is_empty() };
        session.ask(&first).map_err(explained)?;
        let made = Quarantine::new(self.home, self.shallow);
        let mut quarantine = made.map_err(|error| PullError::Quarantine(self.home.objects.clone(), error))?;
        let mut indexer = quarantine.indexer(self.git, watch, self.until).map_err(PullError::Refused)?;
        let publisher = publishes
            .then(|| Publisher::new(self.git, self.home, Some(indexer.quarantine()), self.until))
            .transpose()
            .map_err(PublishError::Git)?;
        if let Some(mut common) = session.receive(&first, &mut indexer).map_err(explained)? {
            common.extend(self.more_haves()?);
            common.sort_unstable();
            common.dedup();
            let last = Fetch { wants, haves: &common, shallow: self.shallow, done: true };
            session.ask(&last).map_err(explained)?;
            session.receive(&last, &mut indexer).map_err(explained)?;
        }
        let objects = indexer.finish().map_err(PullError::Refused)?;
        let is_little = objects <= NEAR_OBJECTS && self.shallow.is_empty();
        Ok(Arrival { publisher, quarantine: Some(quarantine), objects, is_little })
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
