//! Sandboxes as this host knows them: names, records, locks, the monitor, and what the kernel says about each.
//!
//! There is no daemon. A sandbox is a folder, and any process of ours may be killed at any instant: whoever comes next reads
//! the files, asks the kernel, and goes on.

pub(crate) mod address;
pub(crate) mod atomic;
pub(crate) mod bounded;
mod channel;
/// A way into a sandbox, whether it runs or not.
pub mod endpoint;
pub(crate) mod init_binary;
mod journal;
pub(crate) mod launch;
mod liveness;
/// Who may change a sandbox, and who watches it.
pub mod lock;
/// The process that watches one sandbox.
pub mod monitor;
/// What a sandbox may be called.
pub mod name;
/// Where everything is on the host.
pub mod paths;
/// Variables of the agent that no file holds.
pub mod private;
mod probe;
mod process;
/// What a sandbox is: `sandbox.json`.
pub mod record;
pub(crate) mod remove;
/// What a sandbox uses of what it may use.
pub mod resources;
/// The current start: `run.json`.
pub mod run;
/// What a start would do.
pub mod show;
/// When work in progress is kept.
pub mod snapshots;
mod spec;
/// Starting a sandbox, from the side of the command that asks for it.
pub mod start;
/// Ending a sandbox, within a deadline whatever state it is in.
pub mod stop;
/// How bringing the work home went.
pub mod sync;
#[cfg(test)]
pub(crate) mod testing;
/// Where the tools of a sandbox are.
pub(crate) mod tools;
mod unit_log;
/// What people and programs are told about a sandbox.
pub mod view;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use agent_protocol::message::{Phase, UnitKind};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

pub(crate) use journal::{EVENTS_FILE, OLD_EVENTS_FILE};
pub(crate) use launch::chain;
pub(crate) use spec::session_of;
pub(crate) use unit_log::paths as log_paths;

use self::{
    address::Way,
    liveness::{Facts, Seen},
    lock::{ChangeLock, LockError, MonitorLock},
    name::Name,
    paths::DataDir,
    probe::Answer,
    record::Record,
    run::{Processes, Run},
    sync::SyncView,
    unit_log::LOGS,
    view::{SandboxView, State},
};
use crate::{
    client::{self, COMING_UP, Connection, ConnectionError},
    isolation::{Patience, ProcessId},
};

/// How long a command waits for another one that changes the same sandbox. Commands hold the lock for
/// milliseconds, or for as long as somebody may have to wait for a graceful end; that is told then.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// The same for a machine: a command that had a way into one that does not run holds the lock until that is powered off again.
const LOCK_MACHINE_PATIENCE: Duration = Duration::from_secs(30);

/// Before an init that comes or goes is called once more.
const CALL_AGAIN: Duration = Duration::from_millis(20);

/// Whether an init can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// There is none.
    Nobody,
    /// One comes or goes.
    Passing,
    /// There is one, although something may keep it from answering.
    Somebody,
}

/// What the folder of a sandbox is called while it is made.
const DRAFT: &str = ".new-";

/// A draft this old that nobody has locked belongs to nobody: it is locked as soon as it is made.
const DRAFT_AGE: Duration = Duration::from_secs(1);

/// Folders of a sandbox that hold what the agent wrote; `--fresh` empties them.
const AGENTS_FOLDERS: [&str; 3] = ["home", "tmp", "work"];

/// Why the state on disk is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No variable names a place for data.
    #[error("there is no place for data: neither XDG_DATA_HOME nor HOME is an absolute path")]
    NoDataDir,
    /// No such sandbox.
    #[error("there is no sandbox `{0}`")]
    NotFound(Name),
    /// The name belongs to another sandbox.
    #[error("there is a sandbox `{0}` already")]
    Taken(Name),
    /// The folder has no record: its making or its removal did not come to an end.
    #[error("{} is not complete: it was not made to its end, or not removed to its end", .folder.display())]
    Unfinished {
        /// The sandbox's folder.
        folder: PathBuf,
    },
    /// The record is not what we wrote.
    #[error("{} is damaged: {problem}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else can change it.
    #[error("{} cannot be trusted: {why}", .folder.display())]
    Foreign {
        /// The folder of all sandboxes.
        folder: PathBuf,
        /// Who can.
        why: String,
    },
    /// The record was written by a later version.
    #[error("{} has version {found}; this agent-shim knows versions up to {known}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// What we know.
        known: u32,
    },
    /// Somebody else is changing it.
    #[error("cannot change the sandbox `{name}`")]
    Locked {
        /// Which.
        name: Name,
        /// Why.
        source: LockError,
    },
    /// The data folder is of no use: nothing can be made in it.
    #[error("{doing}")]
    NotWritable {
        /// What was being done.
        doing: String,
        /// The reason.
        source: io::Error,
    },
    /// The kernel refuses.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The reason.
        source: io::Error,
    },
}

