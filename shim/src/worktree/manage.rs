//! Adding, listing and removing: the worktree inside, its entry in the record, its session.

use std::time::{Duration, Instant};

use agent_protocol::{
    failure::FailureKind,
    message::{AddAgent, UnitStatus},
    spec::{MAX_AGENTS, Terminal},
};
use serde::Serialize;

use super::{
    Branch, WorktreeError,
    inside::{Inside, Place},
};
use crate::{
    client::{self, ConnectionError},
    isolation::plan::WORKSPACE,
    sandbox::{
        Sandbox,
        endpoint::Endpoint,
        lock::ChangeLock,
        paths::DataDir,
        record::{Record, Workspace, WorktreeRecord},
        session_of,
        view::AgentView,
    },
};

/// For another command to finish with the sandbox, once a worktree is made or removed.
const LOCK_WITHIN: Duration = Duration::from_secs(10);

/// For init to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// For a session to end: the grace of an agent, and more where the machine is slow.
const END_WITHIN: Duration = Duration::from_secs(40);

/// The worktrees of one sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Worktrees<'a> {
    data: &'a DataDir,
    sandbox: &'a Sandbox,
}

/// A worktree as it is now, or the workspace itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// Whether it is the workspace.
    pub main: bool,
    /// The branch that it was made for; of the workspace, what is checked out.
    pub branch: Option<String>,
    /// What is checked out, where that is a branch and can be told. It comes from inside.
    pub checked_out: Option<String>,
    /// Where it is inside.
    pub path: String,
    /// Whether its folder is there: `present`, `missing`, `replaced` or `unknown`.
    pub folder: &'static str,
    /// The unit of its session.
    pub unit: String,
    /// What runs there, where it is not the sandbox's agent.
    pub command: Option<Vec<String>>,
    /// The session. Absent where there is none, as in a sandbox that does not run.
    pub session: Option<AgentView>,
}

impl<'a> Worktrees<'a> {
    /// Of this sandbox.
    pub fn of(data: &'a DataDir, sandbox: &'a Sandbox) -> Self {
        Self { data, sandbox }
    }

    /// The worktree of this branch, as the record has it.
    pub fn find(self, branch: &Branch) -> Result<WorktreeRecord, WorktreeError> {
        let record = self.sandbox.record()?;
        let found = record.worktrees.into_iter().find(|worktree| worktree.branch == *branch);
        found.ok_or_else(|| WorktreeError::Unknown(branch.clone()))
    }

    /// Makes a worktree and starts a session in it: `command`, or the sandbox's agent. One whose session is lost gets
    /// another. Where the sandbox does not run, the session starts with it.
    pub fn add(
        self,
        branch: &Branch,
        create: bool,
        command: Option<Vec<String>>,
    ) -> Result<WorktreeRecord, WorktreeError> {
        let endpoint = self.open()?;
        let inside = Inside { endpoint: &endpoint };
        let record = self.sandbox.record()?;
        if let Some(known) = record.worktrees.iter().find(|known| known.branch == *branch) {
            let has_session =
                || Ok::<_, WorktreeError>(self.units()?.iter().any(|unit| unit.name == branch.unit()));
            if !endpoint.is_running() || has_session()? || inside.look(branch)? == Place::Missing {
                return Err(WorktreeError::There(branch.clone()));
            }
            self.start_session(&record, known)?;
            return Ok(known.clone());
        }
        Self::require_room(&record, branch)?;
        inside.require_repository()?;
        match (inside.has_branch(branch)?, create) {
            (false, false) => return Err(WorktreeError::NoBranch(branch.clone())),
            (true, true) => return Err(WorktreeError::BranchThere(branch.clone())),
            (true, false) | (false, true) => {}
        }
        inside.add(branch, create)?;
        if record.workspace == Workspace::Bind {
            inside.keep(branch)?;
        }
        let worktree = WorktreeRecord { branch: branch.clone(), command };
        self.enter(&worktree, &endpoint).inspect_err(|_| {
            // Nothing was done in it yet. What matters is the first error.
            drop(inside.remove(branch, true));
            if create {
                inside.forget_branch(branch);
            }
        })?;
        Ok(worktree)
    }

    /// Ends the session of a worktree and removes it. Without `force` only where nothing is lost by it.
    pub fn remove(self, branch: &Branch, force: bool) -> Result<(), WorktreeError> {
        self.find(branch)?;
        let endpoint = self.open()?;
        let inside = Inside { endpoint: &endpoint };
        if !force {
            inside.require_saved(branch)?;
        }
        if endpoint.is_running() {
            self.end_session(branch, force)?;
        }
        inside.remove(branch, force)?;
        let _lock = self.lock(&endpoint)?;
        let mut record = self.sandbox.record()?;
        record.worktrees.retain(|worktree| worktree.branch != *branch);
        Ok(record.write(self.sandbox.folder())?)
    }

    fn end_session(self, branch: &Branch, force: bool) -> Result<(), WorktreeError> {
        let mut connection = self.sandbox.connect(Instant::now() + ANSWER_WITHIN)?;
        let ended = client::remove_agent(&mut connection, &branch.unit(), force, Instant::now() + END_WITHIN);
        match ended {
            // It has none, as after a removal that did not come to its end.
            Err(ConnectionError::Refused(failure)) if failure.kind == FailureKind::Unknown => Ok(()),
            other => Ok(other?),
        }
    }

