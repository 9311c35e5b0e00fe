//! Doing what the jobs decide: commands of our own are started, and what came of them is written down.
//!
//! The monitor waits for none of them. They speak to init and to git as anybody's command does, so a monitor that is killed
//! takes nothing along, and one that adopts the sandbox begins with a pull.

use std::{
    collections::BTreeMap,
    io,
    os::fd::BorrowedFd,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{
    child::{Done, Job},
    jobs::{JobAction, JobEvent, Jobs, Kind, Policy},
    watch::Watch,
};
use crate::{
    sandbox::{
        Sandbox,
        lock::MonitorLock,
        paths::DataDir,
        record::{Record, SyncMode, Workspace},
        run::{Run, Stage},
        start,
        sync::{Memory, Trouble},
    },
    terminal::sanitize::sanitized,
};

/// For one pull. It has deadlines of its own, which are shorter.
const PULL_WITHIN: Duration = Duration::from_mins(70);

/// For one snapshot.
const SNAPSHOT_WITHIN: Duration = Duration::from_mins(10);

/// For what is under way when the sandbox has ended: nobody answers it any more.
const LEFT_WITHIN: Duration = Duration::from_secs(5);

/// For the pull of a sandbox that has ended.
const LAST_PULL_WITHIN: Duration = Duration::from_mins(10);

/// What is done for the sandbox.
pub(super) struct Work {
    jobs: Jobs,
    memory: Memory,
    under_way: BTreeMap<Kind, Job>,
}

impl Work {
    pub(super) fn of(sandbox: &Sandbox, record: &Record) -> Self {
        let seed = u64::from(std::process::id()) << 32
            | u64::from(
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos()),
            );
        Self {
            jobs: Jobs::new(policy(record), seed),
            memory: Memory::read(sandbox.folder()),
            under_way: BTreeMap::new(),
        }
    }

    /// Whether something was done inside, as far as the last monitor knew.
    pub(super) fn was_active(&self) -> bool {
        self.memory.active
    }

    /// What can be waited on.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.under_way.values().flat_map(Job::descriptors)
    }

    /// When to look, whatever happens; never, where there is nothing to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.under_way.values().filter_map(Job::deadline).chain(self.jobs.due()).min()
    }
}

/// What is wanted. A sandbox that works in the project itself has nothing to bring home.
fn policy(record: &Record) -> Policy {
    let snapshot_every = match record.workspace {
        Workspace::Bind => None,
        Workspace::Clone => record.snapshots.every(),
    };
    Policy { sync: record.effective_sync(), snapshot_every }
}

impl Watch<'_> {
    /// Something happened that may be a reason for a job.
    pub(super) fn job(&mut self, event: JobEvent) {
        let active = match event {
            JobEvent::Began | JobEvent::Active => true,
            JobEvent::Quiet => false,
            _ => self.work.memory.active,
        };
        if active != self.work.memory.active {
            self.work.memory.active = active;
            self.remember();
        }
        for JobAction::Start(kind) in self.work.jobs.handle(Instant::now(), event) {
            match self.start_job(kind) {
                Ok(job) => drop(self.work.under_way.insert(kind, job)),
                Err(error) => self.ended(kind, Err(format!("it cannot be started: {error}"))),
            }
        }
    }

    /// Looks after the jobs under way, and begins what is due.
    pub(super) fn work_turn(&mut self) {
        let now = Instant::now();
        let done = |(kind, job): (&Kind, &mut Job)| job.turn(now).map(|done| (*kind, done));
        let done: Vec<(Kind, Done)> = self.work.under_way.iter_mut().filter_map(done).collect();
        for (kind, done) in done {
            self.work.under_way.remove(&kind);
            self.ended(kind, outcome(&done));
        }
        if self.work.jobs.due().is_some_and(|due| due <= now) {
            self.job(JobEvent::Timer);
        }
    }

    /// The sandbox has ended: what was not brought home yet is, where that is done by itself.
    pub(super) fn bring_the_rest(&mut self) {
        self.work.jobs.handle(Instant::now(), JobEvent::Over);
        for (_, job) in std::mem::take(&mut self.work.under_way) {
            // What it brought counts; that it lost its sandbox means nothing.
            drop(job.finish(LEFT_WITHIN));
        }
        if self.record.effective_sync() == SyncMode::Manual || self.run.stage != Stage::Ended {
            return;
        }
        let outcome = self
            .command(Kind::Pull)
            .and_then(|command| Job::start(command, LAST_PULL_WITHIN))
            .map_err(|error| format!("it cannot be started: {error}"))
            .and_then(|job| outcome(&job.finish(LAST_PULL_WITHIN)));
        // It may have been started again meanwhile, and be somebody else's to watch and to write about.
        let folder = self.sandbox.folder();
        if let Ok(Some(_lock)) = MonitorLock::take(folder)
            && Run::read(folder).is_some_and(|run| run.number == self.run.number)
        {
            self.write_down(Kind::Pull, outcome, 1, None);
        }
    }

    fn start_job(&self, kind: Kind) -> io::Result<Job> {
        let within = match kind {
            Kind::Pull => PULL_WITHIN,
            Kind::Snapshot => SNAPSHOT_WITHIN,
        };
        Job::start(self.command(kind)?, within)
    }

    fn command(&self, kind: Kind) -> io::Result<Command> {
        let mut command = start::own_command(&DataDir::of(self.sandbox).ok_or(io::ErrorKind::NotFound)?)?;
        let words: &[&str] = match kind {
            Kind::Pull => &["pull"],
            Kind::Snapshot => &["snapshot", "take"],
        };
        command.args(words).args([self.sandbox.name().as_str(), "--json"]);
        Ok(command)
    }

    fn ended(&mut self, kind: Kind, outcome: Result<Value, String>) {
        self.job(JobEvent::Finished { kind, ok: outcome.is_ok() });
        let wait = self.work.jobs.next_try(kind).map(|at| at.saturating_duration_since(Instant::now()));
        let failures = self.work.jobs.failures(kind);
        self.write_down(kind, outcome, failures, wait);
    }

    fn write_down(&mut self, kind: Kind, outcome: Result<Value, String>, times: u32, wait: Option<Duration>) {
        let (done, failed) = match kind {
            Kind::Pull => ("pulled", "pull-failed"),
            Kind::Snapshot => ("snapshot-taken", "snapshot-failed"),
        };
        let trouble = match outcome {
            Ok(what) => {
                if !what.is_null() {
                    self.note(done, what);
                }
                None
            }
            Err(reason) => {
                let trouble = Trouble::new(SystemTime::now(), &reason, times, wait);
                self.note(
                    failed,
                    json!({ "reason": trouble.reason, "times": times, "next_try": trouble.next_try }),
                );
                Some(trouble)
            }
        };
        let memory = match kind {
            Kind::Pull => &mut self.work.memory.pull,
            Kind::Snapshot => &mut self.work.memory.snapshot,
        };
        if *memory != trouble {
            *memory = trouble;
            self.remember();
        }
    }

    fn remember(&self) {
        // What a full disk does not take is known until we end, and then it is found out anew.
        drop(self.work.memory.write(self.sandbox.folder()));
    }
}

