//! What the loop and the tasks of connections both touch. One thread owns it all, so a borrow is enough;
//! none is held across an await.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use agent_protocol::message::ExecId;
use tokio::sync::{Notify, watch};

use crate::{
    journal::Journal,
    output::Outputs,
    session::{Session, ring::Ring},
    watch::Activity,
};

/// The main agent's unit.
pub(crate) const AGENT: &str = "agent";

/// What is shared.
pub(crate) struct Shared {
    /// The main agent's terminal.
    pub(crate) main: Rc<Session>,
    /// Those of further agents, by their units' names; at most [`agent_protocol::spec::MAX_AGENTS`].
    pub(crate) further: RefCell<Vec<(String, Rc<Session>)>>,
    pub(crate) journal: RefCell<Journal>,
    pub(crate) outputs: RefCell<Outputs>,
    /// Becomes true when init ends: streams finish what they have and close.
    pub(crate) ending: watch::Sender<bool>,
    /// Connections open now.
    pub(crate) connections: Cell<u32>,
    /// Those of them that stay open until init is gone.
    pub(crate) wait_for_the_end: Cell<u32>,
    /// Notified when one of them is closed.
    pub(crate) connection_closed: Notify,
    /// Commands whose client has gone. At most one entry for each command that runs.
    pub(crate) abandoned_execs: RefCell<Vec<ExecId>>,
    /// Notified when the loop has to look at `abandoned_execs`.
    pub(crate) loop_wanted: Notify,
    /// Runs of git for the host that go on.
    pub(crate) git_runs: Cell<u32>,
    /// What is done inside, for those who ask whether it is quiet.
    pub(crate) activity: Rc<Activity>,
}

impl Shared {
    pub(crate) fn new(main: Session, outputs: Outputs) -> Self {
        Self {
            main: Rc::new(main),
            further: RefCell::new(Vec::new()),
            journal: RefCell::new(Journal::new()),
            outputs: RefCell::new(outputs),
            ending: watch::Sender::new(false),
            connections: Cell::new(0),
            wait_for_the_end: Cell::new(0),
            connection_closed: Notify::new(),
            abandoned_execs: RefCell::new(Vec::new()),
            loop_wanted: Notify::new(),
            git_runs: Cell::new(0),
            activity: Rc::new(Activity::new()),
        }
    }

    /// The terminal of an agent, by its unit's name.
    pub(crate) fn session(&self, unit: &str) -> Option<Rc<Session>> {
        if unit == AGENT {
            return Some(Rc::clone(&self.main));
        }
        let further = self.further.borrow();
        further.iter().find(|(name, _)| name == unit).map(|(_, session)| Rc::clone(session))
    }

    /// Viewers of all terminals.
    pub(crate) fn viewers(&self) -> usize {
        let of = |session: &Rc<Session>| session.terminal.borrow().viewers();
        of(&self.main) + self.further.borrow().iter().map(|(_, session)| of(session)).sum::<usize>()
    }

    /// The log of a unit; `None` for an unknown one.
    pub(crate) fn log(&self, unit: &str) -> Option<Log> {
        match self.session(unit) {
            Some(session) => Some(Log::Session(session)),
            None => self.outputs.borrow().get(unit).is_some().then(|| Log::Output(unit.to_owned())),
        }
    }

    /// Whether output of a unit's present run was forgotten before a reader of its log had it.
    pub(crate) fn is_output_lost(&self, unit: &str) -> bool {
        match self.session(unit) {
            Some(session) => session.terminal.borrow_mut().unread().is_lost(),
            None => self.outputs.borrow_mut().unread(unit).is_some_and(|unread| unread.is_lost()),
        }
    }
}

/// A unit's log, held by one who reads it.
pub(crate) enum Log {
    /// The terminal of an agent; it stays readable when the agent is removed.
    Session(Rc<Session>),
    /// What a step or a service writes, by its name.
    Output(String),
}

impl Log {
    /// Where the kept output starts and ends.
    pub(crate) fn span(&self, shared: &Shared) -> (u64, u64) {
        let span = |ring: &Ring| (ring.start(), ring.end());
        match self {
            Self::Session(session) => span(session.terminal.borrow().ring()),
            Self::Output(unit) => {
                shared.outputs.borrow().get(unit).map(|(ring, _)| span(ring)).unwrap_or_default()
            }
        }
    }

    /// Who to wait on for more.
    pub(crate) fn changed(&self, shared: &Shared) -> Option<Rc<Notify>> {
        match self {
            Self::Session(session) => Some(session.terminal.borrow().changed()),
            Self::Output(unit) => shared.outputs.borrow().get(unit).map(|(_, changed)| changed),
        }
    }

    /// Whether nothing will ever be added.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Session(session) if session.is_closed())
    }

    /// Its reader has everything before `offset`.
    pub(crate) fn was_read(&self, shared: &Shared, offset: u64) {
        match self {
            Self::Session(session) => session.terminal.borrow_mut().unread().read_to(offset),
            Self::Output(unit) => {
                if let Some(unread) = shared.outputs.borrow_mut().unread(unit) {
                    unread.read_to(offset);
                }
            }
        }
    }

    /// Appends the output from `offset` on to `out`, at most `most` bytes. Returns where they begin: behind `offset` where
    /// that is no longer kept.
    pub(crate) fn read(&self, shared: &Shared, offset: u64, most: usize, out: &mut Vec<u8>) -> u64 {
        let mut read = |ring: &Ring| {
            let from = offset.max(ring.start());
            // Cannot be lost: `from` is where the ring starts, or behind it.
            let _ = ring.read_at(from, out, most);
            from
        };
        match self {
            Self::Session(session) => read(session.terminal.borrow().ring()),
            Self::Output(unit) => shared.outputs.borrow().get(unit).map_or(offset, |(ring, _)| read(ring)),
        }
    }
}
