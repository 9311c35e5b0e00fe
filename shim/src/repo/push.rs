//! Commits of the host's go into a sandbox: the branches that a person names, and nothing else.
//!
//! Git inside takes them; what it may do with what is checked out is said there. What it says is believed by nobody: it
//! can refuse, and it can lie about what it did with its own repository, but not more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_protocol::message::{GitRequest, GitService};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{
    dialogue::Nonsense,
    home::{HomeError, HomeRepository},
    host_git::{GitError, HostGit},
    object_id::ObjectId,
    pkt::{self, FLUSH, Malformed, Packet},
    receive::{self, Command, Greeting, Report},
    refs::RefName,
    source::{ANSWER_PATIENCE, FIRST_BYTE_WITHIN, SourceError},
};
use crate::{
    client::git::{self, GitStream},
    sandbox::endpoint::{EndpointError, Reach},
};

/// For all of it, unless the person says otherwise.
pub const PUSH_WITHIN: Duration = Duration::from_hours(1);

/// For git inside to take the next bytes, or to say the next one.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_mins(2);

/// Bytes that it may say in all; a ref is a line.
const MAX_TALK_BYTES: usize = 64 * 1024 * 1024;

/// Private memory of each git on the host, bytes.
const MEMORY_BYTES: u64 = 4 << 30;

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// A branch on its way, as the person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What goes: a branch, or anything else that names a commit.
    pub from: String,
    /// Its name inside.
    pub to: RefName,
}

/// What is to be pushed, and how.
#[derive(Debug)]
pub struct Push<'a> {
    /// Where it goes to.
    pub reach: &'a Reach<'a>,
    /// A folder of the repository that it comes from.
    pub from: &'a Path,
    /// What the agent writes on this host: no repository in there is ever opened.
    pub agents_own: &'a [PathBuf],
    /// Which branches; the one that is checked out, without any.
    pub wishes: &'a [Wish],
    /// Whether commits inside may be left behind.
    pub force: bool,
    /// Whether nothing is sent.
    pub dry_run: bool,
    /// Until all is done.
    pub time: Duration,
}

/// What went.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Branches that changed, or would.
    pub refs: Vec<Sent>,
    /// Branches that were as they should be.
    pub unchanged: Vec<RefName>,
    /// What git inside said beside that, such as the words of hooks. From inside: show it sanitised.
    pub said: Vec<String>,
}

/// A branch that went.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its name inside.
    pub name: RefName,
    /// What it pointed to there.
    pub old: Option<ObjectId>,
    /// What it points to.
    pub new: ObjectId,
    /// Commits that were new there.
    pub commits: u64,
    /// Whether others were left behind.
    pub forced: bool,
}

