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

/// For a snapshot that somebody's stop or restart waits for, where a sandbox's programs run as fast as any.
const KEEP_WITHIN: Duration = Duration::from_secs(5);

/// So often init could have answered meanwhile: that much longer it takes where everything does.
const ANSWERS: u32 = 6;

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
        let deadline = self.deadline();
        // One that does not accept the connection is stuck, and will be found to be.
        let connection = self.sandbox.connect(Instant::now() + self.sandbox.patience().answer);
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
        let endpoint = match Endpoint::open_locked(&self.ctx.data, self.sandbox, lock) {
            Ok(endpoint) => endpoint,
            Err(error) => return self.complain(&error.to_string()),
        };
        // From here on: a machine has booted for it.
        let deadline = self.deadline();
        let connection = endpoint.connect(deadline).map_err(SnapshotError::from);
        self.tell(connection.and_then(|connection| self.take(connection, deadline)));
    }

    fn deadline(&self) -> Instant {
        Instant::now() + KEEP_WITHIN.max(self.sandbox.patience().answer * ANSWERS)
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
