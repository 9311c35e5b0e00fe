//! Snapshots that nobody asked for by name: before and after an end.

use std::time::{Duration, Instant};

use super::told;
use crate::{
    cli::{
        context::Context,
        output::{clean, tell},
    },
    client::{Connection, ConnectionError},
    repo::snapshot::{Ask, Outcome, Report, SnapshotError, TakeOptions},
    sandbox::{
        Sandbox,
        endpoint::Endpoint,
        lock::ChangeLock,
        record::{Record, Workspace},
    },
};

/// For a snapshot that somebody's stop or restart waits for.
const KEEP_WITHIN: Duration = Duration::from_secs(5);

/// For init to accept the connection. One that does not is stuck, and will be found to be.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);

/// What is kept of a sandbox that is about to end or to begin anew.
pub(crate) struct Keeper<'a> {
    ctx: &'a Context,
    sandbox: &'a Sandbox,
    options: TakeOptions,
}

impl<'a> Keeper<'a> {
    /// Nothing where nothing is to be kept.
    pub(crate) fn new(ctx: &'a Context, sandbox: &'a Sandbox) -> Option<Self> {
        let Record { workspace, snapshots, .. } = sandbox.record().ok()?;
        let wanted = workspace == Workspace::Clone && snapshots.is_on();
        wanted.then(|| Self { ctx, sandbox, options: TakeOptions::of(&snapshots) })
    }

    /// While it runs. What goes wrong is told, and is no reason not to go on.
    pub(crate) fn before(&self) {
        let deadline = Instant::now() + KEEP_WITHIN;
        let connection = self.sandbox.connect(Instant::now() + ANSWER_PATIENCE);
        // One that does not run, or does not answer, is not for us to say.
        if matches!(&connection, Err(error) if error.is_stuck() || matches!(error, ConnectionError::NotRunning))
        {
            return;
        }
        self.tell(
            connection.map_err(SnapshotError::from).and_then(|connection| self.take(connection, deadline)),
        );
    }

    /// When it has ended: what the agent wrote on its way out.
    pub(crate) fn after(&self, lock: &ChangeLock) {
        let deadline = Instant::now() + KEEP_WITHIN;
        let endpoint = match Endpoint::open_locked(&self.ctx.data, self.sandbox, lock) {
            Ok(endpoint) => endpoint,
            Err(error) => return self.complain(&error.to_string()),
        };
        let connection = endpoint.connect(deadline).map_err(SnapshotError::from);
        self.tell(connection.and_then(|connection| self.take(connection, deadline)));
    }

    fn take(&self, connection: Connection, deadline: Instant) -> Result<Vec<Report>, SnapshotError> {
        Ask { connection, deadline }.take(&self.options)
    }

    fn tell(&self, taken: Result<Vec<Report>, SnapshotError>) {
        match taken {
            Ok(reports) => {
                for report in reports {
                    match &report.outcome {
                        Outcome::Failed { message, .. } => {
                            self.complain(&format!("{}: {message}", report.worktree));
                        }
                        Outcome::Taken(_) => {
                            for line in told::lines(self.sandbox.name(), &report) {
                                self.ctx.say(line);
                            }
                        }
                        Outcome::Unchanged { .. } | Outcome::Clean => {}
                    }
                }
            }
            // A folder without a repository has nothing that could be kept in this way.
            Err(SnapshotError::Refused { why, .. }) if why == "no-repository" || why == "bare" => {}
            Err(error) => self.complain(&error.to_string()),
        }
    }

    fn complain(&self, why: &str) {
        let name = self.sandbox.name();
        tell(&clean(&format!("warning: no snapshot of `{name}` was taken: {why}")));
    }
}
