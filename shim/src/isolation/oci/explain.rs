//! What was printed where no container came to be, and what it means.

use super::launcher;
use super::runtime::Kind;
use crate::isolation::error::IsolationError;
use crate::isolation::launcher::NAMESPACE_STEPS;
use crate::isolation::said::short;
use crate::isolation::userns::switched_off_by;

/// What was printed before a container came to be. The launcher's words come last, and those of the runtime before them.
pub(super) fn explain(printed: &str, setting: impl Fn(&str) -> Option<String>, kind: Kind) -> IsolationError {
    let mut lines = printed.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.next().unwrap_or_default();
    if let Some(said) = last.strip_prefix("agent-init: error: ") {
        return IsolationError::Failed { program: "agent-init", said: short(said) };
    }
    let Some(said) = last.strip_prefix(launcher::WORDS) else {
        return IsolationError::Failed {
            program: "oci",
            said: short(if last.is_empty() { "it exited without saying why" } else { last }),
        };
    };
    if NAMESPACE_STEPS.iter().any(|step| said.starts_with(step)) {
        return IsolationError::NoUserNamespaces { switch: switched_off_by(setting), said: short(said) };
    }
    match lines.next() {
        Some(words) if said.starts_with(launcher::RUNNING) => {
            IsolationError::Failed { program: kind.name(), said: short(words) }
        }
        _ => IsolationError::Failed { program: "oci", said: short(said) },
    }
}