impl StateError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing: doing.into(), source }
    }

    /// The same for what is the first to be looked at or made in the data folder.
    fn first(doing: String) -> impl FnOnce(io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        move |source| match source.kind() {
            NotADirectory | PermissionDenied | ReadOnlyFilesystem => Self::NotWritable { doing, source },
            _ => Self::Io { doing, source },
        }
    }
}

/// One sandbox: its name and its folder. Nothing is read before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    name: Name,
    folder: PathBuf,
}

impl Sandbox {
    /// The sandbox of that name, which must be there.
    pub fn find(data: &DataDir, name: &Name) -> Result<Self, StateError> {
        data.check_owner()?;
        let folder = data.sandbox(name);
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => Ok(Self { name: name.clone(), folder }),
            Ok(_) => Err(StateError::Damaged { path: folder, problem: "it is not a folder".to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StateError::NotFound(name.clone())),
            Err(source) => {
                let doing = format!("looking at {}", folder.display());
                // Below a file there is nothing, and nothing can be made.
                let is_nowhere = source.kind() == io::ErrorKind::NotADirectory;
                Err(if is_nowhere { StateError::first(doing)(source) } else { StateError::io(doing)(source) })
            }
        }
    }

    /// Every sandbox, sorted by name.
    pub fn all(data: &DataDir) -> Result<Vec<Self>, StateError> {
        let folder = |name: Name| Self { folder: data.sandbox(&name), name };
        Ok(data.names()?.into_iter().map(folder).collect())
    }

    /// Makes a new sandbox and locks it.
    ///
    /// It is made under another name and moved to its place once it is whole, so that no kill leaves a half of it to be seen.
    pub fn create(data: &DataDir, record: &Record) -> Result<(Self, ChangeLock), StateError> {
        let name = &record.name;
        let sandbox = Self { name: name.clone(), folder: data.sandbox(name) };
        let making = || format!("making {}", sandbox.folder.display());
        data.ensure().map_err(StateError::first(making()))?;
        data.check_owner()?;
        sandbox.clear_place()?;
        sweep_unfinished(data);
        let draft = Self { name: name.clone(), folder: draft_folder(data, name) };
        DirBuilder::new().mode(0o700).create(&draft.folder).map_err(StateError::first(making()))?;
        let made = draft.fill(record).and_then(|lock| {
            match renameat_with(CWD, &draft.folder, CWD, &sandbox.folder, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(lock),
                Err(Errno::EXIST) => Err(StateError::Taken(name.clone())),
                Err(error) => Err(StateError::Io { doing: making(), source: error.into() }),
            }
        });
        match made {
            Ok(lock) => {
                let agents = fs::File::open(data.agents()).and_then(|agents| agents.sync_all());
                agents.map_err(StateError::io(making()))?;
                Ok((sandbox, lock))
            }
            Err(error) => {
                // What matters is the first error; a draft that stays is swept later.
                drop(draft.remove());
                Err(error)
            }
        }
    }

    fn fill(&self, record: &Record) -> Result<ChangeLock, StateError> {
        let lock = self.lock(Duration::ZERO)?;
        self.make_folders().map_err(StateError::io(format!("making the folders of `{}`", self.name)))?;
        record.write(&self.folder)?;
        Ok(lock)
    }

    /// Makes room where a removal did not come to its end.
    fn clear_place(&self) -> Result<(), StateError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let is_left_over = || matches!(Record::read(&self.folder), Err(StateError::Unfinished { .. }));
        if !is_left_over() || self.is_alive() {
            return Err(StateError::Taken(self.name.clone()));
        }
        let _lock = self.lock(Duration::ZERO)?;
        if !is_left_over() {
            return Err(StateError::Taken(self.name.clone()));
        }
        self.remove().map_err(StateError::io(format!("removing the rest of {}", self.folder.display())))
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is.
    pub fn record(&self) -> Result<Record, StateError> {
        Record::read(&self.folder)
    }

