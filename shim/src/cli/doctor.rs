use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use super::{
    context::{Color, Global},
    error::{CliError, Kind},
    output::{clean, print_json, print_line},
};
use crate::{
    isolation::Isolation,
    requirement::{
        Facts, Fix, Machine, Report, Selection, Severity, Step,
        report::{Checked, Finding, LayerState},
    },
    sandbox::record::EnvKind,
};

/// Check what this machine has and lacks, and how to get it
///
/// What is missing for `--isolation` and `--env` is required: the exit code is 4 where something required is missing, and 0
/// otherwise. The fix of each finding is for this distribution. With -v, what was found is shown too.
#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// What is to keep sandboxes apart from this machine
    #[arg(long, value_enum, default_value_t)]
    isolation: Isolation,
    /// Where the tools inside are to come from
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = EnvKind::Host)]
    env: EnvKind,
}

pub(crate) fn run(global: &Global, args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let machine = Machine::here()
        .map_err(|error| CliError::new(Kind::Failed, "cannot look at this machine").because(&error))?;
    let facts = machine.look();
    let report = Report::of(&facts, args.selection(), machine.distribution());
    if global.json {
        print_json(&report.to_json(&facts))?;
    } else {
        print_line(text(&report, &facts, global).trim_end())?;
    }
    Ok(ExitCode::from(if report.required().next().is_none() { 0 } else { 4 }))
}

impl DoctorArgs {
    fn selection(&self) -> Selection {
        Selection { isolation: self.isolation.into(), nix: self.env == EnvKind::Nix }
    }
}

/// Widths of the first two columns.
const STATUS: usize = 9;
const LABEL: usize = 18;
/// As wide as the longest of what is asked for.
const LAYER: usize = 22;

fn text(report: &Report, facts: &Facts, global: &Global) -> String {
    let paint = Paint::new(global.color);
    let mut text = String::new();
    for checked in &report.checks {
        if !checked.found.is_empty() {
            text.push_str(&line(checked, &paint.green("ok"), 2, &checked.found));
        }
        for finding in &checked.findings {
            text.push_str(&described(report, checked, finding, &paint));
        }
    }
    text.push('\n');
    for state in report.layers() {
        text.push_str(&layer(&state, &paint));
    }
    if global.verbose > 0 {
        text.push('\n');
        let facts = serde_json::to_value(facts).unwrap_or_default();
        for (name, value) in facts.as_object().into_iter().flatten() {
            text.extend([name, ": ", &clean(&value.to_string()), "\n"]);
        }
    }
    text.push('\n');
    text.push_str(&summary(report));
    text
}

fn line(checked: &Checked, status: &str, shown: usize, said: &str) -> String {
    let padding = " ".repeat(STATUS.saturating_sub(shown));
    format!("{status}{padding}{:LABEL$}{}\n", checked.check.label(), clean(said))
}

/// Whether a layer can be used. One that was not asked for and cannot is no failure.
fn layer(state: &LayerState, paint: &Paint) -> String {
    let asked_by = state.layer.asked_by().trim_matches('`');
    let (status, shown, said) = if state.missing.is_empty() {
        (paint.green("ok"), 2, state.found.clone())
    } else {
        let missing: Vec<&str> = state.missing.iter().map(|requirement| requirement.id()).collect();
        (paint.yellow("cannot"), 6, format!("missing: {}", missing.join(", ")))
    };
    let padding = " ".repeat(STATUS - shown);
    format!("{status}{padding}{asked_by:LAYER$}{}\n", clean(&said))
}

/// A finding with what to do about it below.
fn described(report: &Report, checked: &Checked, finding: &Finding, paint: &Paint) -> String {
    let requirement = finding.requirement;
    let severity = report.severity(requirement);
    let status = match severity {
        Severity::Required => paint.red("missing"),
        Severity::Optional | Severity::Note => paint.yellow("note"),
    };
    let shown = if severity == Severity::Required { 7 } else { 4 };
    let mut text = line(checked, &status, shown, &format!("{} [{}]", finding.what, requirement.id()));
    let mut below = |words: &str| text.extend([&" ".repeat(STATUS + LABEL), words, "\n"]);
    below(&format!("why: {}", requirement.why()));
    if severity == Severity::Optional {
        let purposes: Vec<&str> = requirement.purposes().iter().map(|purpose| purpose.asked_by()).collect();
        below(&format!("for: {}", purposes.join(", ")));
    }
    let Fix { summary, steps, note } = requirement.fix(&report.distribution);
    below(&format!("fix: {summary}"));
    for step in steps {
        match step {
            Step::Run { command } => below(&format!("     $ {command}")),
            Step::Write { line, file } => below(&format!("     {line}    # into {file}")),
        }
    }
    if let Some(note) = note {
        below(&format!("     ({note})"));
    }
    text
}

fn summary(report: &Report) -> String {
    let required: Vec<&str> = report.required().map(|finding| finding.requirement.id()).collect();
    let notes = report.findings().count() - required.len();
    let notes = match notes {
        0 => String::new(),
        1 => "; 1 note".to_owned(),
        many => format!("; {many} notes"),
    };
    let wanted = format!(
        "{}{}",
        report.selection.isolation.asked_by(),
        if report.selection.nix { " with `--env nix`" } else { "" }
    );
    if required.is_empty() {
        return format!("Everything that {wanted} needs is here{notes}.\n");
    }
    format!("Missing for {wanted}: {}{notes}.\n", required.join(", "))
}

/// Colours on standard output.
struct Paint {
    colored: bool,
}

impl Paint {
    fn new(color: Color) -> Self {
        let colored = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                io::stdout().is_terminal()
                    && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Self { colored }
    }

    fn green(&self, text: &str) -> String {
        self.with("\x1b[32m", text)
    }

    fn yellow(&self, text: &str) -> String {
        self.with("\x1b[33m", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("\x1b[1;31m", text)
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.colored { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
    }
}
