//! Watching: init's events into the journal, its units' output into logs, until init is gone.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{
    Request, ServerMessage,
    message::{Event, EventsRequest, LogFrom, LogRequest, What},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{WaitOptions, WaitStatus, waitpid};

use super::{
    agent::{self, AGENT},
    jobs::JobEvent,
    me,
    work::Work,
};
use crate::{
    isolation::{Layer, Part, Process},
    sandbox::{
        Sandbox, StateError,
        channel::{self, Channel, Flow, Received},
        journal::Journal,
        launch,
        probe::{self, Answer},
        process,
        record::Record,
        run::{Run, RunningPart, Stage},
        stop,
        unit_log::{self, UnitLog, is_fit_for_a_file},
        view::{AgentState, AgentView},
    },
};

/// Units whose output is recorded: the agent, 64 steps, 64 services and 16 further agents, as there can be.
const MAX_TAPS: usize = 145;

/// Before a connection that init closed is opened again.
const REOPEN: Duration = Duration::from_millis(100);

/// For what an init that is gone has said last: as much as its buffers hold.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// How long an init may take whose layer has ended: it is there, or nobody is about to become it.
const ORPHAN_COMES_WITHIN: Duration = Duration::from_secs(5);

/// How long the layer may take to end what is left of a machine.
const LAYER_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of one unit's output that are written before the others get their turn.
const TURN_READS: usize = 8;

/// A monitor at work.
pub(super) struct Watch<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) record: Record,
    pub(super) run: Run,
    pub(super) layer: Option<Box<dyn Layer>>,
    pub(super) journal: Journal,
    pub(super) agent: AgentView,
    /// The layer's process, until it ended.
    pub(super) supervisor: Option<Process>,
    pub(super) init: Option<Process>,
    /// What killed the layer's process, if something did.
    pub(super) layer_signal: Option<i32>,
    /// Whether that process did not end, and was ended by us.
    pub(super) layer_was_stuck: bool,
    /// The command that started the sandbox, as long as it listens.
    pub(super) line: Option<UnixStream>,
    pub(super) seen: Seen,
    pub(super) work: Work,
    events: Option<Channel>,
    taps: BTreeMap<String, Tap>,
    reopen_at: Option<Instant>,
    /// When what is left of a machine is ended.
    falls_apart_at: Option<Instant>,
    /// Whether logs begin anew or go on.
    pub(super) is_fresh: bool,
}

/// What init has said that matters to the end.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) welcome: bool,
    pub(super) agent_started: bool,
    /// Why the agent could not be executed.
    pub(super) agent_failed: Option<String>,
    pub(super) setup_failed: Option<String>,
    /// Somebody asked for the end.
    pub(super) stopping: bool,
    /// The code of init's last event.
    pub(super) ended: Option<u8>,
}

/// One unit's output.
struct Tap {
    log: UnitLog,
    channel: Option<Channel>,
    /// Init knows no such unit: asking again is of no use.
    refused: bool,
}

impl<'a> Watch<'a> {
    /// A monitor for a start.
    pub(super) fn new(
        sandbox: &'a Sandbox,
        record: Record,
        run: Run,
        layer: Option<Box<dyn Layer>>,
        journal: Journal,
    ) -> Self {
        Self {
            work: Work::of(sandbox, &record),
            sandbox,
            record,
            run,
            layer,
            journal,
            agent: AgentView::in_state(AgentState::Setup),
            supervisor: None,
            init: None,
            layer_signal: None,
            layer_was_stuck: false,
            line: None,
            seen: Seen::default(),
            events: None,
            taps: BTreeMap::new(),
            reopen_at: None,
            falls_apart_at: None,
            is_fresh: true,
        }
    }

    /// A monitor for what another one left behind; `None` where there is nothing to watch or to write down.
    pub(super) fn resume(sandbox: &'a Sandbox) -> Result<Option<Self>, StateError> {
        let Some(run) = Run::read(sandbox.folder()).filter(|run| !run.is_over()) else { return Ok(None) };
        let record = sandbox.record()?;
        let journal = Journal::open(sandbox.folder()).map_err(StateError::io("opening the journal"))?;
        let layer = launch::layer_for(&record).ok();
        let mut watch = Self::new(sandbox, record, run, layer, journal);
        watch.is_fresh = false;
        let processes = watch.run.processes();
        watch.supervisor = processes.supervisor.and_then(process::hold);
        watch.init = processes.init.and_then(process::hold);
        if let Some(agent) = watch.run.agent.clone() {
            watch.agent = agent;
        }
        Ok(Some(watch))
    }

