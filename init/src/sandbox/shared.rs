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
    session::{pty::Master, terminal::Terminal},
    watch::Activity,
};

/// The unit whose log is the terminal itself.
pub(crate) const AGENT: &str = "agent";

/// What is shared.
pub(crate) struct Shared {
    pub(crate) terminal: RefCell<Terminal>,
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
    pub(crate) activity: Activity,
    /// Notified when the agent has another pseudoterminal, or none.
    pub(crate) master_changed: Notify,
    master: RefCell<Option<Rc<Master>>>,
}

impl Shared {
    pub(crate) fn new(terminal: Terminal, outputs: Outputs) -> Self {
        Self {
            terminal: RefCell::new(terminal),
            journal: RefCell::new(Journal::new()),
            outputs: RefCell::new(outputs),
            ending: watch::Sender::new(false),
            connections: Cell::new(0),
            wait_for_the_end: Cell::new(0),
            connection_closed: Notify::new(),
            abandoned_execs: RefCell::new(Vec::new()),
            loop_wanted: Notify::new(),
            git_runs: Cell::new(0),
            activity: Activity::new(),
            master_changed: Notify::new(),
            master: RefCell::new(None),
        }
    }

    /// The pseudoterminal that the agent runs on now.
    pub(crate) fn master(&self) -> Option<Rc<Master>> {
        self.master.borrow().clone()
    }

    /// A new run has a new one; none after it.
    pub(crate) fn set_master(&self, master: Option<Rc<Master>>) {
        *self.master.borrow_mut() = master;
        self.master_changed.notify_waiters();
    }

    /// Gives the pseudoterminal the size that the terminal has come to have.
    pub(crate) fn apply_size(&self) {
        let size = self.terminal.borrow().size();
        if let Some(master) = self.master()
            && let Err(error) = master.resize(size)
        {
            tracing::warn!(%error, "resizing the agent's terminal");
        }
    }

    /// Where a unit's kept output starts and ends, and who to wait on for more; `None` for an unknown unit.
    pub(crate) fn log_span(&self, unit: &str) -> Option<(u64, u64, Rc<Notify>)> {
        if unit == AGENT {
            let terminal = self.terminal.borrow();
            return Some((terminal.ring().start(), terminal.ring().end(), terminal.changed()));
        }
        let outputs = self.outputs.borrow();
        let (ring, changed) = outputs.get(unit)?;
        Some((ring.start(), ring.end(), changed))
    }

    /// A reader of a unit's log has everything before `offset`.
    pub(crate) fn log_was_read(&self, unit: &str, offset: u64) {
        if unit == AGENT {
            self.terminal.borrow_mut().unread().read_to(offset);
        } else if let Some(unread) = self.outputs.borrow_mut().unread(unit) {
            unread.read_to(offset);
        }
    }

    /// Whether output of a unit's present run was forgotten before a reader of its log had it.
    pub(crate) fn is_output_lost(&self, unit: &str) -> bool {
        if unit == AGENT {
            return self.terminal.borrow_mut().unread().is_lost();
        }
        self.outputs.borrow_mut().unread(unit).is_some_and(|unread| unread.is_lost())
    }

    /// Appends a unit's output from `offset` on to `out`, at most `most` bytes. Returns where they begin: behind
    /// `offset` where that is no longer kept.
    pub(crate) fn read_log(&self, unit: &str, offset: u64, most: usize, out: &mut Vec<u8>) -> u64 {
        let terminal = self.terminal.borrow();
        let outputs = self.outputs.borrow();
        let ring =
            if unit == AGENT { Some(terminal.ring()) } else { outputs.get(unit).map(|(ring, _)| ring) };
        let Some(ring) = ring else { return offset };
        let from = offset.max(ring.start());
        // Cannot be lost: `from` is where the ring starts, or behind it.
        let _ = ring.read_at(from, out, most);
        from
    }
}
