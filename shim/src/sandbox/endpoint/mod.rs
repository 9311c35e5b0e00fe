//! A way into a sandbox, whether it runs or not.
//!
//! One that runs is reached by its control socket. For one that does not, an init is started that has its folders and
//! tools and nothing else: no agent, no steps, no services, no network, no secrets, no mounts of the person's. It is
//! nobody's sandbox: it has a socket of its own, so that whoever looks still finds the sandbox stopped, and it ends with
//! the command that asked for it, however that ends. While it lives it holds the lock for changes, so that nothing
//! starts or removes the sandbox meanwhile.

mod keeper;

use std::{
    cell::OnceCell,
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::keeper::keep;
use super::{
    Presence, Sandbox, StateError,
    address::Way,
    lock::ChangeLock,
    paths::DataDir,
    start::{self, Failure, Next, Report, Reports},
};
use crate::{
    client::{Connection, ConnectionError},
    isolation::{Patience, Process},
};

/// What an endpoint has on disk, below the sandbox's folder.
const FOLDER: &str = "endpoint";

/// How long its init may take to come, as told by its keeper, which has the layer's own deadline for it.
const READY_WITHIN: Duration = Duration::from_secs(Patience::OF_MACHINES.start.as_secs() + 10);

/// How long its keeper may take to end it.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks whether somebody has let go, or started the sandbox.
const RETRY: Duration = Duration::from_millis(3);

/// Why a sandbox cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Another command changes it, or the state on disk is of no use.
    #[error(transparent)]
    State(#[from] StateError),
    /// No init could be started for it.
    #[error("the sandbox does not run, and could not be opened: {}", .0.messages.join(": "))]
    Failed(Failure),
    /// The process that keeps it could not be started, or ended.
    #[error("the sandbox does not run, and could not be opened")]
    Keeper(#[source] io::Error),
}

/// A sandbox that can be spoken to. One that was started for it ends on drop.
#[derive(Debug)]
pub struct Endpoint(Kind);

#[derive(Debug)]
enum Kind {
    Running(Sandbox),
    // In this order: who comes next finds nothing of it.
    Own { way: Way, _keeper: Keeper, _lock: Option<ChangeLock> },
}

/// The process that has started an init for this. It ends on drop.
#[derive(Debug)]
struct Keeper {
    /// Broken, it means the end.
    line: UnixStream,
    process: Child,
}

impl Endpoint {
    /// The running sandbox, or an init for it alone. Waits at most `patience` for whoever changes the sandbox now.
    pub fn open(data: &DataDir, sandbox: &Sandbox, patience: Duration) -> Result<Self, EndpointError> {
        let end = Instant::now() + patience;
        loop {
            match sandbox.presence() {
                Presence::Nobody => {}
                // One that is about to end would be gone before it is spoken to.
                Presence::Passing if Instant::now() < end => {
                    thread::sleep(RETRY);
                    continue;
                }
                // Whoever speaks to it is told what is wrong.
                Presence::Passing | Presence::Somebody => return Ok(Self(Kind::Running(sandbox.clone()))),
            }
            match sandbox.lock(Duration::ZERO) {
                // It may come up, or whoever reads it be done.
                Err(StateError::Locked { .. }) if Instant::now() < end => thread::sleep(RETRY),
                lock => return Self::start(data, sandbox, Held::Ours(lock?)),
            }
        }
    }

    /// The same for whoever holds the lock already, and keeps it for longer than this lives.
    pub fn open_locked(data: &DataDir, sandbox: &Sandbox, lock: &ChangeLock) -> Result<Self, EndpointError> {
        Self::start(data, sandbox, Held::Theirs(lock))
    }

    /// Speaks to its init.
    pub fn connect(&self, deadline: Instant) -> Result<Connection, ConnectionError> {
        match &self.0 {
            Kind::Running(sandbox) => sandbox.connect(deadline),
            Kind::Own { way, .. } => Connection::open(way.target(), way.token(), deadline),
        }
    }

    /// Whether the sandbox itself runs.
    pub fn is_running(&self) -> bool {
        matches!(self.0, Kind::Running(_))
    }

    fn start(data: &DataDir, sandbox: &Sandbox, lock: Held<'_>) -> Result<Self, EndpointError> {
        // A start can have come to its end before we had the lock.
        if sandbox.is_alive() {
            return Ok(Self(Kind::Running(sandbox.clone())));
        }
        let keeper = Keeper::start(data, sandbox, lock.get()).map_err(EndpointError::Keeper)?;
        keeper.wait_ready()?;
        let way = Way::of(&folder_of(sandbox)).map_err(EndpointError::Keeper)?;
        let lock = match lock {
            Held::Ours(lock) => Some(lock),
            Held::Theirs(_) => None,
        };
        Ok(Self(Kind::Own { way, _keeper: keeper, _lock: lock }))
    }
}

/// The lock for changes, and whose it is.
enum Held<'a> {
    Ours(ChangeLock),
    Theirs(&'a ChangeLock),
}

impl Held<'_> {
    fn get(&self) -> &ChangeLock {
        match self {
            Self::Ours(lock) => lock,
            Self::Theirs(lock) => lock,
        }
    }
}

impl Keeper {
    fn start(data: &DataDir, sandbox: &Sandbox, lock: &ChangeLock) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_nonblocking(true)?;
        let mut command = start::monitor_command(data, sandbox)?;
        // The lock lives as long as either of us: what is left behind by a command that was killed is still the
        // keeper's to end before anybody else comes.
        command.arg("--endpoint").stdin(Stdio::from(lock.share()?)).stdout(OwnedFd::from(theirs));
        Ok(Self { line, process: command.spawn()? })
    }

    fn wait_ready(&self) -> Result<(), EndpointError> {
        let mut reports = Reports::over(self.line.try_clone().map_err(EndpointError::Keeper)?);
        let end = Instant::now() + READY_WITHIN;
        loop {
            match reports.next() {
                Next::Report(Report::Ready) => return Ok(()),
                Next::Report(Report::Failed(failure)) => return Err(EndpointError::Failed(failure)),
                Next::Report(Report::Ended { .. }) | Next::End => {
                    return Err(EndpointError::Keeper(io::ErrorKind::UnexpectedEof.into()));
                }
                Next::Nothing => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EndpointError::Keeper(io::ErrorKind::TimedOut.into()));
            }
            let mut fds = [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
            // An interrupted wait is taken up again above.
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A failure means that it is gone.
        let _ = self.line.shutdown(Shutdown::Both);
        let ended = Process::now(self.process.id().cast_signed())
            .and_then(|process| process.map_or(Ok(true), |process| process.exited_within(END_WITHIN)));
        if !ended.unwrap_or(false) {
            // What it has started dies with it.
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// A sandbox that is reached once somebody speaks to it, for those who may not have to.
#[derive(Debug)]
pub struct Reach<'a> {
    data: &'a DataDir,
    sandbox: &'a Sandbox,
    patience: Duration,
    endpoint: OnceCell<Endpoint>,
}

impl<'a> Reach<'a> {
    /// Does nothing yet.
    pub fn new(data: &'a DataDir, sandbox: &'a Sandbox, patience: Duration) -> Self {
        Self { data, sandbox, patience, endpoint: OnceCell::new() }
    }

    /// An endpoint that is open already.
    pub fn through(data: &'a DataDir, sandbox: &'a Sandbox, endpoint: Endpoint) -> Self {
        Self { data, sandbox, patience: Duration::ZERO, endpoint: endpoint.into() }
    }

    /// The endpoint, opened the first time.
    pub fn endpoint(&self) -> Result<&Endpoint, EndpointError> {
        if let Some(open) = self.endpoint.get() {
            return Ok(open);
        }
        let opened = Endpoint::open(self.data, self.sandbox, self.patience)?;
        Ok(self.endpoint.get_or_init(|| opened))
    }
}

fn folder_of(sandbox: &Sandbox) -> PathBuf {
    sandbox.folder().join(FOLDER)
}
