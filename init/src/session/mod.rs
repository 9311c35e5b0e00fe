//! A session: what an agent's terminal said, what it shows, and who watches.

mod emulator;
pub(crate) mod pty;
pub(crate) mod ring;
pub(crate) mod screen;
pub(crate) mod terminal;
#[cfg(test)]
mod terminal_tests;
pub(crate) mod unread;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use agent_protocol::message::TerminalSize;
use tokio::sync::Notify;

use self::{pty::Master, terminal::Terminal};

/// The terminal of one agent, and the pseudoterminal that it runs on now.
pub(crate) struct Session {
    pub(crate) terminal: RefCell<Terminal>,
    /// Notified when the agent has another pseudoterminal, or none.
    pub(crate) master_changed: Notify,
    master: RefCell<Option<Rc<Master>>>,
    closed: Cell<bool>,
}

impl Session {
    /// A terminal on which nothing runs yet.
    #[inline(never)] // Rare, and large.
    pub(crate) fn new(size: TerminalSize) -> Self {
        Self {
            terminal: RefCell::new(Terminal::new(size)),
            master_changed: Notify::new(),
            master: RefCell::new(None),
            closed: Cell::new(false),
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
            tracing::warn!(%error, "resizing an agent's terminal");
        }
    }

    /// Its agent was removed: whoever watches is told what there is to be told, and let go.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.terminal.borrow().changed().notify_waiters();
    }

    /// Whether nothing will ever run on it again.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }
}
