//! What was printed by a machine that did not come up, and what it means.

use super::error::MachineError;
use super::launcher::WORDS;
use super::watch::CONSOLE;
use crate::isolation::bwrap::switched_off_by;
use crate::isolation::error::IsolationError;
use crate::isolation::launcher::NAMESPACE_STEPS;

/// Longest complaint that is passed on.
const SAID_MAX_CHARS: usize = 400;

/// How many lines of the console are shown.
const CONSOLE_LINES: usize = 6;

/// The launcher's words come last, and those of the part that failed before them. What a kernel or init said is on the console.
pub(super) fn explain(printed: &str, setting: impl Fn(&str) -> Option<String>) -> IsolationError {
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let (console, others): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with(CONSOLE));
    let console: Vec<&str> = console.iter().map(|line| &line[CONSOLE.len()..]).collect();
    let last = others.last().copied().unwrap_or_default();
    if let Some(said) = last.strip_prefix(WORDS) {
        if NAMESPACE_STEPS.iter().any(|step| said.starts_with(step)) {
            return IsolationError::NoUserNamespaces { switch: switched_off_by(setting), said: short(said) };
        }
        let before = others.iter().rev().nth(1).map(|line| format!("{said} ({line})"));
        return IsolationError::Failed { program: "microvm", said: short(before.as_deref().unwrap_or(said)) };
    }
    // Init says what it cannot do, and then the kernel says that it has gone.
    if let Some(said) = console.iter().find_map(|line| line.split_once("agent-init: error: ")) {
        return IsolationError::Failed { program: "agent-init", said: short(said.1) };
    }
    if let Some(said) = others.last().filter(|_| console.is_empty()) {
        return IsolationError::Failed { program: "qemu", said: short(said) };
    }
    let from = console.len().saturating_sub(CONSOLE_LINES);
    let said = if console.is_empty() {
        "it ended without a word".to_owned()
    } else {
        console[from..].iter().map(|line| line.trim()).collect::<Vec<_>>().join("; ")
    };
    MachineError::Boot { said: short(&said) }.into()
}

fn short(said: &str) -> String {
    said.chars().take(SAID_MAX_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}
