use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use agent_protocol::{failure::FailureKind, message::LeaseWish};

use super::{
    context::Context,
    error::{CliError, Kind},
    output::print_line,
    resolve, worktree,
};
use crate::{
    client::{
        ConnectionError,
        attach::{self, AttachError, AttachOptions, AttachOutcome},
        exec::Streams,
    },
    sandbox::Sandbox,
    terminal::keys::DetachKeys,
    worktree::Branch,
};

/// How long init may take to accept the connection, and then to let the viewer in.
const PATIENCE: Duration = Duration::from_secs(5);

/// See and drive the agent's terminal
///
/// The screen is painted at once. Ctrl-] and then d leaves the agent running; Ctrl-] and then ? shows all keys. Any number
/// of terminals can be attached; one of them types.
#[derive(clap::Args, Debug)]
pub(crate) struct AttachArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Watch only
    #[arg(long, conflicts_with = "take_over")]
    watch: bool,
    /// Type even if another terminal does
    #[arg(long)]
    take_over: bool,
    /// The session of this branch's worktree
    #[arg(long, value_name = "BRANCH")]
    worktree: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

// The keys that mean us. A doc comment would become the help of the subcommand.
#[derive(clap::Args, Debug)]
pub(crate) struct KeyArgs {
    /// Keys that detach, two or more, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
}

impl KeyArgs {
    pub(super) fn keys(&self) -> DetachKeys {
        self.detach_keys.clone().unwrap_or_default()
    }
}

pub(crate) fn run(ctx: &Context, args: &AttachArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    if ctx.global.dry_run {
        print_line(&format!("would attach to `{}`", sandbox.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    sandbox.ensure_monitored();
    let unit = args.worktree.as_ref().map(|branch| worktree::named(ctx, &sandbox, branch)).transpose()?;
    let unit = unit.as_ref().map(Branch::unit);
    let is_main = unit.is_none();
    let lease = match (args.watch, args.take_over) {
        (true, _) => LeaseWish::Watch,
        (_, true) => LeaseWish::TakeOver,
        _ => LeaseWish::IfFree,
    };
    let viewed = view(&sandbox, unit, lease, args.keys.keys(), Viewer::Later);
    match viewed.map_err(|error| cannot(&sandbox, &error))? {
        AttachOutcome::Detached => Ok(ExitCode::SUCCESS),
        AttachOutcome::Ended(exit) => Ok(ExitCode::from(exit.how.shell_code())),
        AttachOutcome::Interrupted(signal) => Err(interrupted(signal as i32)),
        AttachOutcome::Lost(_) if !sandbox.is_alive() => {
            Err(CliError::new(Kind::Failed, format!("sandbox `{}` has ended", sandbox.name())))
        }
        AttachOutcome::Lost(ConnectionError::Closed(_)) if !is_main => {
            Err(CliError::new(Kind::Failed, "the session has ended: its worktree was removed"))
        }
        AttachOutcome::Lost(error) => {
            Err(CliError::new(Kind::Failed, format!("the connection to `{}` was lost", sandbox.name()))
                .because(&error)
                .hint(format!("`agent-shim attach {}` goes on where it was", sandbox.name())))
        }
    }
}

/// Which viewer of an agent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Viewer {
    /// The one that the agent was started for.
    First,
    /// One that comes to what runs.
    Later,
}

/// Shows an agent's terminal until the person leaves or it ends: the main one's where no unit is named.
pub(super) fn view(
    sandbox: &Sandbox,
    unit: Option<String>,
    lease: LeaseWish,
    keys: DetachKeys,
    viewer: Viewer,
) -> Result<AttachOutcome, AttachError> {
    let connection = sandbox.connect(Instant::now() + PATIENCE)?;
    let options = AttachOptions {
        unit,
        lease,
        keys,
        from_start: viewer == Viewer::First,
        forward_interrupts: viewer == Viewer::First,
        streams: Streams::inherited(),
        start_patience: PATIENCE,
    };
    attach::run(connection, options)
}

/// We end as programs do that a signal ends; there is nothing to add to it.
pub(super) fn interrupted(signal: i32) -> CliError {
    let code = 128u8.saturating_add(u8::try_from(signal).unwrap_or(0));
    CliError::new(Kind::Interrupted(code), "a signal ended the viewer; the agent runs on")
}

pub(super) fn cannot(sandbox: &Sandbox, error: &AttachError) -> CliError {
    let kind = match error {
        AttachError::Connection(ConnectionError::NotRunning) => Kind::WrongState,
        _ => Kind::Failed,
    };
    let made = CliError::new(kind, format!("cannot attach to `{}`", sandbox.name())).because(error);
    match error {
        AttachError::Connection(ConnectionError::NotRunning) => {
            made.hint(format!("`agent-shim start {}` starts it", sandbox.name()))
        }
        AttachError::Connection(ConnectionError::Refused(failure))
            if failure.kind == FailureKind::Unknown =>
        {
            made.hint(format!("`agent-shim restart {} --worktree BRANCH` starts a session", sandbox.name()))
        }
        AttachError::Connection(error) if error.is_stuck() => match sandbox.diagnose().stuck {
            Some(place) => made.because(&std::io::Error::other(place)),
            None => made,
        },
        _ => made,
    }
}