    /// Whether it lives. Where a start was cut short, somebody may hold what init is to listen on, and nobody become init: that
    /// is ended.
    pub(super) fn comes_to_life(&mut self) -> bool {
        let folder = self.sandbox.folder();
        let is_alive = || channel::is_alive(folder);
        if self.run.stage != Stage::Starting {
            return is_alive();
        }
        let start = self.record.isolation.capabilities().patience.start;
        let begun = Instant::now();
        while is_alive() {
            match probe::ask(folder) {
                Answer::Silent => {}
                answer => return !matches!(answer, Answer::Dead),
            }
            let report = self.layer.as_ref().and_then(|layer| layer.report(folder).ok()).unwrap_or_default();
            let at_work = self.supervisor.as_ref().is_some_and(|layer| layer.alive().unwrap_or(true))
                || report.layer_pid.is_some_and(is_running);
            if begun.elapsed() >= if at_work { start } else { ORPHAN_COMES_WITHIN } {
                stop::kill_init(self.sandbox);
                self.find_processes();
                self.end_layer();
                break;
            }
            thread::sleep(REOPEN);
        }
        false
    }

    /// Goes on with a sandbox that lives.
    pub(super) fn take_over(&mut self) {
        self.seen.agent_started = true;
        self.run.monitor = me();
        self.run.stage = Stage::Running;
        self.find_processes();
        self.write_run();
        self.note("monitor-adopted", serde_json::json!({}));
        if let Answer::Status(status) = probe::ask(self.sandbox.folder()) {
            for unit in &status.units {
                self.tap(&unit.name);
            }
            if let Some(agent) = status.units.iter().find(|unit| unit.name == AGENT) {
                self.agent = AgentView::from(agent);
            }
        }
        self.tap(AGENT);
        self.open_events();
        self.job(JobEvent::Adopted { active: self.work.was_active() });
    }

    /// Watches until init is gone, and writes down how that was.
    pub(super) fn until_the_end(&mut self) {
        while self.turn(None) {}
        self.finish();
    }

    /// Waits for something to happen and takes note of it. Returns false once init is gone.
    pub(super) fn turn(&mut self, deadline: Option<Instant>) -> bool {
        let until =
            [deadline, self.reopen_at, self.falls_apart_at, self.work.due()].into_iter().flatten().min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        if self.wait(timeout).is_err() {
            // The kernel is out of memory; a busy loop would not help it.
            thread::sleep(REOPEN);
            return true;
        }
        let mut suspicion = self.reap_supervisor();
        suspicion |= self.init.as_ref().is_some_and(|init| !init.alive().unwrap_or(true));
        if suspicion {
            self.may_fall_apart();
        }
        if self.falls_apart_at.is_some_and(|at| Instant::now() >= at) {
            self.falls_apart_at = None;
            self.end_machine();
        }
        suspicion |= self.read_events();
        suspicion |= self.read_taps();
        self.work_turn();
        if self.reopen_at.is_some_and(|at| Instant::now() >= at) {
            self.reopen();
            // A call that fails may be the last sign of its end. Before, there is nobody yet.
            suspicion |= self.seen.agent_started;
        }
        !suspicion || channel::is_alive(self.sandbox.folder())
    }

