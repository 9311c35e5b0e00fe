//! The end: what is left of a sandbox is cleaned up, and how it ended is written down.

use std::{
    fs, io, thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{
    removal,
    watch::{Watch, finish_child},
};
use crate::sandbox::{
    address::{self, SOCKET_FILE},
    channel,
    lock::{ChangeLock, LockError, MonitorLock},
    process,
    record::Workspace,
    run::{Ended, Run, Stage},
    start::{Failure, Report},
};

/// How long the layer's process may outlive init.
const LAYER_PATIENCE: Duration = Duration::from_millis(500);
/// The same, where that process has to ask an engine how init ended.
const ENGINE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end what is killed, and to let go of its cgroup.
const KERNEL_PATIENCE: Duration = Duration::from_secs(2);
/// Of an end that somebody brought about.
const KILLED: &str = "it was killed by force";
/// How long a command may keep us from removing a sandbox that was to be removed at its end.
const REMOVE_PATIENCE: Duration = Duration::from_secs(10);

impl Watch<'_> {
    /// Init is gone: everything that it said is read, then how it ended is written down.
    pub(super) fn finish(&mut self) {
        self.drain();
        let child_code = self.end_layer();
        let reported = self.reported_code();
        let code = self.seen.ended.map(i32::from).or(reported).or(child_code);
        let reason = match (self.seen.ended, self.seen.stopping) {
            (Some(_), true) => "it was stopped".to_owned(),
            (Some(_), false) => "the agent ended".to_owned(),
            // The host's kernel ends init last, and all that is left with it.
            (None, _) if code == Some(137) && self.run.remains.usage().out_of_memory > Some(0) => {
                "memory ran out, and init was ended".to_owned()
            }
            (None, _) => self.what_died().unwrap_or_else(|| {
                let killed = code == Some(137);
                if killed { "init was killed from outside" } else { "init ended without a word" }.to_owned()
            }),
        };
        self.write_end(Stage::Ended, code, reason);
    }

    /// Nobody watched the end.
    pub(super) fn finish_unseen(&mut self, reason: &str) {
        self.end_layer();
        let code = self.reported_code();
        let stage = if self.run.stage == Stage::Starting { Stage::Failed } else { Stage::Ended };
        let reason = self.what_died().unwrap_or_else(|| reason.to_owned());
        self.write_end(stage, code, reason);
    }

    /// The start failed: nothing of it stays.
    pub(super) fn undo(&mut self, failure: &Failure) {
        self.find_processes();
        if let Some(init) = &self.init {
            process::kill(init.id());
        }
        self.run.parts.iter().for_each(|part| process::kill(part.id));
        // Until it has written down which process is init, the layer's children are the only trace of it. Orphans
        // of ours, they come to us.
        let end = Instant::now() + KERNEL_PATIENCE;
        while process::kill_children() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        while channel::is_alive(self.sandbox.folder()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        self.drain();
        self.end_layer();
        self.write_end(Stage::Failed, None, failure.messages.join(": "));
    }

    /// The last steps of a monitor. Removes the sandbox where that was asked for.
    pub(super) fn leave(&mut self, lock: MonitorLock) {
        // Whoever stops the sandbox waits for this lock while it holds the other one.
        drop(lock);
        self.bring_the_rest();
        let kept = if self.record.remove { self.remove().err() } else { None };
        if let Some(reason) = &kept {
            self.note("sandbox-kept", json!({ "reason": reason }));
        }
        if let Some(ended) = &self.run.ended {
            let report = Report::Ended { code: ended.code, reason: ended.reason.clone(), kept };
            self.tell(&report);
        }
    }

    /// What cannot be removed stays to be seen, and for `destroy`.
    fn remove(&self) -> Result<(), String> {
        let change = match ChangeLock::take(self.sandbox.folder(), REMOVE_PATIENCE) {
            // Whoever stopped it has removed it.
            Err(LockError::Gone) => return Ok(()),
            change => change.map_err(|error| error.to_string())?,
        };
        if channel::is_alive(self.sandbox.folder()) {
            return Ok(());
        }
        if self.record.workspace == Workspace::Clone {
            // The command that does it takes it next.
            drop(change);
            return removal::remove(self.sandbox);
        }
        self.sandbox.remove().map_err(|error| format!("it cannot be removed: {error}"))
    }

    /// What of the layer's own ended first, as it has recorded that.
    fn what_died(&self) -> Option<String> {
        if Run::take_killed(self.sandbox.folder()) {
            return Some(KILLED.to_owned());
        }
        let layer = self.record.isolation.capabilities();
        // Init outlives it, where that is a process of the host's.
        let killed_layer = || {
            let alone = !layer.shares_kernel && !self.layer_was_stuck && self.run.supervisor.is_some();
            let how = || match self.layer_signal {
                Some(signal) => format!(" (killed by signal {signal})"),
                None => String::new(),
            };
            alone.then(|| format!("the isolation layer ended{}", how()))
        };
        let report = self.layer.as_ref()?.report(self.sandbox.folder()).ok()?;
        let Some(died) = report.died else {
            // It writes down one or the other, if it can.
            return report.exit_code.is_none().then(killed_layer).flatten();
        };
        let made = layer.makes;
        let how = died.how.strip_prefix("was ").unwrap_or(&died.how);
        Some(format!("the {made}'s {} ended ({how})", died.part))
    }

    fn reported_code(&self) -> Option<i32> {
        self.layer.as_ref()?.report(self.sandbox.folder()).ok()?.exit_code
    }

    /// The layer's process ends with init, unless it is stopped or stuck.
    pub(super) fn end_layer(&mut self) -> Option<i32> {
        let layer = self.supervisor.take();
        // An engine is asked for the code that init did not tell.
        let asks = self.run.remains.container.is_some() && self.seen.ended.is_none();
        let patience = if asks { ENGINE_PATIENCE } else { LAYER_PATIENCE };
        let ended_itself = layer.as_ref().is_none_or(|layer| layer.exited_within(patience).unwrap_or(true));
        if let (Some(layer), false) = (&layer, ended_itself) {
            self.layer_was_stuck = true;
            process::kill(layer.id());
            drop(layer.exited_within(KERNEL_PATIENCE));
        }
        // A machine can be unreachable, and be there.
        self.end_machine();
        match layer {
            Some(layer) if ended_itself => self.collect_layer(&layer),
            Some(layer) => finish_child(&layer)?.exit_status(),
            None => None,
        }
    }

    /// Nobody ends what is left of a machine: whoever was to do it is gone, or stuck.
    pub(super) fn end_machine(&mut self) {
        if let Some(layer) = &self.supervisor {
            self.layer_was_stuck = true;
            process::kill(layer.id());
        }
        self.init.iter().for_each(|init| process::kill(init.id()));
        self.run.parts.iter().for_each(|part| process::kill(part.id));
    }

    fn write_end(&mut self, stage: Stage, code: Option<i32>, reason: String) {
        self.clean_remains();
        // For an end in order that came after all.
        let _ = Run::take_killed(self.sandbox.folder());
        let socket = self.sandbox.folder().join(SOCKET_FILE);
        if !channel::is_alive(self.sandbox.folder()) {
            drop(fs::remove_file(socket));
            drop(address::forget(self.sandbox.folder()));
        }
        self.note(
            if stage == Stage::Failed { "sandbox-failed" } else { "sandbox-stopped" },
            json!({ "code": code, "reason": reason }),
        );
        self.run.agent = Some(self.agent.clone().gone());
        self.run.stage = stage;
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        self.run.ended = Some(Ended { at, code, reason });
        self.write_run();
    }

    fn clean_remains(&self) {
        let end = Instant::now() + KERNEL_PATIENCE;
        while let Err(error) = self.run.remains.clean() {
            if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() >= end {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
