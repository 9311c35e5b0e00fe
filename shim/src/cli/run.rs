use std::{io::IsTerminal, os::fd::AsFd, process::ExitCode, time::Duration};

use agent_protocol::message::{LeaseWish, TerminalSize};

use super::{
    attach::{self, KeyArgs, Viewer},
    context::Context,
    error::{CliError, Kind},
    launch_args::LaunchArgs,
    output::{clean, tell},
    prepare::Stay,
};
use crate::{
    client::attach::AttachOutcome,
    sandbox::{
        Sandbox,
        record::Workspace,
        start::{End, Occasion, Started},
    },
    terminal,
};

/// How long the sandbox may take to end after its agent: init's deadline for that, and time to remove it.
const END_PATIENCE: Duration = Duration::from_mins(1);

/// The same for one that is removed at its end: its work comes home first.
const HOME_PATIENCE: Duration = Duration::from_hours(1);

/// Start a sandbox, attach to its agent, and end with it
///
/// The exit code is the agent's, 128 + N for signal N; 125 if agent-shim failed, 126 if the agent cannot be executed, 127
/// if it does not exist. Detaching leaves everything running.
#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

pub(crate) fn run(ctx: &Context, args: &RunArgs) -> Result<ExitCode, CliError> {
    let ready = args.launch.prepare(ctx, Stay::UntilAgentEnds)?;
    if ctx.global.dry_run {
        ready.show(ctx, &Occasion::default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let occasion = Occasion { size: terminal_size(), ..Occasion::default() };
    // With it goes what it brings home first.
    let is_pulled = ready.record.remove && ready.record.workspace == Workspace::Clone;
    let patience = if is_pulled { HOME_PATIENCE } else { END_PATIENCE };
    let (sandbox, started) = ready.start(ctx, &occasion)?;
    // An agent that ends at once may take the sandbox with it before we are attached.
    let outcome = match attach::view(&sandbox, None, LeaseWish::TakeOver, args.keys.keys(), Viewer::First) {
        Err(error) if sandbox.is_alive() => return Err(attach::cannot(&sandbox, &error)),
        outcome => outcome,
    };
    match outcome {
        Ok(AttachOutcome::Detached) => {
            tell(&format!("detached; `agent-shim attach {}` comes back", sandbox.name()));
            Ok(ExitCode::SUCCESS)
        }
        Ok(AttachOutcome::Ended(exit)) => {
            // What it leaves behind is gone when we are.
            tell_kept(&sandbox, started.wait_end(patience).as_ref());
            Ok(ExitCode::from(exit.how.shell_code()))
        }
        Ok(AttachOutcome::Interrupted(signal)) => Err(attach::interrupted(signal as i32)),
        Ok(AttachOutcome::Lost(_)) | Err(_) => lost(&sandbox, started, patience),
    }
}

/// The agent's terminal size, where we have a terminal to show it on.
fn terminal_size() -> Option<TerminalSize> {
    let stdout = std::io::stdout();
    let is_terminal = std::io::stdin().is_terminal() && stdout.is_terminal();
    terminal::size(stdout.as_fd()).filter(|_| is_terminal)
}

/// A sandbox that was to be removed stays where that would lose work.
fn tell_kept(sandbox: &Sandbox, end: Option<&End>) {
    if let Some(reason) = end.and_then(|end| end.kept.as_ref()) {
        tell(&format!("note: `{}` stays: {}", sandbox.name(), clean(reason)));
    }
}

/// The connection ended without the agent's exit: the monitor may know how.
fn lost(sandbox: &Sandbox, started: Started, patience: Duration) -> Result<ExitCode, CliError> {
    let cannot = |message: &str| {
        CliError::new(Kind::Failed, format!("lost sandbox `{}`", sandbox.name()))
            .because(&std::io::Error::other(message.to_owned()))
    };
    if sandbox.is_alive() {
        return Err(cannot("the connection broke; it runs on")
            .hint(format!("`agent-shim attach {}` goes on where it was", sandbox.name())));
    }
    let end = started.wait_end(patience);
    tell_kept(sandbox, end.as_ref());
    match end {
        Some(End { code: Some(code), .. }) => {
            Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
        }
        Some(End { code: None, .. }) => Err(cannot("it ended, and nobody knows how")),
        None => Err(cannot("it ended, and its monitor with it")),
    }
}
