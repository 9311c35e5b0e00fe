//! A launch as text: everything that a start would do, and nothing is done.

use super::{
    Sandbox,
    launch::{self, Prepared},
    paths::DataDir,
    record::{Environment, Record},
    start::{Failure, Occasion},
    tools::Need,
};
use crate::env::{self, expression::expression};

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The exact command, for a shell.
    Shell,
    /// The same below comments that hold the rest: the environment with its expression, and what init is told.
    Explained,
    /// All of it as JSON.
    Json,
}

/// Shows what a start would do. Of the agent's private variables only the names are in it.
pub fn show(
    data: &DataDir,
    sandbox: &Sandbox,
    record: &Record,
    occasion: &Occasion,
    form: Form,
) -> Result<String, Failure> {
    let occasion = Occasion { private: occasion.private.hidden(), need: Need::Shown, ..*occasion };
    let prepared = launch::prepare(data, sandbox, record, &occasion).map_err(|error| error.to_failure())?;
    let shell = || prepared.layer.to_shell(&prepared.plan);
    Ok(match form {
        Form::Shell => shell(),
        Form::Explained => format!("{}{}", explanation(data, record, &prepared), shell()),
        Form::Json => {
            let whole = serde_json::json!({
                "record": record,
                "expression": expression_of(record),
                "plan": serde_json::from_str::<serde_json::Value>(&prepared.plan.to_json()).unwrap_or_default(),
                "spec": prepared.spec,
            });
            format!("{whole:#}")
        }
    })
}

fn explanation(data: &DataDir, record: &Record, prepared: &Prepared) -> String {
    let mut text = match &record.environment {
        Environment::Host => comment("tools: those of the host"),
        Environment::Nix { id, .. } => {
            let is_built = env::lookup(data, id).is_ok_and(|built| built.is_some());
            let state = if is_built { "which is built" } else { "which would be built first" };
            comment(&format!("tools: environment {id} of Nix, {state}, from this expression:"))
        }
    };
    text.extend(expression_of(record).map(|expression| comment(&indented(&expression))));
    let spec = serde_json::to_string_pretty(&prepared.spec).unwrap_or_default();
    text + &comment("init is told, on the descriptor `spec`:") + &comment(&indented(&spec))
}

/// The expression that an environment of Nix is built from.
fn expression_of(record: &Record) -> Option<String> {
    match &record.environment {
        Environment::Host => None,
        Environment::Nix { spec, .. } => Some(expression(&spec.canonical().ok()?)),
    }
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}\n")).collect()
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", format!("# {line}").trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment() {
        assert_eq!(comment(&indented("a\n\nb\n")), "#   a\n#\n#   b\n");
    }
}
