use std::process::ExitCode;

use serde_json::Value;

use super::{
    context::Context,
    error::CliError,
    follow::{Growing, Wake},
    output::{clean, print_line},
    resolve,
};
use crate::sandbox::{EVENTS_FILE, OLD_EVENTS_FILE, StateError};

/// Show what happened to a sandbox
///
/// With `--json` each event is one object on a line of its own.
#[derive(clap::Args, Debug)]
pub(crate) struct EventsArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Wait for more, until the sandbox ends
    #[arg(short, long)]
    follow: bool,
    /// Begin behind the event with this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
}

pub(crate) fn run(ctx: &Context, args: &EventsArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    sandbox.ensure_monitored();
    let reading = || StateError::io("reading the events");
    let wake = args.follow.then(|| Wake::on(sandbox.folder())).transpose().map_err(reading())?;
    let mut printer = Printer { json: ctx.global.json, after: args.after, rest: Vec::new() };
    let mut old = Growing::open(sandbox.folder().join(OLD_EVENTS_FILE), None).map_err(reading())?;
    printer.print_all(&mut old)?;
    let mut growing = Growing::open(sandbox.folder().join(EVENTS_FILE), None).map_err(reading())?;
    loop {
        printer.print_all(&mut growing)?;
        match &wake {
            Some(wake) if wake.wait(&sandbox) => {}
            _ => break,
        }
    }
    printer.print_all(&mut growing)?;
    Ok(ExitCode::SUCCESS)
}

struct Printer {
    json: bool,
    after: u64,
    /// A line that is not whole yet.
    rest: Vec<u8>,
}

impl Printer {
    fn print_all(&mut self, growing: &mut Growing) -> Result<(), CliError> {
        let mut piece = Vec::new();
        loop {
            growing.read(&mut piece).map_err(StateError::io("reading the events"))?;
            if piece.is_empty() {
                return Ok(());
            }
            self.rest.extend_from_slice(&piece);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                self.print(&line)?;
            }
        }
    }

    fn print(&mut self, line: &[u8]) -> Result<(), CliError> {
        // A line that a full disk cut short is passed over.
        let Ok(event) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        if event["seq"].as_u64().is_none_or(|seq| seq <= self.after) {
            return Ok(());
        }
        if self.json { print_line(&event.to_string()) } else { print_line(&for_people(&event)) }
    }
}

/// `TIME  EVENT  details`, every text from inside made harmless.
fn for_people(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let mut line = format!("{}  {}", text("time"), text("event"));
    for (name, value) in event.as_object().into_iter().flatten() {
        if ["seq", "time", "event", "init_seq"].contains(&name.as_str()) || value.is_null() {
            continue;
        }
        let value = match value {
            Value::String(value) => value.clone(),
            Value::Object(exit) if name == "exit" => exit_words(exit),
            other => other.to_string(),
        };
        line.extend(["  ", name, "=", &value]);
    }
    clean(&line)
}

fn exit_words(exit: &serde_json::Map<String, Value>) -> String {
    serde_json::from_value::<crate::sandbox::view::ExitView>(Value::Object(exit.clone()))
        .map_or_else(|_| "unknown".to_owned(), |exit| exit.describe())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_a_line() {
        let event = serde_json::json!({
            "seq": 3, "time": "T", "event": "unit-exited", "unit": "ag\x1bent", "init_seq": 2,
            "exit": { "status": 1, "code": 1, "signal": null, "core_dumped": false, "killed_by": "itself",
                      "out_of_memory": false, "limit": null, "output_truncated": false, "ran_ms": 1, "at": "T" },
        });
        let line = for_people(&event);
        assert!(line.starts_with("T  unit-exited  "), "{line}");
        assert!(line.contains("exit=exited with 1") && line.contains("unit=ag\\x1bent"), "{line}");
    }
}
