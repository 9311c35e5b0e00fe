use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use super::told;
use crate::{
    cli::{
        context::Context,
        error::{CliError, Kind},
        output::{print_json, print_line},
        resolve,
    },
    repo::{
        ENDPOINT_PATIENCE,
        snapshot::{Ask, Outcome, SnapshotError, TakeOptions},
    },
    sandbox::{endpoint::Endpoint, record::Workspace},
};

/// For a snapshot of everything: the first one of a large project reads all of it.
const TAKE_WITHIN: Duration = Duration::from_mins(2);

/// How long init may take to accept the connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args, Debug)]
pub(crate) struct TakeArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Only this worktree, by its branch or its name; `main` is the one in /workspace
    #[arg(long, value_name = "BRANCH")]
    worktree: Option<String>,
    /// What git ignores as well
    #[arg(long)]
    ignored: bool,
}

pub(super) fn run(ctx: &Context, args: &TakeArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let record = sandbox.record()?;
    let cannot = || format!("cannot take a snapshot of `{}`", sandbox.name());
    if record.workspace == Workspace::Bind {
        let why = "it works in the project's folder itself, so its files are on this host already";
        return Err(CliError::new(Kind::WrongState, why).while_doing(cannot()));
    }
    if ctx.global.dry_run {
        print_line(&format!("would take a snapshot of `{}`", sandbox.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = TakeOptions {
        worktree: args.worktree.clone(),
        ignored: args.ignored || record.snapshots.ignored,
        ..TakeOptions::of(&record.snapshots)
    };
    let taken = Endpoint::open(&ctx.data, &sandbox, ENDPOINT_PATIENCE).map_err(SnapshotError::from).and_then(
        |endpoint| {
            let connection = endpoint.connect(Instant::now() + CONNECT_PATIENCE)?;
            Ask { connection, deadline: Instant::now() + TAKE_WITHIN }.take(&options)
        },
    );
    let reports = taken.map_err(|error| told::failed(&sandbox, error).while_doing(cannot()))?;
    if ctx.global.json {
        print_json(&serde_json::json!({ "sandbox": sandbox.name(), "snapshots": reports }))?;
    } else {
        for report in &reports {
            told::lines(sandbox.name(), report).iter().try_for_each(|line| print_line(line))?;
        }
    }
    let failed = reports.iter().any(|report| matches!(report.outcome, Outcome::Failed { .. }));
    Ok(if failed { ExitCode::from(told::FAILED) } else { ExitCode::SUCCESS })
}
