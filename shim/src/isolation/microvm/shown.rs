//! A launch for a person to read: the commands of the machine's parts, and what each finds in its place.

use super::job::{Piece, TREE};
use super::plan::Processor;
use super::render::Rendered;
use crate::isolation::plan::LaunchPlan;
use crate::isolation::rootfs::Entry;
use crate::isolation::shown;
use crate::terminal::{quote::quoted, sanitize::sanitized};

/// The commands, and as comments what has to be there for them.
pub(super) fn to_shell(plan: &LaunchPlan, rendered: &Rendered<'_>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = shown::surroundings(&mut out, plan, &rendered.sources);
    let mut lines: Vec<String> = Vec::new();
    lines.push("# in a root folder of their own, with namespaces of their own, in which".to_owned());
    for bind in &rendered.job.room {
        let access = if bind.read_only { ", read-only" } else { "" };
        lines.push(format!("#   {} is {}{access}", shown::path(&bind.at), shown::path(&bind.source)));
    }
    lines.push(format!("#   {TREE}, which is the root folder inside, holds"));
    for piece in &rendered.job.tree {
        lines.push(match piece {
            Piece::Bind { source, at, read_only } => {
                let access = if *read_only { ", read-only" } else { "" };
                format!("#     {} is {}{access}", sanitized(at.as_bytes()), shown::path(source))
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
            shown::path(&machine.kernel),
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
    out + &lines.join("\n") + "\n"
}
