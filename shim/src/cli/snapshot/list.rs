use std::process::ExitCode;

use super::{
    known::{Known, Place},
    told,
};
use crate::cli::{
    context::Context,
    error::CliError,
    output::{clean, print_json, print_line, print_table},
    resolve,
};

#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
}

pub(super) fn run(ctx: &Context, args: &ListArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    let all = Place::new(ctx, &sandbox)?.all()?;
    if ctx.global.json {
        let list: Vec<_> = all.iter().map(as_json).collect();
        print_json(&serde_json::json!({ "sandbox": sandbox.name(), "snapshots": list }))?;
    } else if all.is_empty() {
        print_line(&format!("`{}` has no snapshots", sandbox.name()))?;
    } else {
        let head = ["SNAPSHOT", "WHEN", "WORKTREE", "CHANGED", "WHERE"].map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> = [head].into_iter().chain(all.iter().map(row)).collect();
        print_table(&rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(known: &Known) -> Vec<String> {
    let place = match (known.is_inside, known.is_home) {
        (true, true) => "inside, home",
        (true, false) => "inside",
        (false, _) => "home",
    };
    let listed = &known.listed;
    vec![
        listed.at_ms.to_string(),
        told::when(listed.at_ms),
        clean(&listed.worktree),
        told::count(listed.changed, "file"),
        place.to_owned(),
    ]
}

fn as_json(known: &Known) -> serde_json::Value {
    let listed = &known.listed;
    serde_json::json!({
        "worktree": listed.worktree,
        "at_ms": listed.at_ms,
        "at": told::when(listed.at_ms),
        "commit": listed.commit,
        "changed": listed.changed,
        "inside": known.is_inside,
        "home": known.is_home,
    })
}
