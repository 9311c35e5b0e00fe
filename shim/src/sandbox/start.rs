//! Starting a sandbox, from the side of the command that asks for it.
//!
//! The monitor does the work and reports over a socket pair. When the command goes away before the start came to its
//! end, the monitor sees the pair close, and undoes it.

use std::{
    io::{self, Read},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agent_protocol::message::TerminalSize;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde::{Deserialize, Serialize};

use crate::isolation;

use super::{
    Sandbox, StateError, channel,
    lock::{ChangeLock, MonitorLock},
    paths::{DATA_VARIABLE, DataDir},
    private::PrivateVariables,
    stop,
    tools::Need,
};

/// How long the monitor of the start before may take to write down how that ended.
const OLD_MONITOR_PATIENCE: Duration = Duration::from_secs(2);

/// How long an undone start may take to say so.
const UNDO_PATIENCE: Duration = Duration::from_secs(5);

/// Longest report read.
const MAX_REPORT_BYTES: usize = 64 * 1024;

/// What the monitor tells the command that started it, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub(crate) enum Report {
    /// The agent was executed and init answers.
    Ready,
    /// It was not, and everything was undone.
    Failed(Failure),
    /// The sandbox ended.
    Ended {
        /// The code init ended with, where it is known.
        code: Option<i32>,
        /// In words.
        reason: String,
        /// Why it was not removed, where that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
    },
}

/// The end of a sandbox, as its monitor tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The code init ended with, where it is known.
    pub code: Option<i32>,
    /// Why it was not removed, where that was asked for.
    pub kept: Option<String>,
}

/// Why a start failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", .messages.first().map_or("no reason given", String::as_str))]
pub struct Failure {
    /// For programs.
    pub cause: Cause,
    /// What failed, and why, each because of the next.
    pub messages: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The machine lacks something.
    Requirement,
    /// The agent's program does not exist.
    AgentNotFound,
    /// The same, where it would be a part of an image.
    NotInImage,
    /// The agent's program cannot be executed.
    AgentNotExecutable,
    /// It was called off.
    Cancelled,
    /// What was asked for cannot be.
    Request,
    /// Anything else.
    Other,
}

/// Why there is no running sandbox now.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It runs already.
    #[error("it is running already")]
    Running,
    /// The state on disk is of no use, or the disk is full.
    #[error(transparent)]
    State(#[from] StateError),
    /// It was tried.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What belongs to one start, and is not written down with the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Occasion {
    /// The terminal of whoever starts it.
    pub size: Option<TerminalSize>,
    /// Variables that only the agent gets.
    pub private: PrivateVariables,
    /// Whether its environment has to be there.
    pub need: Need,
}

/// A start that the monitor is carrying out.
#[derive(Debug)]
pub struct Starting {
    reports: Reports,
    monitor: Child,
    /// Made by this start, so that its failure leaves nothing.
    is_new: bool,
}

/// A sandbox that runs, and a line to its monitor.
#[derive(Debug)]
pub struct Started {
    reports: Reports,
}

/// Begins the start of a sandbox whose record is written and which is locked.
pub fn begin(
    data: &DataDir,
    sandbox: &Sandbox,
    _lock: &ChangeLock,
    is_new: bool,
    occasion: &Occasion,
) -> Result<Starting, StartError> {
    if !is_new {
        if channel::is_alive(sandbox.folder()) {
            return Err(StartError::Running);
        }
        settle_previous(sandbox);
    }
    let spawned = UnixStream::pair().and_then(|(ours, theirs)| {
        ours.set_nonblocking(true)?;
        Ok((ours, spawn(data, sandbox, is_new, occasion, theirs)?))
    });
    let (ours, monitor) = spawned.map_err(|source| {
        if is_new {
            // What matters is the first error; what cannot be removed stays to be seen.
            drop(sandbox.remove());
        }
        StateError::Io { doing: "starting the monitor".to_owned(), source }
    })?;
    Ok(Starting { reports: Reports::over(ours), monitor, is_new })
}