    /// Whether it has a kernel of its own.
    pub(super) fn is_machine(&self) -> bool {
        self.record().is_ok_and(|record| !record.isolation.capabilities().shares_kernel)
    }

    /// How long a command that changes it waits for another one.
    pub fn lock_patience(&self) -> Duration {
        if self.is_machine() { LOCK_MACHINE_PATIENCE } else { LOCK_PATIENCE }
    }

    /// Keeps other commands from changing it.
    pub fn lock(&self, patience: Duration) -> Result<ChangeLock, StateError> {
        ChangeLock::take(&self.folder, patience).map_err(|error| match error {
            LockError::Gone => StateError::NotFound(self.name.clone()),
            source => StateError::Locked { name: self.name.clone(), source },
        })
    }

    /// Makes the folders a start needs, where they are missing.
    pub(crate) fn make_folders(&self) -> io::Result<()> {
        for folder in AGENTS_FOLDERS.iter().chain([&LOGS]) {
            match DirBuilder::new().mode(0o700).create(self.folder.join(folder)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Throws away what the agent wrote, the project excepted.
    pub(crate) fn discard_work(&self) -> io::Result<()> {
        AGENTS_FOLDERS.iter().try_for_each(|folder| match remove::empty_tree(&self.folder.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    /// Removes it from the disk. The record goes last: until then it can be seen, and removed by the next try.
    /// A monitor that undoes a start may be doing the same.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        // Names, which hold the folder no longer open: where descriptors are scarce, each one counts.
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        for name in names.collect::<io::Result<Vec<_>>>()? {
            if name != record::RECORD_FILE {
                remove::remove_tree(&self.folder.join(name))?;
            }
        }
        remove::remove_tree(&self.folder)
    }

    /// Whether its init lives, as the kernel has it.
    pub fn is_alive(&self) -> bool {
        channel::is_alive(&self.folder)
    }

    /// Speaks to its init.
    pub fn connect(&self, deadline: Instant) -> Result<Connection, ConnectionError> {
        loop {
            match self.call(deadline) {
                // Of a machine that goes down or comes up, its device takes the calls.
                Err(error) if error.is_passing() && Instant::now() + CALL_AGAIN < deadline => {
                    thread::sleep(CALL_AGAIN);
                }
                connection => return connection,
            }
        }
    }

    /// What its init does, asked for once.
    pub(crate) fn presence(&self) -> Presence {
        let deadline = Instant::now() + self.patience().answer;
        let status = self.call(deadline).and_then(|mut connection| client::status(&mut connection, deadline));
        match status {
            Ok(status) if status.phase == Phase::Stopping => Presence::Passing,
            Err(ConnectionError::NotRunning) => Presence::Nobody,
            Err(error) if error.is_passing() || error.is_to_come() => Presence::Passing,
            Ok(_) | Err(_) => Presence::Somebody,
        }
    }

    fn call(&self, deadline: Instant) -> Result<Connection, ConnectionError> {
        let way = Way::of(&self.folder)
            .map_err(|error| ConnectionError::Io("looking at the sandbox's folder", error))?;
        if way.target().is_not_yet() {
            return Err(ConnectionError::Stuck(COMING_UP));
        }
        if way.target().is_device() && Run::has_closed_door(&self.folder) {
            return Err(ConnectionError::Stuck("what takes its calls is stopped"));
        }
        Connection::open(way.target(), way.token(), deadline)
    }

    /// How long what is fine may take with it.
    pub fn patience(&self) -> Patience {
        let isolation = self.record().map(|record| record.isolation).unwrap_or_default();
        isolation.capabilities().patience
    }

    /// What it is doing now.
    pub fn observe(&self) -> SandboxView {
        let answer = probe::ask(&self.folder);
        let mut view = self.observe_with(answer);
        if let Some(init) = &view.init {
            let remains = Run::read(&self.folder).map(|run| run.remains);
            let limits = view.limits.unwrap_or_default();
            let resources = resources::of(&self.folder, remains.as_ref(), &limits, init);
            view.resources = Some(resources);
        }
        view
    }

    /// What it is doing, without asking an init that has just given no answer.
    pub(crate) fn diagnose(&self) -> SandboxView {
        let answer = if self.is_alive() { Answer::Silent } else { Answer::Dead };
        self.observe_with(answer)
    }

    /// Whether the monitor of the last start is there, be it after the sandbox's end.
    pub fn is_monitored(&self) -> bool {
        let monitor = Run::read(&self.folder).and_then(|run| run.processes().monitor);
        monitor.is_some_and(|id| process::condition(id) != process::Condition::Gone)
    }

    /// Starts a monitor where the sandbox has lost its own: whatever was running is watched again.
    pub fn ensure_monitored(&self) {
        let unwatched = || Run::read(&self.folder).is_some_and(|run| !run.is_over());
        if !MonitorLock::is_held(&self.folder) && unwatched() {
            // A failure is not this command's: the sandbox lives, and the next command tries again.
            drop(monitor::spawn_to_adopt(self));
        }
    }

    fn observe_with(&self, answer: Answer) -> SandboxView {
        let record = match self.record() {
            Ok(record) => record,
            Err(error) => {
                return SandboxView::unknown(self.name.clone(), State::Error, Some(error.to_string()));
            }
        };
        let run = Run::read(&self.folder);
        let processes = run.as_ref().map_or(Processes::default(), Run::processes);
        let capabilities = record.isolation.capabilities();
        let parts = if matches!(answer, Answer::Dead) { Vec::new() } else { processes.parts };
        let init = processes.init.filter(|_| !matches!(answer, Answer::Dead));
        let agent = match &answer {
            Answer::Status(status) if capabilities.shares_kernel => init.and_then(|init| {
                let agent = status.units.iter().find(|unit| unit.kind == UnitKind::Agent)?;
                process::child_of_init(init, agent.pid?)
            }),
            _ => None,
        };
        let seen = |id: Option<ProcessId>| -> Seen { id.map(|id| (id, process::condition(id))) };
        let sync = SyncView::of(&self.folder, &record);
        let network = match record.network.on(capabilities) {
            Ok(network) => network.to_string(),
            Err(_) => record.network.to_string(),
        };
        let machine = (!capabilities.shares_kernel).then(|| record.machine.clone());
        let view = liveness::decide(&Facts {
            record,
            monitored: MonitorLock::is_held(&self.folder),
            monitor: seen(processes.monitor),
            supervisor: seen(processes.supervisor),
            init: seen(init),
            parts: parts.into_iter().map(|part| (part.name, part.id, process::condition(part.id))).collect(),
            makes: capabilities.makes,
            network,
            machine,
            shares_kernel: capabilities.shares_kernel,
            agent: seen(agent),
            run,
            answer,
        });
        SandboxView { sync, ..view }
    }
}

/// A name that no sandbox can have, so that nobody takes the draft for one.
fn draft_folder(data: &DataDir, name: &Name) -> PathBuf {
    data.agents().join(format!("{DRAFT}{name}-{}", std::process::id()))
}

/// Removes drafts of commands that were killed. Best effort: the next one tries again.
pub(crate) fn sweep_unfinished(data: &DataDir) {
    let Ok(entries) = fs::read_dir(data.agents()) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(DRAFT) {
            continue;
        }
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
        let name: Result<Name, _> = "draft".parse();
        let is_folder = entry.file_type().is_ok_and(|found| found.is_dir());
        if let (Some(age), Ok(name)) = (age, name)
            && is_folder
            && age > DRAFT_AGE
        {
            let draft = Sandbox { name, folder: entry.path() };
            if let Ok(_lock) = draft.lock(Duration::ZERO) {
                drop(draft.remove());
            }
        }
    }
}

/// What all of them are doing now. One that is stuck delays no other.
pub fn observe_all(sandboxes: &[Sandbox]) -> Vec<SandboxView> {
    let folders: Vec<PathBuf> = sandboxes.iter().map(|sandbox| sandbox.folder.clone()).collect();
    let answers = probe::ask_all(&folders);
    sandboxes.iter().zip(answers).map(|(sandbox, answer)| sandbox.observe_with(answer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::TempDir;

    fn data(temp: &TempDir) -> DataDir {
        DataDir::at(temp.path().join("data"))
    }

    fn name() -> Name {
        "web".parse().unwrap()
    }

    fn record(name: &str) -> Record {
        Record::new(name.parse().unwrap(), "/p".into(), std::time::SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_name_is_taken_once_it_is_there() {
        let temp = TempDir::new();
        let data = data(&temp);
        let (sandbox, _lock) = Sandbox::create(&data, &record("web")).unwrap();
        assert_eq!(sandbox.record().unwrap(), record("web"));
        assert!(matches!(Sandbox::create(&data, &record("web")), Err(StateError::Taken(_))));
        assert_eq!(data.agents().read_dir().unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn a_half_removed_sandbox_makes_room() {
        let temp = TempDir::new();
        let data = data(&temp);
        fs::create_dir_all(data.sandbox(&name()).join("home")).unwrap();
        Sandbox::create(&data, &record("web")).unwrap();
    }

    #[test]
    fn the_draft_of_a_killed_command_is_no_sandbox_and_is_swept() {
        let temp = TempDir::new();
        let data = data(&temp);
        let draft = draft_folder(&data, &name());
        fs::create_dir_all(&draft).unwrap();
        assert!(Sandbox::all(&data).unwrap().is_empty());
        sweep_unfinished(&data);
        assert!(draft.exists(), "it may be in the making");
        let old = std::time::SystemTime::now() - 2 * DRAFT_AGE;
        fs::File::open(&draft).unwrap().set_modified(old).unwrap();
        let maker = ChangeLock::take(&draft, Duration::ZERO).unwrap();
        sweep_unfinished(&data);
        assert!(draft.exists(), "somebody still makes it");
        drop(maker);
        // A process that another test starts just now holds a copy of the lock until it executes its program.
        let end = Instant::now() + Duration::from_secs(10);
        while draft.exists() {
            assert!(Instant::now() < end, "it stays");
            sweep_unfinished(&data);
        }
    }

    #[test]
    fn one_damaged_sandbox_does_not_hide_the_others() {
        let temp = TempDir::new();
        let data = data(&temp);
        for (name, content) in [("a", "{"), ("b", r#"{"version": 99}"#)] {
            let (sandbox, _lock) = Sandbox::create(&data, &record(name)).unwrap();
            fs::write(sandbox.folder().join(record::RECORD_FILE), content).unwrap();
        }
        Sandbox::create(&data, &record("web")).unwrap();
        fs::create_dir(data.sandbox(&"empty".parse().unwrap())).unwrap();
        let views = observe_all(&Sandbox::all(&data).unwrap());
        let states: Vec<_> = views.iter().map(|view| (view.name.as_str(), view.state)).collect();
        let error = State::Error;
        assert_eq!(states, [("a", error), ("b", error), ("empty", error), ("web", State::Created)]);
        assert!(views[1].reason.as_ref().unwrap().contains("version 99"));
    }

    /// Its device takes calls and has nobody to hand them to, and then ends.
    #[test]
    fn a_machine_that_goes_down_is_waited_for_and_told_as_gone() {
        let temp = TempDir::new();
        let (sandbox, _lock) = Sandbox::create(&data(&temp), &record("web")).unwrap();
        let device = std::os::unix::net::UnixListener::bind(sandbox.folder().join("vsock.sock")).unwrap();
        let token = agent_protocol::handshake::Token([7; 32]);
        address::write(sandbox.folder(), &"hybrid:vsock.sock:1024".parse().unwrap(), &token).unwrap();
        let device = thread::spawn(move || (0..3).for_each(|_| drop(device.accept().unwrap())));
        assert_eq!(sandbox.presence(), Presence::Passing);
        let error = sandbox.connect(Instant::now() + Duration::from_mins(1)).unwrap_err();
        assert!(matches!(error, ConnectionError::NotRunning), "{error}");
        assert_eq!(sandbox.presence(), Presence::Nobody);
        device.join().unwrap();
    }

    #[test]
    fn removal_leaves_nothing_and_needs_no_record() {
        let temp = TempDir::new();
        let data = data(&temp);
        let (sandbox, _lock) = Sandbox::create(&data, &record("web")).unwrap();
        fs::create_dir_all(sandbox.folder().join("home/a/b")).unwrap();
        sandbox.remove().unwrap();
        assert!(matches!(Sandbox::find(&data, &name()), Err(StateError::NotFound(_))));
    }
}
