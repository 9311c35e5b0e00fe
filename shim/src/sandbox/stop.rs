//! Ending a sandbox, within a deadline whatever state it is in.
//!
//! Init does it in order when asked. Where it cannot answer, the host kills it, and the kernel ends all that is inside with it.

use std::{
    io,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{Request, ServerMessage, spec::Shutdown};
use nix::poll::{PollFd, PollTimeout, poll};

use crate::isolation::Process;

use super::{
    Sandbox, StateError,
    channel::{self, Channel, Flow, OpenError, Received},
    launch,
    lock::MonitorLock,
    monitor,
    process::{self, Condition},
    run::{Processes, Run},
};

/// How long init may take to kill everything and end, when it is told to.
const FORCE_PATIENCE: Duration = Duration::from_millis(300);
/// How long the kernel may take to end a killed init and all that is inside.
const KILL_PATIENCE: Duration = Duration::from_millis(300);
/// How long the layer's process may outlive what it has made.
const LAYER_PATIENCE: Duration = Duration::from_millis(200);
/// The same for a machine: the memory of all that is inside is one process's, and its parts end each other.
const KILL_MACHINE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the monitor may take to write down how it ended.
const MONITOR_PATIENCE: Duration = Duration::from_millis(250);
/// The same, where it has an engine remove the container.
const ENGINE_PATIENCE: Duration = Duration::from_secs(25);
/// How long the kernel may take until the last process of it is gone, which others may see until then: it has a machine's memory to
/// free.
const GONE_PATIENCE: Duration = Duration::from_secs(2);
/// What a graceful end may take beyond the deadline init has for it.
const MARGIN: Duration = Duration::from_secs(2);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was not running.
    Already,
    /// Init ended in order.
    InOrder,
    /// The host killed it.
    Killed,
}

/// Why it did not end.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Init lives and does not answer.
    #[error("init does not answer")]
    Stuck,
    /// Init says no.
    #[error("init refuses: {0}")]
    Refused(String),
    /// The state on disk is of no use.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Asks init for the end, and waits for it. What takes longer than init's own deadline is killed.
pub fn gracefully(sandbox: &Sandbox) -> Result<Stopped, StopError> {
    let carriers = Carriers::of(sandbox);
    let stopped = ask_for_the_end(sandbox)?;
    carriers.wait_gone();
    Ok(stopped)
}

fn ask_for_the_end(sandbox: &Sandbox) -> Result<Stopped, StopError> {
    let folder = sandbox.folder();
    let mut channel = match Channel::open(folder, &Request::Stop { force: false }) {
        Ok(channel) => channel,
        Err(OpenError::Dead) => {
            settle_end(sandbox, "it ended while nobody watched");
            return Ok(Stopped::Already);
        }
        Err(OpenError::Full) => return Err(StopError::Stuck),
        Err(OpenError::Io(source)) => {
            return Err(StateError::Io { doing: "connecting to init".to_owned(), source }.into());
        }
    };
    let patience = sandbox.record()?.isolation.capabilities().patience.answer;
    match hear(&mut channel, Instant::now() + patience) {
        // It has not booted yet, or is on its way out.
        Heard::End if channel.is_unheard() => {
            if !wait_dead(sandbox, None, MARGIN) {
                return Ok(force(sandbox)?);
            }
            settle_end(sandbox, "it was stopped");
            return Ok(Stopped::InOrder);
        }
        Heard::Done | Heard::End => {}
        Heard::Nothing => return Err(StopError::Stuck),
        Heard::Refused(why) => return Err(StopError::Refused(why)),
    }
    let patience = Duration::from_millis(Shutdown::default().total_ms) + MARGIN;
    if wait_dead(sandbox, Some(&mut channel), patience) {
        settle_end(sandbox, "it was stopped");
        return Ok(Stopped::InOrder);
    }
    Ok(force(sandbox)?)
}

