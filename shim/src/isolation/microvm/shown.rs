//! A launch for a person to read: the commands of the machine's parts, and what each finds in its place.

use std::path::Path;

use super::job::{Piece, TREE};
use super::plan::Processor;
use super::render::Rendered;
use crate::isolation::plan::{Caller, LaunchPlan};
use crate::isolation::rootfs::Entry;
use crate::terminal::{
    quote::quoted,
    sanitize::{Sanitized, sanitized},
};

/// The commands, and as comments what has to be there for them.
pub(super) fn to_shell(plan: &LaunchPlan, rendered: &Rendered<'_>) -> String {
    let mut lines: Vec<String> = Vec::new();
    if let Some(cgroup) = &plan.limits.cgroup {
        lines.push(format!("# in the cgroup {}", shown(&cgroup.folder)));
        lines.extend(cgroup.settings.iter().map(|(file, value)| format!("#   {file} = {value}")));
    }
    if let Caller::Root { runs_as } = plan.caller {
        lines.push(format!(
            "# as user and group {runs_as}, without capabilities, in a mount namespace in which"
        ));
        for staged in &rendered.sources.staged {
            lines.push(format!("#   {} is {}", shown(&staged.at), shown(staged.source)));
        }
    }
    lines.push("# in a root folder of their own, with namespaces of their own, in which".to_owned());
    for bind in &rendered.job.room {
        let access = if bind.read_only { ", read-only" } else { "" };
        lines.push(format!("#   {} is {}{access}", shown(&bind.at), shown(&bind.source)));
    }
    lines.push(format!("#   {TREE}, which is the root folder inside, holds"));
    for piece in &rendered.job.tree {
        lines.push(match piece {
            Piece::Bind { source, at, read_only } => {
                let access = if *read_only { ", read-only" } else { "" };
                format!("#     {} is {}{access}", sanitized(at.as_bytes()), shown(source))
            }
            Piece::Empty { at } => format!("#     {} is empty", sanitized(at.as_bytes())),
            Piece::Entry(Entry::Dir { at, .. }) => format!("#     {}/", sanitized(at.as_bytes())),
            Piece::Entry(Entry::Symlink { at, target }) => {
                format!("#     {} -> {}", sanitized(at.as_bytes()), sanitized(target.as_bytes()))
            }
            Piece::Entry(Entry::File { at, .. }) => format!("#     {}, a copy", sanitized(at.as_bytes())),
        });
    }
    if let Some(machine) = &plan.machine {
        lines.push(format!(
            "# the kernel is {}, {}",
            shown(&machine.kernel),
            sanitized(machine.kernel_version.as_bytes())
        ));
        if let Processor::Tcg { because: Some(why) } = &machine.processor {
            lines.push(format!("# the processor is emulated: {}", sanitized(why.as_bytes())));
        }
    }
    for part in &rendered.job.parts {
        let words = std::iter::once(part.program.as_os_str().as_encoded_bytes())
            .chain(part.args.iter().map(String::as_bytes));
        lines.push(words.map(quoted).collect::<Vec<_>>().join(" "));
    }
    lines.join("\n") + "\n"
}

/// A path in a comment, which ends with its line.
fn shown(path: &Path) -> Sanitized<'_> {
    sanitized(path.as_os_str().as_encoded_bytes())
}