/// Why nothing went.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The repository that it was to come from is the agent's.
    #[error("{} is what the agent itself works in: there is nothing to push", .0.display())]
    AgentsOwn(PathBuf),
    /// No repository to come from.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Nothing of that name.
    #[error("there is no branch or commit `{0}` in {place}", place = .1.display())]
    NoCommit(String, PathBuf),
    /// No branch is checked out.
    #[error("no branch is checked out in {}", .0.display())]
    NoBranch(PathBuf),
    /// Nobody takes it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What was said makes no sense.
    #[error("git inside cannot be pushed to")]
    Nonsense(#[from] Nonsense),
    /// Not even a packet.
    #[error("git inside cannot be pushed to")]
    Malformed(#[from] Malformed),
    /// It has gone.
    #[error("git inside ended in the middle")]
    Ended,
    /// No sign of life.
    #[error("git inside gave no sign of life for {} s", .0.as_secs())]
    Silent(Duration),
    /// The total is used up.
    #[error("it took longer than {} s", .0.as_secs())]
    TooLong(Duration),
    /// The kernel.
    #[error("speaking with git inside")]
    Io(#[source] io::Error),
    /// The names of objects are of another kind.
    #[error("objects inside are named with {inside}, those of {} with {home}", .repository.display())]
    Format {
        /// Inside.
        inside: &'static str,
        /// At home.
        home: &'static str,
        /// The repository at home.
        repository: PathBuf,
    },
    /// Commits inside would be left behind.
    #[error("`{0}` inside has commits that this would leave behind")]
    NotForward(RefName),
    /// Git inside says no. Its words come from inside.
    #[error("git inside refused it: {why}", why = .1)]
    Refused(Option<RefName>, String),
    /// The host's git failed.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl From<EndpointError> for PushError {
    fn from(error: EndpointError) -> Self {
        Self::Source(error.into())
    }
}

impl Push<'_> {
    /// Does it.
    pub fn run(&self) -> Result<Pushed, PushError> {
        let until = Instant::now() + self.time;
        let git = HostGit::find(MEMORY_BYTES)?;
        let is_agents = |path: &Path| self.agents_own.iter().any(|own| path.starts_with(own));
        if is_agents(self.from) {
            return Err(PushError::AgentsOwn(self.from.to_owned()));
        }
        let home = HomeRepository::of(&git, self.from, &is_agents, until).map_err(|error| match error {
            HomeError::Forbidden(place) => PushError::AgentsOwn(place),
            error => error.into(),
        })?;
        let local = Local { git: &git, home: &home, until };
        let wanted = self.wanted(&local)?;
        let mut talk = Talk::open(self.reach, until, self.time)?;
        let greeting = talk.greeting()?;
        if greeting.format() != home.format {
            let (inside, home_format) = (greeting.format().name(), home.format.name());
            return Err(PushError::Format { inside, home: home_format, repository: home.git_dir });
        }
        let known = local.known(greeting.refs.values().chain(&greeting.haves))?;
        let mut pushed = Pushed { refs: Vec::new(), unchanged: Vec::new(), said: Vec::new() };
        for (name, new) in wanted {
            let old = greeting.refs.get(&name).cloned();
            if old.as_ref() == Some(&new) {
                pushed.unchanged.push(name);
                continue;
            }
            let forced = match &old {
                Some(old) => !known.contains(old) || !local.reaches(&new, old)?,
                None => false,
            };
            if forced && !self.force {
                return Err(PushError::NotForward(name));
            }
            let commits = local.count(&new, &known)?;
            pushed.refs.push(Sent { name, old, new, commits, forced });
        }
        if pushed.refs.is_empty() || self.dry_run {
            talk.leave();
            return Ok(pushed);
        }
        let commands: Vec<_> = pushed.refs.iter().map(Sent::command).collect();
        let shallow = home.shallow()?;
        talk.say(&receive::commands(&greeting, &commands, &shallow))?;
        local.send(&commands, &known, !shallow.is_empty(), &mut talk)?;
        let report = talk.report()?;
        pushed.said = report.said();
        match report.accept(&commands) {
            Ok(()) => Ok(pushed),
            Err((name, why)) => Err(PushError::Refused(name, why)),
        }
    }

    /// Names inside, and what they are to point to.
    fn wanted(&self, local: &Local<'_>) -> Result<BTreeMap<RefName, ObjectId>, PushError> {
        if self.wishes.is_empty() {
            let name = local.checked_out(self.from)?;
            let id = local.commit(&String::from_utf8_lossy(name.as_bytes()), self.from)?;
            return Ok(BTreeMap::from([(name, id)]));
        }
        let wish = |wish: &Wish| Ok((wish.to.clone(), local.commit(&wish.from, self.from)?));
        self.wishes.iter().map(wish).collect()
    }
}

impl Sent {
    fn command(&self) -> Command {
        Command { name: self.name.clone(), old: self.old.clone(), new: self.new.clone() }
    }
}

/// The person's repository.
struct Local<'a> {
    git: &'a HostGit,
    home: &'a HomeRepository,
    until: Instant,
}

impl Local<'_> {
    /// The branch that is checked out where the person is.
    fn checked_out(&self, folder: &Path) -> Result<RefName, PushError> {
        let said = self.git.as_person(folder, &["rev-parse", "--symbolic-full-name", "HEAD"], self.until);
        let name = said.ok().and_then(|said| RefName::parse(said.trim_ascii_end()));
        let branch = name.filter(|name| name.strip_prefix("refs/heads/").is_some());
        branch.ok_or_else(|| PushError::NoBranch(folder.to_owned()))
    }

    /// A branch of that name, or whatever else it names.
    fn commit(&self, name: &str, folder: &Path) -> Result<ObjectId, PushError> {
        for full in [format!("refs/heads/{name}"), name.to_owned()] {
            let mut command = self.git.on(&self.home.git_dir);
            let commit = format!("{full}^{{commit}}");
            command.args(["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]);
            match self.git.start(command, "rev-parse", self.until)?.output(4096) {
                Ok(said) => {
                    let id = ObjectId::parse(said.trim_ascii_end(), self.home.format);
                    return id.ok_or(PushError::Home(HomeError::Answer));
                }
                Err(GitError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(PushError::NoCommit(name.to_owned(), folder.to_owned()))
    }

    /// Those that are commits of this repository too.
    fn known<'a>(&self, ids: impl Iterator<Item = &'a ObjectId>) -> Result<Vec<ObjectId>, PushError> {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer"]);
        let ids: BTreeSet<_> = ids.collect();
        command.stdin(input(ids.iter().flat_map(|id| [id.as_str(), "\n"]))?);
        let said = self.git.start(command, "cat-file", self.until)?.output(MAX_TALK_BYTES)?;
        let lines = said.split(|byte| *byte == b'\n');
        let commit = |line: &[u8]| ObjectId::parse(line.strip_suffix(b" commit")?, self.home.format);
        Ok(lines.filter_map(commit).collect())
    }

    fn reaches(&self, new: &ObjectId, old: &ObjectId) -> Result<bool, PushError> {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["rev-list", "--count", "--max-count=1", old.as_str(), &format!("^{new}"), "--"]);
        Ok(self.git.start(command, "rev-list", self.until)?.output(64)?.trim_ascii_end() == b"0")
    }

    fn count(&self, new: &ObjectId, known: &[ObjectId]) -> Result<u64, PushError> {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["rev-list", "--count", "--stdin"]).stdin(revisions([new].into_iter(), known)?);
        let said = self.git.start(command, "rev-list", self.until)?.output(64)?;
        let count = std::str::from_utf8(&said).ok().and_then(|said| said.trim().parse().ok());
        count.ok_or(PushError::Home(HomeError::Answer))
    }

    /// Packs what the commands need and the other side does not have.
    fn send(
        &self,
        commands: &[Command],
        known: &[ObjectId],
        is_shallow: bool,
        talk: &mut Talk,
    ) -> Result<(), PushError> {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "--quiet"]);
        if is_shallow {
            command.arg("--shallow");
        }
        command.stdin(revisions(commands.iter().map(|command| &command.new), known)?);
        let mut running = self.git.start(command, "pack-objects", self.until)?;
        let mut piece = vec![0; READ_BYTES];
        loop {
            match running.read(&mut piece)? {
                0 => break,
                count => match talk.say(&piece[..count]) {
                    // It says why.
                    Err(PushError::Ended) => return Ok(()),
                    said => said?,
                },
            }
        }
        Ok(running.wait()?)
    }
}

