use std::{process::ExitCode, time::Duration};

use super::{
    context::Context,
    error::CliError,
    list::{agent_words, word},
    output::{clean, print_json, print_table},
    resolve,
};
use crate::isolation::{Accelerator, MachineWishes};
use crate::sandbox::{
    record::ContainerRecord,
    resources::ResourcesView,
    sync::{SyncView, Trouble},
    view::SandboxView,
};

/// Show everything about a sandbox
#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
}

pub(crate) fn run(ctx: &Context, args: &StatusArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    // A record that cannot be read is an error here, with what to do; `list` shows it as a state.
    sandbox.record()?;
    sandbox.ensure_monitored();
    let view = sandbox.observe();
    if ctx.global.json {
        print_json(&view)?;
    } else {
        print_table(&rows(&view))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How the work comes home.
fn sync_rows(sync: &SyncView) -> [(&'static str, Option<String>); 5] {
    let idle = sync.idle_s.map(|idle| humantime::format_duration(Duration::from_secs(idle)));
    let trouble = |trouble: &Trouble| {
        let again = trouble.next_try.as_ref().map_or(String::new(), |at| format!("; tried again at {at}"));
        format!("{}: {}{again}", trouble.at, trouble.reason)
    };
    [
        ("sync", Some(idle.map_or(word(&sync.mode), |idle| format!("{}, after {idle}", word(&sync.mode))))),
        ("last pull", sync.last_pull.clone()),
        ("came", sync.came.as_ref().map(|came| format!("{}, at {}", came.describe(), came.at))),
        ("pull failed", sync.failure.as_ref().map(trouble)),
        ("snapshot failed", sync.snapshot_failure.as_ref().map(trouble)),
    ]
}

/// What was asked for of a machine.
fn machine_words(machine: &MachineWishes, view: &SandboxView) -> String {
    let memory = view.limits.and_then(|limits| limits.memory_bytes);
    let mut words: Vec<String> = [
        machine
            .vcpus
            .map(|vcpus| if vcpus == 1 { "1 processor".to_owned() } else { format!("{vcpus} processors") }),
        memory.map(|bytes| format!("{} MiB", bytes >> 20)),
        machine.kernel.as_ref().map(|kernel| format!("kernel {}", kernel.display())),
        machine.share.as_ref().map(|share| format!("files by {}", word(share))),
        (machine.accelerator != Accelerator::Auto).then(|| word(&machine.accelerator)),
        machine.no_nested.then(|| "no machines inside".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    if words.is_empty() {
        words.push("as usual".to_owned());
    }
    words.join(", ")
}

fn container_words(container: &ContainerRecord) -> String {
    let engine = container.engine.as_ref().map(word);
    let image = container.image.as_ref().map(|image| format!("image {image}"));
    engine.into_iter().chain(image).collect::<Vec<_>>().join(", ")
}

fn rows(view: &SandboxView) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            rows.push(vec![name.to_owned(), clean(&value)]);
        }
    };
    row("name", Some(view.name.to_string()));
    row("state", Some(word(&view.state)));
    row("stuck", view.stuck.clone());
    row("reason", view.reason.clone());
    row("agent", Some(agent_words(&view.agent)));
    row("agent pid", view.agent.pid.map(|pid| pid.to_string()));
    row("agent restarts", (view.agent.restarts > 0).then(|| view.agent.restarts.to_string()));
    row("agent reason", view.agent.reason.clone());
    row("agent says", view.agent.status_text.clone());
    row(
        "last exit",
        view.agent.last_exit.as_ref().map(|exit| format!("{}, at {}", exit.describe(), exit.at)),
    );
    row("command", (!view.command.is_empty()).then(|| view.command.join(" ")));
    row("project", view.project.as_ref().map(|path| path.display().to_string()));
    for (name, value) in view.sync.as_ref().map(sync_rows).unwrap_or_default() {
        row(name, value);
    }
    row("isolation", view.isolation.as_ref().map(word));
    row("environment", view.environment.as_ref().map(word));
    row("network", view.network.clone());
    row("machine", view.machine.as_ref().map(|machine| machine_words(machine, view)));
    row("container", view.container.as_ref().map(container_words));
    row("created", view.created_at.clone());
    row("started", view.started_at.clone());
    row("ended", view.ended.as_ref().map(|ended| format!("{}, {}", ended.at, ended.reason)));
    for unit in &view.units {
        row(&format!("{} {}", unit.kind, unit.name), Some(agent_words(&unit.unit)));
    }
    for worktree in &view.worktrees {
        row(&format!("worktree {}", clean(&worktree.branch)), Some(agent_words(&worktree.unit)));
    }
    if let Some(init) = &view.init {
        row("init", init.pid.map(|pid| format!("process {pid}, version {}", init.version)));
        row(
            "inside",
            Some(format!("{} processes, {} commands, {} viewers", init.processes, init.execs, init.viewers)),
        );
    }
    for (name, value) in view.resources.iter().flat_map(ResourcesView::describe) {
        row(name, value);
    }
    row(
        "monitor",
        Some(
            view.monitor.pid.map_or(view.monitor.state.to_owned(), |pid| {
                format!("{}, process {pid}", view.monitor.state)
            }),
        ),
    );
    for warning in &view.warnings {
        row("warning", Some(warning.clone()));
    }
    rows
}