/// Ends it now. Takes a second at most, whatever is stuck; more only while the kernel takes a machine apart.
pub fn force(sandbox: &Sandbox) -> Result<Stopped, StateError> {
    let carriers = Carriers::of(sandbox);
    let stopped = end_now(sandbox)?;
    carriers.wait_gone();
    Ok(stopped)
}

fn end_now(sandbox: &Sandbox) -> Result<Stopped, StateError> {
    let folder = sandbox.folder();
    let asked = match Channel::open(folder, &Request::Stop { force: true }) {
        Err(OpenError::Dead) => {
            // A machine can be unreachable, and be there.
            recorded(sandbox).init.into_iter().for_each(process::kill);
            kill_parts(sandbox);
            kill_layer(sandbox);
            settle_end(sandbox, "it ended while nobody watched");
            return Ok(Stopped::Already);
        }
        Ok(channel) => Some(channel),
        Err(_) => None,
    };
    let in_order = asked.is_some_and(|mut channel| wait_dead(sandbox, Some(&mut channel), FORCE_PATIENCE));
    if !in_order {
        Run::mark_killed(folder);
        // What is not init yet ends with the layer's process.
        if !kill_init(sandbox) {
            kill_layer(sandbox);
        }
        kill_parts(sandbox);
        if !wait_dead(sandbox, None, patience_with_kernel(sandbox)) {
            let source = io::Error::new(io::ErrorKind::TimedOut, "the kernel has not ended init yet");
            return Err(StateError::Io { doing: format!("killing `{}`", sandbox.name()), source });
        }
    }
    kill_layer(sandbox);
    settle_end(sandbox, if in_order { "it was stopped by force" } else { "it was killed by force" });
    Ok(if in_order { Stopped::InOrder } else { Stopped::Killed })
}

/// Has the end written down, by the monitor if it can.
fn settle_end(sandbox: &Sandbox, reason: &str) {
    let end = Instant::now() + patience_with_monitor(sandbox);
    let over = || Run::read(sandbox.folder()).is_none_or(|run| run.is_over());
    while !over() && MonitorLock::is_held(sandbox.folder()) && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    // It goes on for a moment behind its last record: with removing what is left, with ending itself.
    while MonitorLock::is_held(sandbox.folder()) && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    if MonitorLock::is_held(sandbox.folder()) {
        kill_monitor(sandbox);
    }
    settle(sandbox, reason);
}

fn patience_with_kernel(sandbox: &Sandbox) -> Duration {
    if sandbox.is_machine() { KILL_MACHINE_PATIENCE } else { KILL_PATIENCE }
}

/// A monitor that is stopped does nothing, however long one waits.
fn patience_with_monitor(sandbox: &Sandbox) -> Duration {
    let Some(run) = Run::read(sandbox.folder()) else { return MONITOR_PATIENCE };
    let works =
        run.processes().monitor.is_some_and(|monitor| process::condition(monitor) == Condition::Alive);
    if run.remains.container.is_some() && works { ENGINE_PATIENCE } else { MONITOR_PATIENCE }
}

/// Writes down the end of a start that has no monitor, where that is still to be done. Fine where a new monitor does it.
pub(super) fn settle(sandbox: &Sandbox, reason: &str) {
    if Run::read(sandbox.folder()).is_some_and(|run| !run.is_over()) {
        // What cannot be written is found out again by the next command.
        drop(monitor::settle(sandbox, reason));
    }
}