/// What is wanted, and what is not.
fn revisions<'a>(wanted: impl Iterator<Item = &'a ObjectId>, known: &[ObjectId]) -> Result<File, PushError> {
    let wanted = wanted.flat_map(|id| [id.as_str(), "\n"]);
    input(wanted.chain(known.iter().flat_map(|id| ["^", id.as_str(), "\n"])))
}

/// Something for a git to read, in a file without a name: it may write before it has read everything.
fn input<'a>(text: impl Iterator<Item = &'a str>) -> Result<File, PushError> {
    let text: String = text.collect();
    let made = memfd_create("agent-shim-revisions", MemfdFlags::CLOEXEC).map_err(io::Error::from);
    made.and_then(|file| {
        let mut file = File::from(file);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    })
    .map_err(PushError::Io)
}

/// The conversation with git inside.
struct Talk {
    stream: GitStream,
    /// The first `taken` bytes were used.
    buffer: Vec<u8>,
    taken: usize,
    heard: usize,
    until: Instant,
    time: Duration,
}

impl Talk {
    fn open(reach: &Reach<'_>, until: Instant, time: Duration) -> Result<Self, PushError> {
        let by = |patience| until.min(Instant::now() + patience);
        let connection = reach.endpoint()?.connect(by(ANSWER_PATIENCE));
        let request = GitRequest { service: GitService::ReceivePack, directory: None, version: 0 };
        let asked = connection.and_then(|open| git::ask(open, request)).map_err(SourceError::from)?;
        let stream = asked.stream(by(FIRST_BYTE_WITHIN)).map_err(SourceError::from)?;
        Ok(Self { stream, buffer: Vec::new(), taken: 0, heard: 0, until, time })
    }

    fn greeting(&mut self) -> Result<Greeting, PushError> {
        let mut greeting = Greeting::default();
        while !self.with_packet(|packet| greeting.take(packet))? {}
        Ok(greeting)
    }

    fn report(&mut self) -> Result<Report, PushError> {
        let mut report = Report::default();
        while !self.with_packet(|packet| report.take(packet))? {}
        Ok(report)
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        let deadline = self.deadline();
        self.stream.write_all(bytes, deadline).map_err(|error| self.failure(error))
    }

    /// Nothing is asked for after all.
    fn leave(mut self) {
        // One that does not listen any more has ended as well.
        let _ = self.say(FLUSH);
    }

    fn with_packet(
        &mut self,
        work: impl FnOnce(Packet<'_>) -> Result<bool, Nonsense>,
    ) -> Result<bool, PushError> {
        loop {
            if let Some((packet, used)) = pkt::decode(&self.buffer[self.taken..])? {
                self.taken += used;
                return Ok(work(packet)?);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), PushError> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let deadline = self.deadline();
        // Somebody who never stops talking never lets anybody wait.
        let read = if Instant::now() < self.until {
            self.stream.read(&mut self.buffer[old..], deadline)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        };
        let count = read.map_err(|error| self.failure(error))?;
        self.buffer.truncate(old + count);
        self.heard += count;
        if count == 0 {
            return Err(PushError::Ended);
        }
        if self.heard > MAX_TALK_BYTES {
            return Err(Nonsense::TooMuch("everything").into());
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + SIGN_OF_LIFE_WITHIN)
    }

    fn failure(&self, error: io::Error) -> PushError {
        match error.kind() {
            io::ErrorKind::TimedOut if Instant::now() >= self.until => PushError::TooLong(self.time),
            io::ErrorKind::TimedOut => PushError::Silent(SIGN_OF_LIFE_WITHIN),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => PushError::Ended,
            _ => PushError::Io(error),
        }
    }
}
