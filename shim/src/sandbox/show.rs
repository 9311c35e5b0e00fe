//! What a start would do, for people to read and for programs; nothing of it is done.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    Sandbox,
    launch::{self, Prepared},
    paths::DataDir,
    record::{Environment, Record},
    start::{Failure, Occasion},
    tools::Need,
};
use crate::{env, terminal::sanitize::sanitized};

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The exact command, as a person would type it.
    Command,
    /// And what is built before, and what init is told.
    Everything,
    /// All of it, as one JSON object.
    Json,
}

/// Shows a start. Of the agent's private variables only the names are in it.
pub fn show(
    data: &DataDir,
    sandbox: &Sandbox,
    record: &Record,
    occasion: &Occasion,
    detail: Detail,
) -> Result<String, Failure> {
    let occasion = Occasion { private: occasion.private.hidden(), need: Need::Shown, ..*occasion };
    let prepared = launch::prepare(data, sandbox, record, &occasion).map_err(|error| error.to_failure())?;
    let environment = Shown::of(data, record);
    Ok(match detail {
        Detail::Json => {
            let whole = json!({
                "record": record,
                "environment": environment.map(Shown::into_json),
                "plan": serde_json::from_str::<Value>(&prepared.plan.to_json()).unwrap_or_default(),
                "spec": prepared.spec,
            });
            format!("{whole:#}")
        }
        Detail::Command | Detail::Everything => text(&prepared, environment, detail == Detail::Everything),
    })
}

fn text(prepared: &Prepared, environment: Option<Shown>, everything: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    if let Some(Shown { id, built, expression }) = environment {
        let state = if built { "is there" } else { "would be built first" };
        let _ = writeln!(text, "# environment {id}: {state}");
        if everything {
            let _ = writeln!(text, "{}\n", commented(&expression));
        }
    }
    if everything {
        let _ = writeln!(text, "# init is told:\n{}\n", commented(&prepared.spec.to_json()));
    }
    text + &prepared.layer.to_shell(&prepared.plan)
}

/// Lines of something else in what bash could run.
fn commented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("#   {}", sanitized(line))).collect::<Vec<_>>().join("\n")
}

/// An environment of Nix.
struct Shown {
    id: String,
    built: bool,
    expression: String,
}

impl Shown {
    fn of(data: &DataDir, record: &Record) -> Option<Self> {
        let Environment::Nix { id, spec } = &record.environment else { return None };
        Some(Self {
            id: id.to_string(),
            // What cannot be looked at is not there for a start either.
            built: env::lookup(data, id).is_ok_and(|found| found.is_some()),
            expression: spec.canonical().map(|spec| env::expression::expression(&spec)).unwrap_or_default(),
        })
    }

    fn into_json(self) -> Value {
        json!({ "id": self.id, "built": self.built, "expression": self.expression })
    }
}
