use std::{io, process::ExitCode};

use super::{
    known::{Place, at_home},
    told,
};
use crate::{
    cli::{
        context::Context,
        error::CliError,
        output::{clean, print_json, print_line},
        resolve,
    },
    repo::snapshot::{ChangedFile, Listed, Made},
    terminal::sanitize::sanitized,
};

#[derive(clap::Args, Debug)]
#[command(allow_missing_positional = true)]
pub(crate) struct ShowArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// As `snapshot list` shows it, or `last`; WORKTREE/SNAPSHOT for another worktree than the main one
    snapshot: String,
    /// Show the changes themselves
    #[arg(short, long)]
    patch: bool,
}

pub(super) fn run(ctx: &Context, args: &ShowArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let place = Place::new(ctx, &sandbox)?;
    let listed = place.at_home(&args.snapshot)?;
    let home = place.home()?;
    let failed = |error| at_home(&error);
    let made = home.made(&listed.commit).map_err(failed)?;
    if args.patch && !ctx.global.json {
        home.patch(&listed.commit, &made, io::stdout().lock()).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let files = home.changes(&listed.commit, &made).map_err(failed)?;
    if ctx.global.json {
        print_json(&as_json(&listed, &made, &files))?;
    } else {
        print(&listed, &made, &files)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(listed: &Listed, made: &Made, files: &[ChangedFile]) -> Result<(), CliError> {
    let on = made.on.as_ref().map_or("nothing", |on| on.short());
    let when = told::when(listed.at_ms);
    print_line(&clean(&format!("snapshot {} of {}, {when}, on {on}", listed.at_ms, listed.worktree)))?;
    for line in left_out(made) {
        print_line(&format!("  left out: {}", sanitized(line)))?;
    }
    for ChangedFile { status, path, lines } in files {
        let lines = lines.map_or("binary".to_owned(), |(came, went)| format!("+{came} -{went}"));
        print_line(&format!("{status} {} {lines}", sanitized(path)))?;
    }
    if files.is_empty() {
        print_line("no file differs")?;
    }
    Ok(())
}

/// What it says that it does not hold.
fn left_out(made: &Made) -> impl Iterator<Item = &[u8]> {
    made.message.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"Left-Out: "))
}

fn as_json(listed: &Listed, made: &Made, files: &[ChangedFile]) -> serde_json::Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let file = |file: &ChangedFile| {
        serde_json::json!({
            "status": file.status,
            "path": text(&file.path),
            "insertions": file.lines.map(|lines| lines.0),
            "deletions": file.lines.map(|lines| lines.1),
        })
    };
    serde_json::json!({
        "worktree": listed.worktree,
        "at_ms": listed.at_ms,
        "at": told::when(listed.at_ms),
        "commit": listed.commit,
        "on": made.on.as_ref().map(ToString::to_string),
        "left_out": left_out(made).map(text).collect::<Vec<_>>(),
        "files": files.iter().map(file).collect::<Vec<_>>(),
    })
}