    /// Starts the session of a worktree anew.
    pub fn restart(self, branch: &Branch) -> Result<(), WorktreeError> {
        let worktree = self.find(branch)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut connection = self.sandbox.connect(deadline)?;
        match client::restart_unit(&mut connection, &branch.unit(), deadline) {
            Err(ConnectionError::Refused(failure)) if failure.kind == FailureKind::Unknown => {
                self.start_session(&self.sandbox.record()?, &worktree)
            }
            other => Ok(other?),
        }
    }

    /// The workspace, then every worktree. Of a sandbox that does not run, what the record has.
    pub fn list(self) -> Result<Vec<Listed>, WorktreeError> {
        let record = self.sandbox.record()?;
        // A look is not worth an init of its own.
        let endpoint = self.sandbox.is_alive().then(|| self.open()).transpose()?;
        let units = if endpoint.is_some() { self.units()? } else { Vec::new() };
        // A git that does not work keeps nobody from seeing what there is.
        let look = |branch: Option<&Branch>| {
            let inside = Inside { endpoint: endpoint.as_ref()? };
            branch.map_or_else(|| inside.look_at_workspace(), |branch| inside.look(branch)).ok()
        };
        let place = |branch| look(branch).unwrap_or(Place::Unknown);
        let session = |name: &str| units.iter().find(|unit| unit.name == name).map(AgentView::from);
        let main = Listed {
            main: true,
            path: WORKSPACE.to_owned(),
            unit: "agent".to_owned(),
            command: None,
            session: session("agent"),
            ..Listed::at(None, place(None))
        };
        let others = record.worktrees.iter().map(|worktree| {
            let unit = worktree.branch.unit();
            Listed {
                path: worktree.branch.path(),
                session: session(&unit),
                unit,
                command: worktree.command.clone(),
                ..Listed::at(Some(&worktree.branch), place(Some(&worktree.branch)))
            }
        });
        Ok(std::iter::once(main).chain(others).collect())
    }

    fn open(self) -> Result<Endpoint, WorktreeError> {
        Ok(Endpoint::open(self.data, self.sandbox, LOCK_WITHIN)?)
    }

    /// The lock for changes, which an endpoint of its own has already.
    fn lock(self, endpoint: &Endpoint) -> Result<Option<ChangeLock>, WorktreeError> {
        Ok(endpoint.is_running().then(|| self.sandbox.lock(LOCK_WITHIN)).transpose()?)
    }

    fn units(self) -> Result<Vec<UnitStatus>, WorktreeError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        Ok(client::status(&mut self.sandbox.connect(deadline)?, deadline)?.units)
    }

    fn require_room(record: &Record, branch: &Branch) -> Result<(), WorktreeError> {
        let overlapping = record.worktrees.iter().find(|other| other.branch.overlaps(branch));
        match overlapping {
            Some(other) if other.branch == *branch => Err(WorktreeError::There(branch.clone())),
            Some(other) => Err(WorktreeError::Overlaps(branch.clone(), other.branch.clone())),
            None if record.worktrees.len() >= MAX_AGENTS => Err(WorktreeError::TooMany),
            None => Ok(()),
        }
    }

    /// Writes a worktree into the record and, where the sandbox runs, starts its session; both or neither.
    fn enter(self, worktree: &WorktreeRecord, endpoint: &Endpoint) -> Result<(), WorktreeError> {
        let _lock = self.lock(endpoint)?;
        let before = self.sandbox.record()?;
        // Another command may have been faster.
        Self::require_room(&before, &worktree.branch)?;
        let mut record = before.clone();
        record.worktrees.push(worktree.clone());
        record.write(self.sandbox.folder())?;
        if !endpoint.is_running() {
            return Ok(());
        }
        self.start_session(&record, worktree).inspect_err(|_| drop(before.write(self.sandbox.folder())))
    }

    fn start_session(self, record: &Record, worktree: &WorktreeRecord) -> Result<(), WorktreeError> {
        let mut terminal = Terminal::default();
        if let Some(term) = record.env.get("TERM") {
            terminal.term.clone_from(term);
        }
        let agent = session_of(record, worktree, &record.command_without_prompt(), terminal);
        let request = AddAgent {
            name: worktree.branch.unit(),
            agent: serde_json::to_string(&agent)
                .map_err(|error| ConnectionError::Io("describing an agent", error.into()))?,
            // The agent's keys are in no file: init alone has them.
            like_main: true,
        };
        let deadline = Instant::now() + ANSWER_WITHIN;
        Ok(client::add_agent(&mut self.sandbox.connect(deadline)?, request, deadline)?)
    }
}

impl Listed {
    fn at(branch: Option<&Branch>, place: Place) -> Self {
        let folder = match place {
            Place::Here(_) => "present",
            Place::Missing => "missing",
            Place::Replaced => "replaced",
            Place::Unknown => "unknown",
        };
        let checked_out = if let Place::Here(head) = place { head } else { None };
        Self {
            main: false,
            branch: branch.map(ToString::to_string).or_else(|| checked_out.clone()),
            checked_out,
            path: String::new(),
            folder,
            unit: String::new(),
            command: None,
            session: None,
        }
    }
}
