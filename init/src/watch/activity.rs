//! What is done inside, noted where it happens, and told when it begins and when it ends.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant as Monotonic},
};

use agent_protocol::message::{ExecId, What};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::sleep_until,
};

use super::quiet::{Action, Quiet};
use crate::{
    journal::unix_ms,
    sandbox::{Ask, Shared},
    supervise::Instant,
};

/// Programs of ours inside: what they do, they do for the host.
const OURS: &[u8] = b"/run/agent/";

/// What is done now. Costs a look at the clock for each piece of output where it is wanted, and nothing where not.
pub(crate) struct Activity {
    began: Monotonic,
    quiet: RefCell<Option<Quiet>>,
    /// Commands that count, at most as many as run.
    commands: RefCell<Vec<ExecId>>,
    wanted: Notify,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            began: Monotonic::now(),
            quiet: RefCell::new(None),
            commands: RefCell::new(Vec::new()),
            wanted: Notify::new(),
        }
    }

    /// The agent's terminal wrote something.
    pub(crate) fn output(&self) {
        self.note(Quiet::stir);
    }

    /// Whether a command is something that is done inside, and not what the host does with the repository: brought home
    /// because it is quiet, the work would never be quiet.
    pub(crate) fn shows(argv: &[Vec<u8>]) -> bool {
        !argv.first().is_some_and(|program| program.starts_with(OURS))
    }

    /// A command was started.
    pub(crate) fn exec_started(&self, exec: ExecId, shows: bool) {
        if shows && self.quiet.borrow().is_some() {
            self.commands.borrow_mut().push(exec);
            self.note(Quiet::command_began);
        }
    }

    /// A command has ended.
    pub(crate) fn exec_ended(&self, exec: ExecId) {
        let place = self.commands.borrow().iter().position(|one| *one == exec);
        if let Some(place) = place {
            self.commands.borrow_mut().swap_remove(place);
            self.note(Quiet::command_ended);
        }
    }

    pub(super) fn begin(&self, after: Duration) {
        *self.quiet.borrow_mut() = Some(Quiet::new(after, self.now()));
    }

    fn note(&self, what: impl FnOnce(&mut Quiet, Instant) -> bool) {
        if let Some(quiet) = self.quiet.borrow_mut().as_mut()
            && what(quiet, self.now())
        {
            self.wanted.notify_one();
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Quiet, Instant) -> Option<T>) -> Option<T> {
        self.quiet.borrow_mut().as_mut().and_then(|quiet| ask(quiet, self.now()))
    }

    fn now(&self) -> Instant {
        Instant(self.began.elapsed())
    }
}

/// Tells when it becomes quiet, and when no longer.
pub(super) async fn follow(shared: Rc<Shared>, asks: mpsc::Sender<Ask>) {
    let activity = &shared.activity;
    let tell = |what| shared.journal.borrow_mut().add(unix_ms(), what);
    loop {
        while let Some(action) = activity.with(Quiet::next) {
            match action {
                Action::TellActive => tell(What::Active),
                Action::Measure => {
                    let used = agent_cpu(&asks).await;
                    if let Some(idle) = activity.with(|quiet, now| quiet.measured(now, used)) {
                        tell(What::Quiet { idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX) });
                    }
                }
            }
        }
        match activity.with(|quiet, _| quiet.due()) {
            Some(due) => tokio::select! {
                () = sleep_until((activity.began + due.0).into()) => {}
                () = activity.wanted.notified() => {}
            },
            None => activity.wanted.notified().await,
        }
    }
}

async fn agent_cpu(asks: &mpsc::Sender<Ask>) -> Option<Duration> {
    let (reply, answer) = oneshot::channel();
    asks.send(Ask::AgentCpu(reply)).await.ok()?;
    answer.await.ok()?
}
