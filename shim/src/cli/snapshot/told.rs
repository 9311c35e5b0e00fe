//! Snapshots in words. What names a file or a branch comes from inside.

use crate::{
    cli::{
        error::{self, CliError, Kind},
        output::clean,
    },
    repo::snapshot::{Outcome, Report, SnapshotError, Taken},
    sandbox::{Sandbox, name::Name, view},
};

/// The exit code where one worktree of several failed.
pub(super) const FAILED: u8 = 3;

/// Files that are named one by one.
const MOST_SHOWN: usize = 10;

/// What became of one worktree.
pub(super) fn lines(name: &Name, report: &Report) -> Vec<String> {
    let Report { worktree, outcome, left_out, left_out_more } = report;
    let what = match outcome {
        Outcome::Taken(Taken { at_ms, changed, .. }) => {
            format!("snapshot {at_ms}, {}", count(*changed, "changed file"))
        }
        Outcome::Unchanged { at_ms } => format!("nothing new since snapshot {at_ms}, {}", when(*at_ms)),
        Outcome::Clean => "nothing that is not committed".to_owned(),
        Outcome::Failed { message, .. } => format!("failed: {message}"),
    };
    let mut lines = vec![clean(&format!("{name}: {worktree}: {what}"))];
    for one in left_out.iter().take(MOST_SHOWN) {
        lines.push(clean(&format!("  left out: {} ({})", one.path, reason(&one.why))));
    }
    let more = left_out_more.saturating_add(left_out.len().saturating_sub(MOST_SHOWN) as u64);
    if more > 0 {
        lines.push(format!("  left out: {}", count(more, "more file")));
    }
    lines
}

/// Why a file is not in it.
pub(crate) fn reason(why: &str) -> &str {
    match why {
        "too-large" => "too large",
        "no-room" => "no room for more that is new",
        "unreadable" => "the agent cannot read it",
        "special" => "not a file",
        "refused" => "git would refuse it",
        "too-deep" => "its path is too long",
        "mounted" => "another file system",
        other => other,
    }
}

/// A moment for people.
pub(super) fn when(at_ms: u64) -> String {
    view::rfc3339(at_ms)
}

pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// What went wrong, and what to do about it.
pub(super) fn failed(sandbox: &Sandbox, error: SnapshotError) -> CliError {
    let name = sandbox.name();
    match error {
        SnapshotError::Endpoint(error) => {
            let (kind, hint) = error::of_endpoint(&error);
            let made = CliError::new(kind, error.to_string());
            if hint.is_empty() { made } else { made.hint(hint) }
        }
        SnapshotError::Connection(error) => error.into(),
        SnapshotError::Refused { why, message } => {
            let kind = match why.as_str() {
                "no-repository" | "no-worktree" | "bare" | "busy" => Kind::WrongState,
                _ => Kind::Failed,
            };
            let made = CliError::new(kind, message);
            if why == "no-repository" { made.hint("`git init` inside makes one") } else { made }
        }
        SnapshotError::NoProgram => {
            CliError::new(Kind::WrongState, error.to_string()).hint(format!("stop and start `{name}` once"))
        }
        SnapshotError::Silent | SnapshotError::Nonsense => CliError::new(Kind::Failed, error.to_string()),
    }
}