/// Ends a monitor that is stuck; another one goes on where it was.
pub(super) fn kill_monitor(sandbox: &Sandbox) {
    let Some(monitor) = recorded(sandbox).monitor else { return };
    process::kill(monitor);
    let end = Instant::now() + KILL_PATIENCE;
    while MonitorLock::is_held(sandbox.folder()) && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether there is one. Of a sandbox that was not refused to us: somebody holds what init listens on.
pub(super) fn kill_init(sandbox: &Sandbox) -> bool {
    let report = || launch::layer_for(&sandbox.record().ok()?).ok()?.report(sandbox.folder()).ok();
    // A start whose monitor was killed early has no record of init. The layer has one, which holds as long as init lives.
    let report = recorded(sandbox).init.is_none().then(report).flatten().unwrap_or_default();
    let init = recorded(sandbox).init.or_else(|| process::identify(report.init_pid?));
    match (init, report.layer_pid) {
        (Some(init), _) => process::kill(init),
        // It ended before it could tell of what is to become init, and that waits for it, for ever.
        (None, Some(layer)) => process::kill_session(layer),
        (None, None) => {}
    }
    init.is_some()
}

/// What else a layer has started: a machine lives as long as its devices do.
fn kill_parts(sandbox: &Sandbox) {
    let processes = recorded(sandbox);
    processes.parts.iter().for_each(|part| process::kill(part.id));
    // The layer has a record, too, where the monitor was killed early.
    let report = || launch::layer_for(&sandbox.record().ok()?).ok()?.report(sandbox.folder()).ok();
    if let (true, Some(leader)) = (processes.parts.is_empty(), processes.supervisor)
        && let Some(report) = report()
    {
        let parts = report.parts.iter().filter_map(|part| process::identify_child(part.pid, leader));
        parts.for_each(process::kill);
    }
}

/// The layer's process ends with init, unless it is stopped. It has something to write down, and to collect.
fn kill_layer(sandbox: &Sandbox) {
    let Some(supervisor) = recorded(sandbox).supervisor.and_then(process::hold) else { return };
    let is_stopped = process::condition(supervisor.id()) == Condition::Stopped;
    if is_stopped || !supervisor.exited_within(LAYER_PATIENCE).unwrap_or(true) {
        process::kill(supervisor.id());
    }
}

/// The processes that a sandbox is made of, held from before its end.
struct Carriers(Vec<Process>);

impl Carriers {
    fn of(sandbox: &Sandbox) -> Self {
        let recorded = recorded(sandbox);
        let parts = recorded.parts.iter().map(|part| part.id);
        let ids = recorded.supervisor.into_iter().chain(recorded.init).chain(parts);
        Self(ids.filter_map(process::hold).collect())
    }

    /// Waits until the last one is gone, and all that it had open with it.
    fn wait_gone(&self) {
        let end = Instant::now() + GONE_PATIENCE;
        // One that the kernel holds is left to it: nothing of the sandbox goes on in it.
        let is_gone =
            |process: &Process| !process.alive().unwrap_or(false) || process::waits_for_others(process.id());
        while !self.0.iter().all(is_gone) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn recorded(sandbox: &Sandbox) -> Processes {
    Run::read(sandbox.folder()).map_or(Processes::default(), |run| run.processes())
}

/// Waits until init is gone. With a channel it is woken by its end.
fn wait_dead(sandbox: &Sandbox, mut channel: Option<&mut Channel>, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(open) = channel.as_deref_mut() {
            match hear(open, end) {
                Heard::Done | Heard::Refused(_) => {}
                Heard::End => channel = None,
                Heard::Nothing => return !channel::is_alive(sandbox.folder()),
            }
            continue;
        }
        // Descriptors are closed one by one: the listener may outlive the connection by an instant.
        if !channel::is_alive(sandbox.folder()) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

enum Heard {
    Done,
    Refused(String),
    End,
    Nothing,
}

/// Waits for the next thing init says about a stop.
fn hear(channel: &mut Channel, end: Instant) -> Heard {
    loop {
        let mut heard = None;
        let flow = channel.pump(|received| match received {
            Received::Message(ServerMessage::Done) => heard = Some(Heard::Done),
            Received::Message(ServerMessage::Failed(failure)) => {
                heard = Some(Heard::Refused(failure.message));
            }
            _ => {}
        });
        match (heard, flow) {
            (Some(heard), _) => return heard,
            (None, Ok(Flow::Closed) | Err(_)) => return Heard::End,
            (None, Ok(Flow::More)) => {}
            (None, Ok(Flow::Blocked)) => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Heard::Nothing;
                }
                let mut fds = [PollFd::new(channel.as_fd(), channel.wants())];
                // An interrupted wait is taken up again above.
                let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            }
        }
    }
}