    fn wait(&self, timeout: PollTimeout) -> nix::Result<()> {
        let channels = self.taps.values().filter_map(|tap| tap.channel.as_ref()).chain(&self.events);
        let mut fds: Vec<PollFd<'_>> =
            channels.map(|channel| PollFd::new(channel.as_fd(), channel.wants())).collect();
        let mut watched: Vec<BorrowedFd<'_>> = self.work.descriptors().collect();
        watched.extend(self.supervisor.iter().chain(&self.init).map(AsFd::as_fd));
        fds.extend(watched.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        if !self.seen.agent_started
            && let Some(line) = &self.line
        {
            fds.push(PollFd::new(line.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens the stream of events behind those that are in the journal.
    pub(super) fn open_events(&mut self) {
        let request = Request::Events(EventsRequest { after: self.journal.last_of_init(), follow: true });
        match Channel::open(self.sandbox.folder(), &request) {
            Ok(channel) => self.events = Some(channel),
            Err(_) => self.reopen_at = Some(Instant::now() + REOPEN),
        }
    }

    /// Opens the stream of a unit's output behind what is in its log.
    fn tap(&mut self, unit: &str) {
        if !is_fit_for_a_file(unit) || self.taps.len() >= MAX_TAPS || self.taps.contains_key(unit) {
            return;
        }
        let folder = self.sandbox.folder();
        let log = if self.is_fresh { UnitLog::begin(folder, unit) } else { UnitLog::resume(folder, unit) };
        let Ok(log) = log else { return };
        self.taps.insert(unit.to_owned(), Tap { log, channel: None, refused: false });
        self.open_tap(unit);
    }

    /// A unit is no more, and its log goes with it: one of that name that comes later has a stream of its own.
    fn untap(&mut self, unit: &str) {
        self.taps.remove(unit);
        if is_fit_for_a_file(unit) && unit != AGENT {
            unit_log::remove(self.sandbox.folder(), unit);
        }
    }

    fn open_tap(&mut self, unit: &str) {
        let Some(tap) = self.taps.get_mut(unit) else { return };
        let from = LogFrom::Offset(tap.log.next_offset());
        let request = Request::Log(LogRequest { unit: unit.to_owned(), from, follow: true });
        match Channel::open(self.sandbox.folder(), &request) {
            Ok(channel) => tap.channel = Some(channel),
            Err(_) => self.reopen_at = Some(Instant::now() + REOPEN),
        }
    }

    fn reopen(&mut self) {
        self.reopen_at = None;
        if self.events.is_none() {
            self.open_events();
        }
        let closed = |tap: &Tap| tap.channel.is_none() && !tap.refused;
        let closed: Vec<String> =
            self.taps.iter().filter(|(_, tap)| closed(tap)).map(|(unit, _)| unit.clone()).collect();
        for unit in closed {
            self.open_tap(&unit);
        }
    }

    /// Returns whether the stream ended.
    fn read_events(&mut self) -> bool {
        let Some(channel) = &mut self.events else { return false };
        let (mut events, mut welcome) = (Vec::new(), false);
        let flow = channel.pump(|received| match received {
            Received::Welcome => welcome = true,
            Received::Message(ServerMessage::Event(event)) => events.push(*event),
            Received::Message(_) | Received::Data(..) => {}
        });
        self.seen.welcome |= welcome;
        if welcome {
            self.find_processes();
        }
        let before = self.agent.clone();
        for event in &events {
            self.take_note(event);
        }
        if self.agent != before {
            // For the time when init cannot be asked.
            self.run.agent = Some(self.agent.clone());
            self.write_run();
        }
        let ended = !matches!(flow, Ok(Flow::More | Flow::Blocked));
        if ended {
            self.events = None;
            self.reopen_at.get_or_insert_with(|| Instant::now() + REOPEN);
        }
        ended
    }

    fn take_note(&mut self, event: &Event) {
        // A full disk loses events; the journal says so with the next one that it can take.
        drop(self.journal.note_event(event));
        agent::follow(&mut self.agent, event);
        match &event.what {
            What::UnitStarted { unit, .. } => {
                self.seen.agent_started |= unit == AGENT;
                self.tap(unit);
            }
            What::UnitRemoved { unit } => self.untap(unit),
            What::UnitFailed { unit, reason } if unit == AGENT => {
                self.seen.agent_failed = Some(reason.clone());
            }
            What::SetupFailed { reason } => self.seen.setup_failed = Some(reason.clone()),
            // Init ends by itself too, once the agent that it is there for has ended.
            What::Stopping { .. } => self.seen.stopping = self.agent.state != AgentState::Exited,
            What::Ended { code } => self.seen.ended = Some(*code),
            _ => {}
        }
        let reason = match &event.what {
            What::RefsChanged => JobEvent::RefsChanged,
            What::Quiet { .. } => JobEvent::Quiet,
            What::Active => JobEvent::Active,
            What::UnitExited { unit, .. } if unit == AGENT => JobEvent::AgentEnded,
            _ => return,
        };
        self.job(reason);
    }

    /// Returns whether a stream ended.
    fn read_taps(&mut self) -> bool {
        let mut ended = false;
        for tap in self.taps.values_mut() {
            let Tap { log, channel, refused } = tap;
            let Some(open) = channel else { continue };
            for _ in 0..TURN_READS {
                let flow = open.pump(|received| match received {
                    // What a full disk does not take is marked as a gap later.
                    Received::Data(offset, bytes) => drop(log.append(offset, bytes)),
                    Received::Message(ServerMessage::Failed(_)) => *refused = true,
                    Received::Welcome | Received::Message(_) => {}
                });
                match flow {
                    Ok(Flow::More) => {}
                    Ok(Flow::Blocked) => break,
                    Ok(Flow::Closed) | Err(_) => {
                        *channel = None;
                        ended = true;
                        break;
                    }
                }
            }
        }
        if ended {
            self.reopen_at.get_or_insert_with(|| Instant::now() + REOPEN);
        }
        ended
    }

    /// Reads what init said before it ended: all of it has arrived. Where it lives after all, it could go on for ever.
    pub(super) fn drain(&mut self) {
        let end = Instant::now() + DRAIN_WITHIN;
        while self.has_input() && Instant::now() < end {
            self.read_events();
            self.read_taps();
        }
        self.events = None;
        self.taps.clear();
        self.reopen_at = None;
    }

    fn has_input(&self) -> bool {
        let channels = self.taps.values().filter_map(|tap| tap.channel.as_ref()).chain(&self.events);
        let mut fds: Vec<PollFd<'_>> =
            channels.map(|channel| PollFd::new(channel.as_fd(), channel.wants())).collect();
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(ready) if ready > 0)
    }

    /// Collects the layer's process if it ended. Init may live on without it.
    fn reap_supervisor(&mut self) -> bool {
        let ended = self.supervisor.as_ref().is_some_and(|one| !one.alive().unwrap_or(true));
        if ended && let Some(process) = self.supervisor.take() {
            self.collect_layer(&process);
        }
        ended
    }

    /// A machine without its layer's process, or without itself, is none. The layer ends what is left of it, where it can.
    fn may_fall_apart(&mut self) {
        if self.record.isolation.capabilities().shares_kernel {
            return;
        }
        // Seen once: it would wake us again and again.
        self.init = self.init.take().filter(|init| init.alive().unwrap_or(true));
        let patience = if self.supervisor.is_some() { LAYER_ENDS_WITHIN } else { Duration::ZERO };
        self.falls_apart_at = Some(Instant::now() + patience);
    }

    /// Collects how the layer's process ended by itself: its code, if it has one.
    pub(super) fn collect_layer(&mut self, process: &Process) -> Option<i32> {
        let status = finish_child(process)?;
        self.layer_signal = status.terminating_signal();
        status.exit_status()
    }

    /// Looks which processes the layer has started by now, and writes down what is new.
    pub(super) fn find_processes(&mut self) {
        let Some(layer) = &self.layer else { return };
        let Ok(report) = layer.report(self.sandbox.folder()) else { return };
        let known = (self.run.init, self.run.parts.len());
        if self.init.is_none() {
            self.init = report.init_pid.and_then(|pid| Process::now(pid).ok().flatten());
            self.run.init = self.init.as_ref().map(Process::id);
        }
        if let Some(leader) = self.run.supervisor {
            for Part { name, pid } in report.parts {
                if self.run.parts.iter().all(|part| part.name != name)
                    && let Some(id) = process::identify_child(pid, leader)
                {
                    let door = layer.capabilities().door == Some(name.as_str());
                    self.run.parts.push(RunningPart { name, id, door });
                }
            }
        }
        if known != (self.run.init, self.run.parts.len()) {
            self.write_run();
        }
    }

    /// Best effort: whatever is not in the file is found out from the kernel.
    pub(super) fn write_run(&mut self) {
        drop(self.run.write(self.sandbox.folder()));
    }

    pub(super) fn note(&mut self, event: &str, details: serde_json::Value) {
        // A full disk loses this event and no other thing.
        drop(self.journal.note(super::now_ms(), event, details));
    }
}

/// Collects the status of a process that ended, if it is our child.
pub(super) fn finish_child(process: &Process) -> Option<WaitStatus> {
    let pid = rustix::process::Pid::from_raw(process.id().pid)?;
    Some(waitpid(Some(pid), WaitOptions::NOHANG).ok()??.1)
}

fn is_running(pid: i32) -> bool {
    Process::now(pid).is_ok_and(|process| process.is_some_and(|process| process.alive().unwrap_or(true)))
}

/// Whether the command at the other end of the line is gone.
pub(super) fn is_hung_up(line: &mut UnixStream) -> bool {
    use io::Read;
    match line.read(&mut [0; 16]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}
