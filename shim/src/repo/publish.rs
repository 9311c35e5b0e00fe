//! Objects and refs become the repository's together, or not at all.
//!
//! Git first locks and checks every ref, seeing the objects where they are; then the objects move; then git is told to go
//! ahead. Whatever fails before the last step is undone.

use std::{
    fs::File,
    io,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    home::HomeRepository,
    host_git::{GitError, HostGit, Running, quoted},
    object_id::ObjectId,
    plan::Change,
    quarantine::Quarantine,
};

/// For another pull into the same repository to publish.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at that.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Git would not change the refs as they are now.
    #[error("the refs could not be changed")]
    Refs(#[source] GitError),
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The objects could not be moved.
    #[error("moving the objects to their place")]
    Objects(#[source] io::Error),
    /// Another pull does not end.
    #[error("another pull into the same repository does not come to its end")]
    Busy,
}

/// Somebody who will publish. Git starts while the objects are still on their way.
pub(crate) struct Publisher<'a> {
    git: &'a HostGit,
    home: &'a HomeRepository,
    transaction: Transaction,
    until: Instant,
}

impl<'a> Publisher<'a> {
    /// Will publish what comes into the quarantine.
    pub(crate) fn new(
        git: &'a HostGit,
        home: &'a HomeRepository,
        quarantine: Option<&Quarantine>,
        until: Instant,
    ) -> Result<Self, GitError> {
        let transaction = Transaction::begin(git, home, quarantine, until)?;
        Ok(Self { git, home, transaction, until })
    }

    /// Publishes what is in the quarantine, and the changes. `meanwhile` is done while git looks at the refs; objects are
    /// moved only if it does not fail.
    pub(crate) fn publish<T>(
        self,
        quarantine: Option<&Quarantine>,
        (in_the_way, changes): (&[Change], &[Change]),
        meanwhile: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, PublishError> {
        let (git, home, until) = (self.git, self.home, self.until);
        let _lock = lock(git, home, until)?;
        if in_the_way.is_empty() {
            return self.publish_refs(quarantine, changes, meanwhile);
        }
        // Git cannot make room and use it in one transaction. Once it was begun, it is brought to an end.
        let git = &git.insistent();
        Transaction::whole(git, home, in_the_way, until)?;
        let published = self.publish_refs(quarantine, changes, meanwhile);
        if published.is_err() {
            let back: Vec<Change> = in_the_way.iter().map(reversed).collect();
            Transaction::whole(git, home, &back, until)?;
        }
        published
    }

    fn publish_refs<T>(
        mut self,
        quarantine: Option<&Quarantine>,
        changes: &[Change],
        meanwhile: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, PublishError> {
        self.transaction.ask(self.home, changes).map_err(PublishError::Refs)?;
        let done = meanwhile().map_err(PublishError::Objects)?;
        self.transaction.prepared().map_err(PublishError::Refs)?;
        let moved = quarantine.map(Quarantine::move_home).transpose().map_err(PublishError::Objects)?;
        let committed = self.transaction.commit();
        // Some refs may be there even where git failed: without their objects, the repository would be damaged.
        if let Some(moved) = moved {
            moved.stay();
        }
        committed?;
        Ok(done)
    }
}

fn reversed(change: &Change) -> Change {
    Change { from: None, name: change.name.clone(), old: change.new.clone(), new: change.old.clone() }
}

/// One that is killed leaves no lock behind: the kernel holds it.
fn lock(git: &HostGit, home: &HomeRepository, until: Instant) -> Result<File, PublishError> {
    let objects = home.open_objects().map_err(PublishError::Objects)?;
    let until = until.min(Instant::now() + LOCK_PATIENCE);
    loop {
        match flock(&objects, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(objects),
            Err(Errno::WOULDBLOCK) if Instant::now() < until && !git.is_called_off() => {
                thread::sleep(LOCK_LOOK);
            }
            Err(Errno::WOULDBLOCK) => return Err(PublishError::Busy),
            Err(error) => return Err(PublishError::Objects(error.into())),
        }
    }
}

/// `git update-ref --stdin`. Given up on drop, unless it was committed.
struct Transaction {
    running: Running,
}

impl Transaction {
    fn begin(
        git: &HostGit,
        home: &HomeRepository,
        quarantine: Option<&Quarantine>,
        until: Instant,
    ) -> Result<Self, GitError> {
        let mut command = git.on(&home.git_dir);
        if let Some(quarantine) = quarantine {
            // The refs are checked against objects that are still on the other side.
            command.env("GIT_OBJECT_DIRECTORY", quarantine.objects());
            command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&home.objects));
        }
        // What a moved ref pointed to can be found for as long as git keeps its log.
        command.args(["update-ref", "--create-reflog", "-m", "agent-shim: pull", "-z", "--stdin"]);
        command.stdin(Stdio::piped());
        Ok(Self { running: git.start(command, "update-ref", until)? })
    }

    /// All of one, without objects.
    fn whole(
        git: &HostGit,
        home: &HomeRepository,
        changes: &[Change],
        until: Instant,
    ) -> Result<(), PublishError> {
        let mut transaction = Self::begin(git, home, None, until)?;
        transaction.ask(home, changes).map_err(PublishError::Refs)?;
        transaction.prepared().map_err(PublishError::Refs)?;
        Ok(transaction.commit()?)
    }

    /// Has git lock and check every ref.
    fn ask(&mut self, home: &HomeRepository, changes: &[Change]) -> Result<(), GitError> {
        let null = home.format.null();
        let mut said = b"start\0".to_vec();
        for change in changes {
            let id = |id: &Option<ObjectId>| id.as_ref().map_or(null.clone(), ToString::to_string);
            said.extend_from_slice(b"option no-deref\0update ");
            said.extend_from_slice(change.name.as_bytes());
            said.extend_from_slice(format!("\0{}\0{}\0", id(&change.new), id(&change.old)).as_bytes());
        }
        said.extend_from_slice(b"prepare\0");
        self.running.write(&said)
    }

    /// Waits until it has.
    fn prepared(&mut self) -> Result<(), GitError> {
        self.expect(b"start: ok")?;
        self.expect(b"prepare: ok")
    }

    fn commit(&mut self) -> Result<(), GitError> {
        self.running.insist();
        self.running.write(b"commit\0")?;
        self.expect(b"commit: ok")?;
        self.running.wait()
    }

    fn expect(&mut self, answer: &[u8]) -> Result<(), GitError> {
        match self.running.line()? {
            Some(line) if line == answer => Ok(()),
            Some(_) => Err(GitError::Refused { what: "update-ref", said: "an unknown answer".to_owned() }),
            None => {
                self.running.wait()?;
                Err(GitError::Refused { what: "update-ref", said: "it ended".to_owned() })
            }
        }
    }
}
