use std::process::ExitCode;

use super::{
    context::Context,
    error::CliError,
    output::{clean, print_json, print_table, tell},
};
use crate::sandbox::{
    Sandbox, observe_all,
    view::{AgentView, SandboxView, State},
};

/// List all sandboxes
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(ctx: &Context, args: &ListArgs) -> Result<ExitCode, CliError> {
    let sandboxes = Sandbox::all(&ctx.data)?;
    if args.quiet && !ctx.global.json {
        let rows: Vec<_> = sandboxes.iter().map(|sandbox| vec![sandbox.name().to_string()]).collect();
        print_table(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    sandboxes.iter().for_each(Sandbox::ensure_monitored);
    let views = observe_all(&sandboxes);
    if ctx.global.json {
        print_json(&views)?;
        return Ok(ExitCode::SUCCESS);
    }
    let head =
        ["NAME", "STATE", "AGENT", "ISOLATION", "NETWORK", "STARTED", "PROJECT"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(views.iter().map(row)).collect();
    print_table(&rows)?;
    for view in &views {
        let reason = view.reason.as_ref().filter(|_| view.state == State::Error);
        if let Some(note) = view.stuck.as_ref().or(reason) {
            tell(&format!("{}: {}", view.name, clean(note)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(view: &SandboxView) -> Vec<String> {
    let project = view.project.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let stuck = if view.stuck.is_some() { " (stuck)" } else { "" };
    vec![
        view.name.to_string(),
        format!("{}{stuck}", word(&view.state)),
        agent_words(&view.agent),
        view.isolation.as_ref().map_or_else(|| "-".to_owned(), word),
        view.network.clone().unwrap_or_else(|| "-".to_owned()),
        view.started_at.clone().unwrap_or_else(|| "-".to_owned()),
        clean(&project),
    ]
}

/// What the agent is doing, in a few words.
pub(super) fn agent_words(agent: &AgentView) -> String {
    let state = word(&agent.state);
    let text = match (&agent.last_exit, agent.pid) {
        (Some(exit), None) => format!("{state}, {}", exit.describe()),
        _ => state,
    };
    clean(&text)
}

/// A word of ours as it stands in JSON.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