/// What a job reports of itself, if that is worth a word; or why it failed.
fn outcome(done: &Done) -> Result<Value, String> {
    match done.status {
        _ if done.timed_out => Err("it took too long, and was ended".to_owned()),
        Some(status) if status.success() => Ok(report(&done.stdout)),
        Some(status) => {
            let said = Some(reason(&done.stderr)).filter(|said| !said.is_empty());
            let said = said.or_else(|| message(&done.stdout));
            Err(said.unwrap_or_else(|| format!("it ended without a word, with {status}")))
        }
        None => Err("nobody knows how it ended".to_owned()),
    }
}

/// The numbers in what a job prints; nothing where nothing came of it. A report too long to be kept is none.
fn report(stdout: &[u8]) -> Value {
    let Ok(Value::Object(said)) = serde_json::from_slice::<Value>(stdout) else { return json!({}) };
    if let Some(snapshots) = said.get("snapshots").and_then(Value::as_array) {
        let taken: Vec<&Value> = snapshots.iter().filter(|one| one["outcome"] == "taken").collect();
        let changed: u64 = taken.iter().filter_map(|one| one["changed"].as_u64()).sum();
        return if taken.is_empty() {
            Value::Null
        } else {
            json!({ "worktrees": taken.len(), "files": changed })
        };
    }
    if said.get("refs").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        return Value::Null;
    }
    let numbers = ["commits", "files", "insertions", "deletions"];
    let mut kept: serde_json::Map<_, _> = numbers
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), said.get(name)?.as_u64()?.into())))
        .collect();
    if let Some(refs) = said.get("refs").and_then(Value::as_array) {
        kept.insert("refs".to_owned(), refs.len().into());
    }
    kept.into()
}

/// Why one of the worktrees failed, where others did not.
fn message(stdout: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(stdout).ok()?;
    let message = said["snapshots"].as_array()?.iter().find_map(|one| one["message"].as_str())?;
    Some(sanitized(message).to_string())
}

/// What went wrong, as one sentence: the hint is for whoever types.
fn reason(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let part = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("error: ").or(line.strip_prefix("caused by: ")).unwrap_or(line);
        (!line.is_empty() && !line.starts_with("hint: ")).then(|| line.to_owned())
    };
    let parts: Vec<String> = text.lines().filter_map(part).collect();
    sanitized(&parts.join(": ")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_one_sentence() {
        let said =
            b"error: cannot pull from `web`\n  caused by: git failed:\x1b[2J no space\nhint: free some\n";
        let reason = reason(said);
        assert!(reason.starts_with("cannot pull from `web`: git failed:"), "{reason}");
        assert!(!reason.contains('\x1b') && !reason.contains("hint"), "{reason}");
    }

    #[test]
    fn a_report_is_its_numbers_and_nothing_new_is_not_worth_a_word() {
        let said =
            br#"{"commits": 2, "files": 3, "insertions": 4, "deletions": 5, "refs": [{}, {}], "gone": []}"#;
        let expected = json!({ "commits": 2, "files": 3, "insertions": 4, "deletions": 5, "refs": 2 });
        assert_eq!(report(said), expected);
        assert_eq!(report(br#"{"commits": 0, "refs": []}"#), Value::Null);
        assert_eq!(report(b"{\"commits\": 2, \"re"), json!({}));
        let said = br#"{"snapshots": [{"outcome": "taken", "changed": 3}, {"outcome": "clean"}]}"#;
        assert_eq!(report(said), json!({ "worktrees": 1, "files": 3 }));
        assert_eq!(report(br#"{"snapshots": [{"outcome": "unchanged", "at_ms": 5}]}"#), Value::Null);
        let failed =
            br#"{"snapshots": [{"outcome": "clean"}, {"outcome": "failed", "message": "no\u001b room"}]}"#;
        assert!(message(failed).unwrap().starts_with("no") && !message(failed).unwrap().contains('\x1b'));
    }
}
