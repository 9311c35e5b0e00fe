//! A launch for a person to read: the runtime's command, and the bundle that it finds.

use std::path::Path;

use super::bundle::Bundle;
use crate::isolation::plan::{Caller, LaunchPlan};
use crate::terminal::{
    quote::quoted,
    sanitize::{Sanitized, sanitized},
};

/// The command, and as comments what has to be there for it.
pub(super) fn to_shell(plan: &LaunchPlan, bundle: &Bundle<'_>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for fd in &plan.fds {
        lines.push(format!("# descriptor {} is inherited: {}", fd.number, fd.name));
    }
    if let Some(cgroup) = &plan.limits.cgroup {
        lines.push(format!("# in the cgroup {}", shown(&cgroup.folder)));
        lines.extend(cgroup.settings.iter().map(|(file, value)| format!("#   {file} = {value}")));
    }
    if let Caller::Root { runs_as } = plan.caller {
        lines.push(format!(
            "# as user and group {runs_as}, without capabilities, in a mount namespace in which"
        ));
        for staged in &bundle.sources.staged {
            lines.push(format!("#   {} is {}", shown(&staged.at), shown(staged.source)));
        }
    }
    lines.push(format!(
        "# as root of a user namespace without other ids, with a file system in memory at {}, in which",
        shown(&bundle.job.place)
    ));
    for bind in &bundle.job.binds {
        let access = if bind.read_only { ", read-only" } else { "" };
        lines.push(format!("#   {} is {}{access}", shown(&bind.at), shown(&bind.source)));
    }
    // Numbers, strings and lists only: writing them to memory cannot fail.
    let config = serde_json::to_string_pretty(&bundle.job.config).unwrap_or_default();
    lines.push("#   config.json is".to_owned());
    lines.extend(config.lines().map(|line| format!("#   {}", sanitized(line.as_bytes()))));
    let job = &bundle.job;
    let words = job.runtime.command_line(&job.place, &job.id, job.inherited).into_iter();
    let words: Vec<String> = words.map(|word| quoted(word.as_encoded_bytes())).collect();
    lines.push(words.join(" "));
    lines.join("\n") + "\n"
}

/// A path in a comment, which ends with its line.
fn shown(path: &Path) -> Sanitized<'_> {
    sanitized(path.as_os_str().as_encoded_bytes())
}
