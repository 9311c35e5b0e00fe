//! Snapshots in words. What names a file or a branch comes from inside.

use crate::{
    cli::{
        error::{CliError, Kind},
        output::{clean, print_line},
    },
    client::ConnectionError,
    repo::snapshot::{Outcome, Report, SnapshotError, Taken},
    sandbox::{Sandbox, name::Name, view},
};

/// The exit code where one worktree of several failed.
pub(super) const FAILED: u8 = 3;

/// Files that are named one by one.
const MOST_SHOWN: usize = 10;

/// Says what became of one worktree.
pub(super) fn print(name: &Name, report: &Report) -> Result<(), CliError> {
    let Report { worktree, outcome, left_out, left_out_more } = report;
    let what = match outcome {
        Outcome::Taken(Taken { at_ms, changed, .. }) => {
            format!("snapshot {at_ms}, {}", count(*changed, "changed file"))
        }
        Outcome::Unchanged { at_ms } => format!("nothing new since snapshot {at_ms}, {}", when(*at_ms)),
        Outcome::Clean => "nothing that is not committed".to_owned(),
        Outcome::Failed { message, .. } => format!("failed: {message}"),
    };
    print_line(&clean(&format!("{name}: {worktree}: {what}")))?;
    for one in left_out.iter().take(MOST_SHOWN) {
        print_line(&clean(&format!("  left out: {} ({})", one.path, reason(&one.why))))?;
    }
    let more = left_out_more.saturating_add(left_out.len().saturating_sub(MOST_SHOWN) as u64);
    if more > 0 {
        print_line(&format!("  left out: {}", count(more, "more file")))?;
    }
    Ok(())
}

/// Why a file is not in it.
fn reason(why: &str) -> &str {
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
        SnapshotError::Connection(ConnectionError::NotRunning) => {
            CliError::from(ConnectionError::NotRunning).hint(format!("`agent-shim start {name}` starts it"))
        }
        SnapshotError::Connection(error) => error.into(),
        SnapshotError::Refused { why, message } => {
            let kind = match why.as_str() {
                "no-repository" | "no-worktree" | "bare" | "busy" => Kind::WrongState,
                _ => Kind::Failed,
            };
            let made = CliError::new(kind, message);
            match why.as_str() {
                "no-repository" => made.hint("`git init` inside makes one"),
                _ => made,
            }
        }
        SnapshotError::NoProgram => {
            CliError::new(Kind::WrongState, error.to_string()).hint(format!("stop and start `{name}` once"))
        }
        SnapshotError::Silent | SnapshotError::Nonsense => CliError::new(Kind::Failed, error.to_string()),
    }
}