/// Waits until nobody is busy with the start before, and has its end written down.
fn settle_previous(sandbox: &Sandbox) {
    let end = Instant::now() + OLD_MONITOR_PATIENCE;
    while MonitorLock::is_held(sandbox.folder()) {
        if Instant::now() >= end {
            stop::kill_monitor(sandbox);
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    stop::settle(sandbox, "it ended while nobody watched");
}

fn spawn(
    data: &DataDir,
    sandbox: &Sandbox,
    is_new: bool,
    occasion: &Occasion,
    reports: UnixStream,
) -> io::Result<Child> {
    let mut command = monitor_command(data, sandbox)?;
    command.arg("--start");
    if is_new {
        command.arg("--new");
    }
    if let Some(size) = occasion.size {
        command.arg(format!("--size={}x{}", size.columns, size.rows));
        // Which has a type as well.
        command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    }
    if let Some(keys) = occasion.private.to_file()? {
        command.stdin(keys);
    }
    command.stdout(OwnedFd::from(reports)).spawn()
}

/// This program once more, with nothing of the caller's environment but what finds programs, and the person's own
/// configuration of git: it says whose repositories they trust.
pub(super) fn own_command(data: &DataDir) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env_clear().env(DATA_VARIABLE, data.path());
    // An engine of the person's is theirs to configure as well.
    let ours = ["PATH", "HOME", "XDG_CONFIG_HOME", super::init_binary::INIT_VARIABLE];
    for name in ours.iter().chain(isolation::variable_names()) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    Ok(command)
}

/// The command line of a monitor: a name that can be recognised in `ps`.
pub(super) fn monitor_command(data: &DataDir, sandbox: &Sandbox) -> io::Result<Command> {
    let mut command = own_command(data)?;
    command.args(["monitor", sandbox.name().as_str()]);
    Ok(command)
}

impl Starting {
    /// Waits until the agent runs. `SIGINT`, `SIGTERM` and `SIGHUP` call the start off.
    ///
    /// The wait has no deadline of its own: init's arrival and each step of a setup have theirs, in the monitor.
    pub fn wait(mut self, sandbox: &Sandbox) -> Result<Started, StartError> {
        let signals = Signals::catch().map_err(StateError::io("catching signals"))?;
        let mut called_off = None;
        loop {
            if signals.file.read_signal().is_ok_and(|one| one.is_some()) {
                called_off.get_or_insert_with(Instant::now);
                // A failure means that the monitor is gone, which the next read tells.
                drop(self.reports.stream.shutdown(Shutdown::Write));
            }
            match self.reports.next() {
                Next::Report(Report::Ready) => return Ok(Started { reports: self.reports }),
                Next::Report(Report::Failed(failure)) => {
                    // Reaped here, so that a failed start leaves no zombie to the caller.
                    drop(self.monitor.wait());
                    return Err(failure.into());
                }
                Next::Report(Report::Ended { reason, .. }) => {
                    return Err(self.undo(sandbox, Cause::Other, &reason));
                }
                // A signal from a terminal reaches the monitor too, before it has left our process group.
                Next::End if called_off.is_some() => {
                    return Err(self.undo(sandbox, Cause::Cancelled, "it was called off"));
                }
                Next::End => return Err(self.undo(sandbox, Cause::Other, "the monitor was killed")),
                Next::Nothing => {}
            }
            let timeout = match called_off {
                None => PollTimeout::NONE,
                Some(since) if Instant::now() < since + UNDO_PATIENCE => PollTimeout::from(100u8),
                Some(_) => return Err(self.undo(sandbox, Cause::Cancelled, "it was called off")),
            };
            let mut fds = [
                PollFd::new(self.reports.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.file.as_fd(), PollFlags::POLLIN),
            ];
            // An interrupted wait is taken up again above.
            let _ = poll(&mut fds, timeout);
        }
    }

    /// Undoes what a monitor that is no more had begun.
    fn undo(mut self, sandbox: &Sandbox, cause: Cause, reason: &str) -> StartError {
        drop(self.monitor.kill());
        drop(self.monitor.wait());
        let stopped = stop::force(sandbox).and_then(|_| {
            if self.is_new { sandbox.remove().map_err(StateError::io("removing it")) } else { Ok(()) }
        });
        let mut messages = vec![reason.to_owned()];
        messages.extend(stopped.err().map(|error| format!("undoing the start: {error}")));
        StartError::Failed(Failure { cause, messages, hint: None })
    }
}

impl Started {
    /// Waits for the end of the sandbox, which is under way. `None` where the monitor is gone or takes too long.
    pub fn wait_end(mut self, patience: Duration) -> Option<End> {
        let end = Instant::now() + patience;
        loop {
            match self.reports.next() {
                Next::Report(Report::Ended { code, kept, .. }) => return Some(End { code, kept }),
                Next::Report(_) => {}
                Next::End => return None,
                Next::Nothing => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let mut fds = [PollFd::new(self.reports.stream.as_fd(), PollFlags::POLLIN)];
                    // An interrupted wait is taken up again above.
                    let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
                }
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Reports {
    stream: UnixStream,
    bytes: Vec<u8>,
}

/// What a monitor or a keeper has said.
pub(super) enum Next {
    Report(Report),
    Nothing,
    End,
}

impl Reports {
    /// What comes over a stream that does not wait.
    pub(super) fn over(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(report) => return Next::Report(report),
                    Err(_) => continue,
                }
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Next::End,
                Ok(count) if self.bytes.len() + count <= MAX_REPORT_BYTES => {
                    self.bytes.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return Next::End,
            }
        }
    }
}

/// Signals that call a start off, as a descriptor; as before once dropped.
struct Signals {
    file: SignalFd,
    before: SigSet,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        let file = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { file, before })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It worked the other way round, so it works this way.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reports_come_line_by_line_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut reports = Reports { stream: ours, bytes: Vec::new() };
        assert!(matches!(reports.next(), Next::Nothing));
        let failure =
            Failure { cause: Cause::Requirement, messages: vec!["no bwrap".to_owned()], hint: None };
        let mut text = serde_json::to_vec(&Report::Ready).unwrap();
        text.push(b'\n');
        text.extend(serde_json::to_vec(&Report::Failed(failure.clone())).unwrap());
        text.push(b'\n');
        theirs.write_all(&text[..10]).unwrap();
        assert!(matches!(reports.next(), Next::Nothing));
        theirs.write_all(&text[10..]).unwrap();
        drop(theirs);
        assert!(matches!(reports.next(), Next::Report(Report::Ready)));
        assert!(matches!(reports.next(), Next::Report(Report::Failed(found)) if found == failure));
        assert!(matches!(reports.next(), Next::End));
    }

    #[test]
    fn a_flood_without_a_line_is_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut reports = Reports { stream: ours, bytes: Vec::new() };
        while !matches!(reports.next(), Next::End) {
            drop(theirs.write(&[b'x'; 4096]));
        }
        assert!(reports.bytes.len() <= MAX_REPORT_BYTES);
    }
}
