//! Starting: from the plan to an agent that was executed, or back to where it began.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{
    jobs::JobEvent,
    me,
    watch::{Watch, is_hung_up},
};
use crate::sandbox::{
    Sandbox, StateError,
    journal::{self, Journal},
    launch::{self, chain, of_isolation},
    paths::DataDir,
    probe::{self, Answer},
    run::{Run, Stage},
    start::{Cause, Failure, Occasion, Report},
    unit_log::LOGS,
};

/// What a layer that ends without an init may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often an init that has just spoken is asked for more. A machine that is busy may need longer than for one question.
const MAX_ASKED: usize = 8;

/// What is read of the layer's messages to explain a failure.
const MAX_PRINTED_BYTES: u64 = 16 * 1024;

/// What the layer and init print.
const INIT_LOG: &str = "init.log";

/// Starts the sandbox and watches it; whatever goes wrong is told over `line`.
pub(super) fn start(
    data: &DataDir,
    sandbox: &Sandbox,
    is_new: bool,
    occasion: &Occasion,
    mut line: UnixStream,
) {
    let lock = match super::take_lock(sandbox) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            say(&mut line, &failed(vec!["another monitor watches it".to_owned()]));
            return;
        }
        Err(error) => {
            say(&mut line, &failed(chain(&error)));
            return;
        }
    };
    let mut watch = match begin(sandbox) {
        Ok(watch) => watch,
        Err(error) => {
            if is_new {
                drop(sandbox.remove());
            }
            say(&mut line, &failed(chain(&error)));
            return;
        }
    };
    watch.line = Some(line);
    match watch.launch(data, occasion).and_then(|()| watch.come_up()) {
        Ok(()) => {
            watch.run.stage = Stage::Running;
            watch.write_run();
            watch.tell(&Report::Ready);
            watch.job(JobEvent::Began);
            watch.until_the_end();
            watch.leave(lock);
        }
        Err(failure) => {
            watch.undo(&failure);
            if is_new {
                // The command that started us holds the lock for changes, or is gone.
                drop(sandbox.remove());
            }
            drop(lock);
            watch.tell(&Report::Failed(failure));
        }
    }
}

fn begin(sandbox: &Sandbox) -> Result<Watch<'_>, StateError> {
    let folder = sandbox.folder();
    let record = sandbox.record()?;
    sandbox.make_folders().map_err(StateError::io("making its folders"))?;
    let number = Run::read(folder).map_or(0, |run| run.number) + 1;
    let started_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let run = Run::beginning(number, started_at, me());
    run.write(folder).map_err(StateError::io("writing run.json"))?;
    let mut journal = Journal::open(folder).map_err(StateError::io("opening the journal"))?;
    journal
        .note(super::now_ms(), journal::STARTING, json!({ "start": number }))
        .map_err(StateError::io("writing the journal"))?;
    Ok(Watch::new(sandbox, record, run, None, journal))
}

