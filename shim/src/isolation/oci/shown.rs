//! A launch for a person to read, and for a shell to run where nothing is inherited: what the launcher does, as commands.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use super::bundle::{BINDS, Bundle, ROOT};
use super::launcher::{BUNDLE_OPTIONS, CGROUPS, SECOND};
use super::runtime::STATE;
use crate::isolation::plan::{Content, LaunchPlan};
use crate::isolation::rootfs::{Bind, Entry};
use crate::isolation::shown;
use crate::terminal::quote::quoted;

/// Longest line of JSON that is not divided.
const JSON_LINE_CHARS: usize = 130;

/// What comes before, as comments, and then the commands.
pub(super) fn to_shell(plan: &LaunchPlan, bundle: &Bundle<'_>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_surroundings(&mut out, plan, bundle).and_then(|()| write_commands(&mut out, bundle));
    out
}

fn write_surroundings(out: &mut String, plan: &LaunchPlan, bundle: &Bundle<'_>) -> std::fmt::Result {
    shown::descriptors(out, plan)?;
    if let Some(lease) = bundle.job.lease {
        writeln!(
            out,
            "# descriptor {lease} is inherited: a pipe, by which init sees that its parent has gone"
        )?;
    }
    shown::surroundings(out, plan, &bundle.sources)
}

fn write_commands(out: &mut String, bundle: &Bundle<'_>) -> std::fmt::Result {
    let job = &bundle.job;
    let place = quote(&job.place);
    writeln!(out, "unshare --map-root-user --mount --propagation slave bash -eu <<'END'")?;
    writeln!(
        out,
        "mkdir -p {place}; mount -t tmpfs -o nosuid,nodev,{BUNDLE_OPTIONS} tmpfs {place}; cd {place}"
    )?;
    writeln!(out, "[ ! -e {SECOND}/cgroup.controllers ] || mount --rbind {SECOND} {CGROUPS}")?;
    writeln!(out, "mkdir {ROOT}; mkdir -m 700 {STATE} {BINDS}")?;
    for bind in &job.binds {
        writeln!(out, "{}", shown_bind(bind, &job.place))?;
    }
    for entry in &job.entries {
        writeln!(out, "{}", shown_entry(entry, bundle))?;
    }
    writeln!(out, "cat > config.json <<'JSON'")?;
    // Numbers, strings and lists only: they have a form in JSON.
    write_json(out, &serde_json::to_value(&job.config).unwrap_or_default(), 0)?;
    writeln!(out, "\nJSON")?;
    if !job.nested {
        writeln!(out, "echo 1 > /proc/sys/user/max_user_namespaces")?;
    }
    let mut words = job.runtime.command_line(&job.place, &job.id, job.inherited);
    if let Some(name) = words.first_mut() {
        job.runtime.program.as_os_str().clone_into(name);
    }
    let words: Vec<String> = words.iter().map(|word| quoted(word.as_bytes())).collect();
    writeln!(
        out,
        "env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin XDG_RUNTIME_DIR={place} {} </dev/null",
        words.join(" ")
    )?;
    writeln!(out, "END")
}

fn shown_bind(bind: &Bind, place: &Path) -> String {
    let at = quote(bind.at.strip_prefix(place).unwrap_or(&bind.at));
    let make = if bind.source.is_file() { "touch" } else { "mkdir" };
    let read_only = if bind.read_only { "ro," } else { "" };
    format!("{make} {at}; mount --rbind -o {read_only}nosuid,nodev {} {at}", quote(&bind.source))
}

fn shown_entry(entry: &Entry, bundle: &Bundle<'_>) -> String {
    let inside = |at: &str| quoted(format!("{ROOT}/{}", at.trim_start_matches('/')).as_bytes());
    match entry {
        Entry::Dir { at, mode } => format!("mkdir -m {mode:o} {}", inside(at)),
        Entry::Symlink { at, target } => format!("ln -s {} {}", quoted(target.as_bytes()), inside(at)),
        Entry::File { at, mode, fd } => {
            let content = bundle.files.iter().find(|(number, _)| number == fd).map(|(_, content)| *content);
            let from = match content {
                Some(Content::Of(path) | Content::Given(path)) => format!("cat {}", quote(path)),
                Some(Content::Text(text)) => format!("printf %s {}", quoted(text.as_bytes())),
                None => String::from(":"),
            };
            let at = inside(at);
            format!("{from} > {at}; chmod {mode:o} {at}")
        }
    }
}

/// One line for what fits into one, and one for each part of what does not.
fn write_json(out: &mut String, value: &Value, depth: usize) -> std::fmt::Result {
    let flat = value.to_string();
    let indent = "  ".repeat(depth + 1);
    match value {
        Value::Object(parts) if depth == 0 || flat.len() + indent.len() > JSON_LINE_CHARS => {
            out.push('{');
            for (number, (name, part)) in parts.iter().enumerate() {
                write!(out, "{}\n{indent}{}: ", comma(number), Value::from(name.as_str()))?;
                write_json(out, part, depth + 1)?;
            }
            write!(out, "\n{}}}", "  ".repeat(depth))
        }
        Value::Array(parts)
            if flat.len() + indent.len() > JSON_LINE_CHARS && parts.iter().all(Value::is_string) =>
        {
            let mut width = usize::MAX;
            out.push('[');
            for (number, part) in parts.iter().enumerate() {
                let word = escaped(&part.to_string());
                out.push_str(comma(number));
                width = width.saturating_add(word.len() + 2);
                if width > JSON_LINE_CHARS {
                    write!(out, "\n{indent}{word}")?;
                    width = indent.len() + word.len();
                } else {
                    write!(out, " {word}")?;
                }
            }
            write!(out, "\n{}]", "  ".repeat(depth))
        }
        Value::Array(parts) if flat.len() + indent.len() > JSON_LINE_CHARS => {
            out.push('[');
            for (number, part) in parts.iter().enumerate() {
                write!(out, "{}\n{indent}", comma(number))?;
                write_json(out, part, depth + 1)?;
            }
            write!(out, "\n{}]", "  ".repeat(depth))
        }
        // Control characters are escaped as JSON has it; some that a terminal obeys are none to JSON.
        _ => write!(out, "{}", escaped(&flat)),
    }
}

fn escaped(json: &str) -> String {
    json.chars()
        .map(|c| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() })
        .collect()
}

fn comma(number: usize) -> &'static str {
    if number == 0 { "" } else { "," }
}

fn quote(path: &Path) -> String {
    quoted(path.as_os_str().as_bytes())
}
