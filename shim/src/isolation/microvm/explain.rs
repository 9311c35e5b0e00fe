//! What was printed by a machine that did not come up, and what it means.

use super::error::MachineError;
use super::launcher::{PROCESSES, WORDS};
use super::watch::CONSOLE;
use crate::isolation::error::IsolationError;
use crate::isolation::launcher::NAMESPACE_STEPS;
use crate::isolation::said::short;
use crate::isolation::userns::switched_off_by;

/// How many lines of the console are shown.
const CONSOLE_LINES: usize = 6;

/// The launcher's words come last, and those of the part that failed before them. What a kernel or init said is on the console.
pub(super) fn explain(printed: &str, setting: impl Fn(&str) -> Option<String>) -> IsolationError {
    let lines = printed.lines().map(str::trim).filter(|line| !line.is_empty());
    let (console, others): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with(CONSOLE.trim()));
    let console: Vec<&str> = console.iter().map(|line| without_time(&line[CONSOLE.trim().len()..])).collect();
    // Init says what it cannot do, and then the machine is switched off in order.
    if let Some((_, said)) = console.iter().find_map(|line| line.split_once("agent-init: error: ")) {
        return IsolationError::Failed { program: "agent-init", said: short(said) };
    }
    if let Some(panic) = console.iter().position(|line| line.contains("Kernel panic")) {
        let said = console[panic.saturating_sub(1)..=panic].join("; ");
        return MachineError::Boot { said: short(&said) }.into();
    }
    let last = others.last().copied().unwrap_or_default();
    if let Some(said) = last.strip_prefix(WORDS) {
        // Engines cover parts of /proc, and the kernel lets nobody mount a new one that shows more.
        let steps = NAMESPACE_STEPS.iter().chain(&[PROCESSES]);
        if steps.into_iter().any(|step| said.starts_with(step)) {
            return IsolationError::NoUserNamespaces { switch: switched_off_by(setting), said: short(said) };
        }
        let before = others.iter().rev().nth(1).map(|line| format!("{said}: {line}"));
        return IsolationError::Failed { program: "microvm", said: short(before.as_deref().unwrap_or(said)) };
    }
    let from = console.len().saturating_sub(CONSOLE_LINES);
    let said =
        if console.is_empty() { "it ended without a word".to_owned() } else { console[from..].join("; ") };
    MachineError::Boot { said: short(&said) }.into()
}

/// A line of the kernel's without `[    1.234567] ` before it.
fn without_time(line: &str) -> &str {
    let line = line.trim();
    match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((time, said)) if time.trim().parse::<f64>().is_ok() => said.trim(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(printed: &str) -> String {
        explain(printed, |_| None).to_string()
    }

    #[test]
    fn the_part_that_failed_says_why() {
        let printed =
            "Error: unknown argument\nmicrovm: starting virtiofsd: it ended (exited with status 2)\n";
        assert_eq!(
            told(printed),
            "microvm failed: starting virtiofsd: it ended (exited with status 2): Error: unknown argument"
        );
        let printed = "console: [    0.1] hello\nmicrovm: passt ended (killed by signal 9)\n";
        assert_eq!(told(printed), "microvm failed: passt ended (killed by signal 9)");
    }

    #[test]
    fn init_and_the_kernel_are_heard_on_the_console() {
        let printed = "console: agent-init: error: mounting /: no such device\r\nconsole: [    2.5] reboot: Power down\r\n";
        assert_eq!(told(printed), "agent-init failed: mounting /: no such device");
        let printed = "console: [    1.1] VFS: Cannot open root device\r\n\
                       console: [    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n\
                       console: [    1.3] Call Trace:\r\nconsole: [    1.4]  <TASK>\r\n";
        let said = told(printed);
        assert!(said.contains("Cannot open root device; Kernel panic - not syncing: VFS"), "{said}");
        assert!(!said.contains("Call Trace"), "{said}");
    }

    #[test]
    fn namespaces_that_are_switched_off_are_told_as_everywhere() {
        let printed = "microvm: making a user namespace: Operation not permitted (os error 1)\n";
        assert!(matches!(explain(printed, |_| None), IsolationError::NoUserNamespaces { .. }));
    }

    #[test]
    fn nothing_printed_inside_reaches_the_terminal_as_it_is() {
        let flood = format!("console: \u{1b}[2J{}\n", "x".repeat(100_000));
        let said = told(&flood);
        assert!(said.len() < 1000 && !said.contains('\u{1b}'), "{said}");
        assert_eq!(told(""), "the machine did not come up: it ended without a word");
    }
}