impl Watch<'_> {
    fn launch(&mut self, data: &DataDir, occasion: &Occasion) -> Result<(), Failure> {
        let prepared = launch::prepare(data, self.sandbox, &self.record, occasion)
            .map_err(|error| error.to_failure())?;
        let other = |doing: &str, error: &dyn std::error::Error| {
            let mut messages = vec![doing.to_owned()];
            messages.extend(chain(error));
            Failure { cause: Cause::Other, messages, hint: None }
        };
        let folder = self.sandbox.folder();
        let printed = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(folder.join(LOGS).join(INIT_LOG))
            .and_then(|file| file.set_len(0).map(|()| file))
            .map_err(|error| other("opening init's log", &error))?;
        let launched = prepared.launch(folder, printed);
        self.run.warnings = prepared.layer.warnings(&prepared.plan);
        self.layer = Some(prepared.layer);
        let launched = launched.map_err(|error| error.to_failure())?;
        self.run.supervisor = Some(launched.supervisor.id());
        self.run.remains = launched.remains;
        self.supervisor = Some(launched.supervisor);
        self.write_run();
        self.open_events();
        Ok(())
    }

    /// Waits until the agent was executed.
    fn come_up(&mut self) -> Result<(), Failure> {
        let usual = self.record.isolation.capabilities();
        let patience = self.layer.as_ref().map_or(usual, |layer| layer.capabilities()).patience.start;
        let end = Instant::now() + patience;
        loop {
            let deadline = (!self.seen.welcome).then_some(end);
            let lives = self.turn(deadline);
            if !self.seen.welcome {
                self.find_processes();
            }
            if self.seen.agent_started {
                return Ok(());
            }
            if let Some(reason) = self.seen.agent_failed.take() {
                return Err(self.agent_failure(reason));
            }
            if let Some(reason) = self.seen.setup_failed.take() {
                return Err(failure(Cause::Other, ["the setup failed".to_owned(), reason]));
            }
            // Without a layer to make it, an init that was not seen yet will not come.
            if !lives || (!self.seen.welcome && self.supervisor.is_none()) {
                if let Some(layer) = &self.supervisor {
                    drop(layer.exited_within(LAST_WORDS));
                }
                self.drain();
                return Err(self.early_end());
            }
            if self.line.as_mut().is_none_or(is_hung_up) {
                return Err(failure(Cause::Cancelled, ["it was called off".to_owned()]));
            }
            if !self.seen.welcome && Instant::now() >= end {
                let waited = patience.as_secs();
                return Err(failure(Cause::Other, [format!("init did not answer within {waited} s")]));
            }
        }
    }

    /// Init tells the kind of failure by the code that a shell would use.
    fn agent_failure(&self, reason: String) -> Failure {
        let mut answers = (0..MAX_ASKED).map(|_| probe::ask(self.sandbox.folder()));
        let code = match answers.find(|answer| !matches!(answer, Answer::Silent)) {
            Some(Answer::Status(status)) => {
                status.units.iter().find_map(|unit| unit.last_exit.as_ref().map(|exit| exit.how.shell_code()))
            }
            _ => None,
        };
        let cause = match code {
            Some(127) if let Some((_, image)) = self.record.engine() => {
                let messages = [format!("the image `{image}` does not have the agent's program"), reason];
                return Failure {
                    hint: Some("name one that it has behind two dashes, or another image".to_owned()),
                    ..failure(Cause::NotInImage, messages)
                };
            }
            Some(127) => Cause::AgentNotFound,
            Some(126) => Cause::AgentNotExecutable,
            _ => Cause::Other,
        };
        failure(cause, ["the agent could not be started".to_owned(), reason])
    }

    /// Init is gone, or never came.
    fn early_end(&self) -> Failure {
        let printed = self.printed();
        // Whoever cannot write ends, and cannot write why.
        if printed.is_empty()
            && let Err(error) = self.try_writing()
        {
            let doing = format!("writing into {}", self.sandbox.folder().display());
            let hint = Some("free some space; nothing was changed".to_owned());
            return Failure { cause: Cause::Other, messages: vec![doing, error.to_string()], hint };
        }
        match (&self.layer, self.seen.welcome) {
            (Some(layer), false) => of_isolation(&layer.explain(&printed)),
            _ => failure(Cause::Other, ["init ended before the agent ran".to_owned(), printed]),
        }
    }

    fn try_writing(&self) -> io::Result<()> {
        let path = self.sandbox.folder().join(".space");
        let written = fs::write(&path, [0; 4096]);
        // It may not even have come to be.
        drop(fs::remove_file(&path));
        written
    }

    fn printed(&self) -> String {
        use std::io::Read;
        let mut printed = Vec::new();
        if let Ok(file) = fs::File::open(self.sandbox.folder().join(LOGS).join(INIT_LOG)) {
            // What cannot be read is not explained.
            drop(file.take(MAX_PRINTED_BYTES).read_to_end(&mut printed));
        }
        String::from_utf8_lossy(&printed).trim().to_owned()
    }

    /// Says something to the command that started us; it may be gone.
    pub(super) fn tell(&mut self, report: &Report) {
        if let Some(line) = &mut self.line {
            say(line, report);
        }
    }
}

fn say(line: &mut UnixStream, report: &Report) {
    let Ok(mut text) = serde_json::to_vec(report) else { return };
    text.push(b'\n');
    drop(line.write_all(&text));
}

fn failed(messages: Vec<String>) -> Report {
    Report::Failed(Failure { cause: Cause::Other, messages, hint: None })
}

fn failure<const N: usize>(cause: Cause, messages: [String; N]) -> Failure {
    let messages = messages.into_iter().filter(|message| !message.is_empty()).collect();
    Failure { cause, messages, hint: None }
}
