//! The one loop: whatever can wake init comes in here, and every process starts and ends here.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use agent_protocol::{
    exit::{ExitRecord, How, KilledBy},
    failure::{Failure, FailureKind},
    message::{AgentStatus, Counts, ExecId, ExecRequest, Status, Usage, What},
    spec::{self, InitSpec},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};

use super::{
    ask::{Ask, Ends, StartedExec},
    clock::Clock,
    commands::{self, Defaults},
    execs::{Due, Execs},
    shared::{AGENT, Shared},
    units::{Run, Units},
    wire,
};
use crate::{
    children::{self, Children, Reaped},
    journal::unix_ms,
    notify::{Notice, NotifySocket, Watchdog},
    signals::{Origin, Received, Signal, Signals},
    spawn::Limit,
    supervise::{self, Action, Announcement, Change, Ended, Instant, ProbeId, Supervisor, UnitId},
    usage,
};

/// News from the tasks that read the units' output, at once.
const FIRST_OUTPUTS: usize = 64;

/// Everything that can wake init.
enum Event {
    /// Children may have ended: their signals merge.
    ChildrenEnded,
    /// Any other signal.
    Signal(Received),
    /// A connection's task wants something.
    Ask(Ask),
    /// A unit wrote its first byte.
    FirstOutput(supervise::ChildId),
    /// A unit spoke on the notification socket.
    Notified { pid: u32, notice: Notice },
    /// A time has come.
    Timer,
    /// A command's client has gone.
    ClientsGone,
}

/// What a child of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Unit(UnitId),
    Probe(UnitId, ProbeId),
    Exec(ExecId, Instant),
}

/// The loop's own state: processes and what they are for.
pub(super) struct Loop {
    spec: InitSpec,
    defaults: Defaults,
    clock: Clock,
    shared: Rc<Shared>,
    children: Children,
    roles: HashMap<supervise::ChildId, (children::ChildId, Role)>,
    probes: HashMap<ProbeId, children::ChildId>,
    /// Units whose last run lost output that nobody had read.
    truncated: HashSet<UnitId>,
    units: Units,
    execs: Execs,
    supervisor: Supervisor,
    wake_at: Option<Instant>,
    stopping: bool,
    refused: Option<String>,
    ending: Option<u8>,
    warnings: Vec<String>,
    /// More children have ended than one turn took.
    reap_more: bool,
    /// Whether init is the first process of its PID namespace. Only there is inside told from outside: elsewhere
    /// everybody has a pid.
    is_first: bool,
    /// Signals from inside that were told of.
    ignored: HashSet<Signal>,
    /// How often something was given up because of a fault of our own.
    faults: u64,
}

impl Loop {
    pub(super) fn new(
        spec: InitSpec,
        shared: Rc<Shared>,
        descriptors: Option<Limit>,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            defaults: Defaults::of(&spec, descriptors),
            clock: Clock::start(),
            supervisor: Supervisor::new(&spec, unix_ms()),
            shared,
            children: Children::marked(),
            roles: HashMap::new(),
            probes: HashMap::new(),
            truncated: HashSet::new(),
            units: Units::default(),
            execs: Execs::default(),
            wake_at: None,
            stopping: false,
            refused: None,
            ending: None,
            warnings,
            reap_more: false,
            is_first: std::process::id() == 1,
            ignored: HashSet::new(),
            faults: 0,
            spec,
        }
    }

    /// Runs until the supervisor says that it is over; returns the exit code.
    pub(super) async fn run(
        mut self,
        mut signals: Signals,
        mut asks: mpsc::Receiver<Ask>,
        mut notify: Option<NotifySocket>,
    ) -> u8 {
        self.units.notify_path = notify.as_ref().map(|socket| socket.path().to_owned());
        let (first_output, mut first_outputs) = mpsc::channel(FIRST_OUTPUTS);
        self.units.report_first_output_to(first_output);
        self.tell(What::Booted);
        for warning in self.warnings.clone() {
            self.tell(What::Warning { message: warning });
        }
        self.survive(|this| this.supervise(supervise::Event::Timer));
        loop {
            if let Some(code) = self.ending {
                self.tell(What::Ended { code });
                return code;
            }
            let timer =
                self.wake_at.into_iter().chain(self.execs.next_due()).min().map(|at| self.clock.at(at));
            let shared = Rc::clone(&self.shared);
            let event = tokio::select! {
                signal = signals.next() => match signal {
                    Ok(Received { signal: Signal::CHLD, .. }) => Event::ChildrenEnded,
                    Ok(signal) => Event::Signal(signal),
                    Err(error) => {
                        tracing::error!(%error, "reading signals");
                        continue;
                    }
                },
                Some(ask) = asks.recv() => Event::Ask(ask),
                Some(child) = first_outputs.recv() => Event::FirstOutput(child),
                (pid, notice) = heard(notify.as_mut()) => Event::Notified { pid, notice },
                () = due(timer) => Event::Timer,
                () = shared.loop_wanted.notified() => Event::ClientsGone,
                () = std::future::ready(()), if self.reap_more => Event::ChildrenEnded,
            };
            self.survive(|this| this.handle(event));
        }
    }

    /// A fault in dealing with one thing must not take everything else along: with PID 1 ends the sandbox.
    fn survive(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.faults += 1;
            self.tell(What::Warning { message: "init met a fault of its own and went on".to_owned() });
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::ChildrenEnded => {
                // Whose client has gone has that for a reason, even if it ended of a closed pipe already.
                self.let_go_of_abandoned();
                self.reap();
            }
            Event::Signal(received) => self.signalled(received),
            Event::Ask(ask) => self.answer(ask),
            Event::FirstOutput(child) => self.supervise(supervise::Event::FirstOutput { child }),
            Event::Notified { pid, notice } => self.notified(pid, notice),
            Event::Timer => {
                let now = self.clock.now();
                for due in self.execs.due(now) {
                    self.end_exec(due);
                }
                if self.wake_at.is_some_and(|at| at <= now) {
                    self.wake_at = None;
                    self.supervise(supervise::Event::Timer);
                }
            }
            Event::ClientsGone => self.let_go_of_abandoned(),
        }
    }

    fn let_go_of_abandoned(&mut self) {
        let gone = self.shared.abandoned_execs.take();
        for exec in gone {
            self.abandoned(exec);
        }
    }

    /// Tells the supervisor, and does what it says.
    fn supervise(&mut self, event: supervise::Event) {
        let mut waiting = VecDeque::from([event]);
        while let Some(event) = waiting.pop_front() {
            for action in self.supervisor.handle(self.clock.now(), event) {
                // One by one: the deadline that comes behind an action that fails must not be lost with it.
                self.survive(|this| waiting.extend(this.obey(action)));
            }
        }
        self.announce_session_ends();
    }

    /// Does one thing that the supervisor wants; some have an answer.
    fn obey(&mut self, action: Action) -> Option<supervise::Event> {
        match action {
            Action::Start { unit, attempt } => Some(self.start_unit(unit, attempt)),
            Action::Signal { child, signal, group } => {
                self.send(child, signal, group);
                None
            }
            Action::StartProbe { unit, probe, kind } => {
                let started = self.units.probe(&mut self.children, &self.defaults, &self.spec, unit, kind);
                match started {
                    Ok(child) => {
                        self.probes.insert(probe, child);
                        self.register(child, Role::Probe(unit, probe));
                        None
                    }
                    Err(error) => {
                        tracing::warn!(%error, "starting a probe");
                        Some(supervise::Event::ProbeResult { unit, probe, ok: false })
                    }
                }
            }
            Action::KillProbe { probe, .. } => {
                if let Some(child) = self.probes.get(&probe) {
                    note(self.children.kill_tree(*child, Signal::KILL), "killing a probe");
                }
                None
            }
            Action::WakeAt(at) => {
                self.wake_at = Some(at);
                None
            }
            Action::Announce(announcement) => {
                self.announce(announcement);
                None
            }
            Action::Refuse { reason } => {
                self.refused = Some(reason);
                None
            }
            Action::KillEverything(signal) => {
                self.stopping = true;
                self.kill_everything(signal);
                self.children.nothing_left().then_some(supervise::Event::AllProcessesGone)
            }
            Action::PowerOff(ending) => {
                self.ending = Some(ending.code);
                None
            }
        }
    }

    fn start_unit(&mut self, unit: UnitId, attempt: supervise::Attempt) -> supervise::Event {
        // Where a restart follows an exit at once, viewers still hear of the end before they hear of the start.
        self.announce_session_ends();
        let started = self.units.start(&mut self.children, &self.defaults, &self.spec, &self.shared, unit);
        match started {
            Ok(Run { child, session }) => {
                let known = self.register(child, Role::Unit(unit));
                let pid = pid(child);
                if let Some(session) = session {
                    self.shared.terminal.borrow_mut().started(session, pid);
                    self.tell(What::SessionStarted { session });
                }
                let what = What::UnitStarted {
                    unit: self.units.name(&self.spec, unit),
                    kind: wire::kind(unit),
                    pid,
                    attempt: attempt.0,
                };
                self.tell(what);
                supervise::Event::Started { unit, attempt, child: known }
            }
            Err(failure) => {
                self.truncated.remove(&unit);
                let unit_name = self.units.name(&self.spec, unit);
                self.tell(What::UnitFailed { unit: unit_name, reason: failure.message.clone() });
                supervise::Event::SpawnFailed { unit, attempt, error: spawn_error(failure) }
            }
        }
    }

    fn register(&mut self, child: children::ChildId, role: Role) -> supervise::ChildId {
        let known = supervise::ChildId(child.generation());
        self.roles.insert(known, (child, role));
        known
    }

    /// Takes every child that has ended.
    fn reap(&mut self) {
        let batch = self.children.reap();
        for reaped in &batch.exits {
            self.survive(|this| this.ended(reaped));
        }
        if !batch.orphans.is_empty() {
            self.shared.journal.borrow_mut().add_orphans(unix_ms(), batch.orphans.len() as u64);
        }
        // Others get their turn in between.
        self.reap_more = batch.more;
        if self.stopping && self.children.nothing_left() {
            self.supervise(supervise::Event::AllProcessesGone);
        }
    }

    fn ended(&mut self, reaped: &Reaped) {
        let known = supervise::ChildId(reaped.child.generation());
        let Some((_, role)) = self.roles.remove(&known) else { return };
        match role {
            Role::Unit(unit) => {
                self.units.ended(&self.shared, unit, &mut self.children, reaped);
                let lost = self.shared.is_output_lost(&self.units.name(&self.spec, unit));
                if lost {
                    self.truncated.insert(unit)
                } else {
                    self.truncated.remove(&unit)
                };
                let ended = ended(reaped.exit);
                self.supervise(supervise::Event::Exited { child: known, ended, oom: false });
            }
            Role::Probe(unit, probe) => {
                self.probes.remove(&probe);
                let ok = reaped.exit == children::Exit::Code(0);
                self.supervise(supervise::Event::ProbeResult { unit, probe, ok });
            }
            Role::Exec(exec, started) => self.exec_ended(exec, started, reaped.exit),
        }
    }

    fn signalled(&mut self, received: Received) {
        let ignores_inside = self.spec.hardening.ignore_inside_signals && self.is_first;
        if received.origin == Origin::Inside && ignores_inside {
            // Once for each: whoever is inside decides how often, and the log is on the host's disk.
            if self.ignored.insert(received.signal) {
                tracing::info!(signal = %received.signal, pid = received.pid, "ignoring a signal from inside");
            }
            return;
        }
        match received.signal {
            Signal::TERM | Signal::INT | Signal::PWR => {
                self.supervise(supervise::Event::Stop { within: None, force: false });
            }
            other => {
                if let Some(signal) = spec::Signal::from_number(other.number()) {
                    self.supervise(supervise::Event::Forward { signal, group: true });
                }
            }
        }
    }

    /// A unit's own process is believed, and whoever is in its group.
    fn notified(&mut self, pid: u32, notice: Notice) {
        let group = i32::try_from(pid)
            .ok()
            .and_then(|pid| nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).ok());
        let is_unit = |(child, role): &(children::ChildId, Role)| {
            let pids = [i32::try_from(pid).unwrap_or(0), group.map_or(0, nix::unistd::Pid::as_raw)];
            matches!(role, Role::Unit(_)) && pids.contains(&child.pid())
        };
        let Some((child, _)) = self.roles.iter().find(|(_, of)| is_unit(of)).map(|(known, of)| (*known, of))
        else {
            tracing::debug!(pid, "a notification from a process that is no unit's");
            return;
        };
        let said = [
            notice.status.map(supervise::Notice::Status),
            notice.ready.then_some(supervise::Notice::Ready),
            notice.watchdog.map(|watchdog| match watchdog {
                Watchdog::Ping => supervise::Notice::Watchdog,
                Watchdog::Trigger => supervise::Notice::WatchdogTrigger,
            }),
            notice.stopping.then_some(supervise::Notice::Stopping),
        ];
        for notice in said.into_iter().flatten() {
            self.supervise(supervise::Event::Notify { child, notice });
        }
    }

    fn send(&self, child: supervise::ChildId, signal: spec::Signal, group: bool) {
        let Some((child, _)) = self.roles.get(&child) else { return };
        let Some(signal) = Signal::new(signal.number()) else { return };
        let sent = if group {
            self.children.signal_group(*child, signal)
        } else {
            self.children.signal(*child, signal)
        };
        note(sent, "signalling a unit");
    }

    /// Every process but init. Where init is not PID 1 of a namespace, only its own descendants: the rest of
    /// the machine is not ours.
    fn kill_everything(&self, signal: spec::Signal) {
        if let Some(signal) = Signal::new(signal.number()) {
            note(self.children.signal_everything(signal), "signalling everything");
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => give(reply, self.status()),
            Ask::Exec { request, reply } => {
                let started = self.exec(*request);
                if let Err(Ok(unheard)) = reply.send(started) {
                    self.abandoned(unheard.id);
                }
            }
            Ask::ExecWait { exec, reply } => give(reply, self.execs.wait(exec)),
            Ask::ExecSignal { exec, signal, reply } => give(reply, self.signal_exec(exec, signal)),
            Ask::RestartAgent(reply) => {
                let asked = self.request(supervise::Event::Restart { unit: UnitId::Agent });
                give(reply, asked);
            }
            Ask::SignalAgent { signal, reply } => {
                let asked = match spec::Signal::from_number(signal) {
                    Some(signal) => self.request(supervise::Event::Forward { signal, group: true }),
                    None => Err(bad_signal(signal)),
                };
                give(reply, asked);
            }
            Ask::Stop { force, reply } => {
                let asked = self.request(supervise::Event::Stop { within: None, force });
                give(reply, asked);
            }
            Ask::ViewerSawExit => self.supervise(supervise::Event::ViewerSawExit),
        }
    }

    /// Something a person asked for, which the supervisor may refuse.
    fn request(&mut self, event: supervise::Event) -> Result<(), Failure> {
        self.refused = None;
        self.supervise(event);
        match self.refused.take() {
            Some(reason) => Err(Failure::new(FailureKind::WrongState, reason)),
            None => Ok(()),
        }
    }

    fn exec(&mut self, request: ExecRequest) -> Result<StartedExec, Failure> {
        if self.stopping {
            return Err(Failure::new(FailureKind::Stopping, "the sandbox is stopping"));
        }
        let id = self.execs.next_id()?;
        let command = commands::shown(&request.argv);
        let timeout = request.timeout_ms.map(std::time::Duration::from_millis);
        let (child, ends) = commands::start(&mut self.children, &self.defaults, request)?;
        let now = self.clock.now();
        self.register(child, Role::Exec(id, now));
        let exit = self.execs.started(id, child, timeout.map(|timeout| now + timeout));
        if matches!(ends, Ends::Terminal(_)) {
            self.execs.has_terminal(id);
        }
        let pid = pid(child);
        self.tell(What::ExecStarted { exec: id, pid, command });
        Ok(StartedExec { id, pid, ends, exit })
    }

    fn signal_exec(&mut self, exec: ExecId, number: i32) -> Result<(), Failure> {
        let child = self.execs.child(exec)?;
        let signal = Signal::new(number).ok_or_else(|| bad_signal(number))?;
        self.execs.will_end(exec, KilledBy::Client, Some(number));
        self.children
            .signal_group(child, signal)
            .map_err(|error| Failure::new(FailureKind::WrongState, error.to_string()))
    }

    /// A command whose client has gone is asked to end; one on a terminal was hung up by the kernel already, and
    /// may have its reasons to go on.
    fn abandoned(&mut self, exec: ExecId) {
        let Ok(child) = self.execs.child(exec) else { return };
        self.execs.will_end(exec, KilledBy::Disconnect, None);
        if self.execs.is_on_terminal(exec) {
            return;
        }
        note(self.children.signal_group(child, Signal::TERM), "ending a command without a client");
    }

    fn end_exec(&self, due: Due) {
        let (child, signal) = match due {
            Due::Terminate(child) => (child, Signal::TERM),
            Due::Kill(child) => (child, Signal::KILL),
        };
        note(self.children.kill_tree(child, signal), "ending a command that ran out of time");
    }

    fn exec_ended(&mut self, exec: ExecId, started: Instant, exit: children::Exit) {
        let now = self.clock.now();
        let (how, core_dumped) = match exit {
            children::Exit::Code(code) => (How::Code(code.into()), false),
            children::Exit::Signal { signal, core_dumped } => (How::Signal(signal.number()), core_dumped),
        };
        let signal = if let How::Signal(signal) = how { Some(signal) } else { None };
        let killed_by = self
            .execs
            .ended_by(exec, signal)
            .unwrap_or_else(|| if self.stopping { KilledBy::Stop } else { wire::killed_by(how) });
        let exit = ExitRecord {
            how,
            core_dumped,
            killed_by,
            limit: wire::limit(how, killed_by),
            output_truncated: false,
            ran_ms: wire::millis(now.since(started)),
            at_unix_ms: unix_ms(),
        };
        self.tell(What::ExecExited { exec, exit: exit.clone() });
        self.execs.finished(exec, exit);
    }

    fn announce(&mut self, announcement: Announcement) {
        let what = match announcement {
            Announcement::Unit { unit, change } => match self.unit_news(unit, change) {
                Some(what) => what,
                None => return,
            },
            Announcement::SetupDone => What::SetupDone,
            Announcement::SetupFailed { reason } => What::SetupFailed { reason },
            Announcement::ShutdownBegan { force, .. } => {
                self.stopping = true;
                What::Stopping { force }
            }
            Announcement::Lingering { .. } | Announcement::Sweep { .. } => return,
        };
        self.tell(what);
    }

    fn unit_news(&mut self, id: UnitId, change: Change) -> Option<What> {
        let unit = self.units.name(&self.spec, id);
        Some(match change {
            Change::Ready => What::UnitReady { unit },
            Change::Status { text } => What::UnitStatusText { unit, text },
            Change::Unhealthy { failures } => What::UnitUnhealthy { unit, failures },
            Change::Exited(record) => {
                let exit = wire::exit(&record, self.truncated.contains(&id), &self.clock);
                if id == UnitId::Agent {
                    self.units.session_ended(exit.clone());
                }
                What::UnitExited { unit, exit }
            }
            Change::BackingOff { delay, .. } => What::UnitBackoff { unit, delay_ms: wire::millis(delay) },
            Change::Parked { reason } => What::UnitParked { unit, reason },
            Change::Stuck => {
                What::Warning { message: format!("`{unit}` is still there seconds after SIGKILL") }
            }
            // A start is told when it was executed, with the pid; the others show in what follows.
            Change::Starting { .. }
            | Change::Started { .. }
            | Change::Leaving
            | Change::Stopping { .. }
            | Change::Done => return None,
        })
    }

    /// Viewers are told of an exit together with what follows, which is known once the supervisor is done.
    fn announce_session_ends(&mut self) {
        if let Some(exit) = self.units.take_session_end() {
            let status = self.supervisor.status();
            let agent = status.units.iter().find(|unit| unit.unit == UnitId::Agent);
            if let Some(agent) = agent {
                let next = wire::next(&agent.state, &status.phase, &self.clock);
                self.shared.terminal.borrow_mut().ended(exit, next);
            }
        }
    }

    fn status(&self) -> Status {
        let supervised = self.supervisor.status();
        let used = usage::measure();
        let pid_of = |child: Option<supervise::ChildId>| {
            child.and_then(|known| self.roles.get(&known)).map(|(child, _)| pid(*child))
        };
        let told = |unit: &supervise::UnitStatus| {
            wire::unit(unit, pid_of(unit.child), self.truncated.contains(&unit.unit), &self.clock)
        };
        let mut units: Vec<_> = supervised.units.iter().map(told).collect();
        units.sort_by_key(|unit| unit.name != AGENT);
        let terminal = self.shared.terminal.borrow();
        let mut warnings = self.warnings.clone();
        if terminal.pictures_lost() > 0 {
            warnings.push(format!("the picture of the screen was lost {} times", terminal.pictures_lost()));
        }
        if self.faults > 0 {
            warnings.push(format!("init met a fault of its own {} times", self.faults));
        }
        Status {
            init_version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: wire::millis(self.clock.now().0),
            phase: wire::phase(&supervised.phase),
            units,
            agent: AgentStatus {
                session: terminal.session(),
                output_bytes: terminal.end(),
                lease: terminal.lease(),
            },
            counts: Counts {
                connections: self.shared.connections.get(),
                viewers: u32::try_from(terminal.viewers()).unwrap_or(u32::MAX),
                execs: u32::try_from(self.execs.len()).unwrap_or(u32::MAX),
                processes: used.processes,
                orphans_reaped: self.children.orphans_reaped(),
            },
            usage: Usage { memory_bytes: used.memory_bytes, cpu_ms: wire::millis(used.cpu) },
            warnings,
        }
    }

    fn tell(&self, what: What) {
        tracing::info!(?what);
        self.shared.journal.borrow_mut().add(unix_ms(), what);
    }
}

async fn heard(notify: Option<&mut NotifySocket>) -> (u32, Notice) {
    let Some(socket) = notify else { return pending().await };
    loop {
        match socket.next().await {
            Ok(heard) => return heard,
            Err(error) => {
                tracing::warn!(%error, "reading the notification socket, again in a second");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn due(timer: Option<tokio::time::Instant>) {
    match timer {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// A process may end before it is signalled; that is no fault.
fn note<T, E: std::fmt::Display>(result: Result<T, E>, doing: &str) {
    if let Err(error) = result {
        tracing::debug!(%error, doing);
    }
}

/// Whoever asked may be gone by now.
fn give<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}

fn bad_signal(number: i32) -> Failure {
    Failure::new(FailureKind::BadRequest, format!("{number} is not a signal"))
}

fn pid(child: children::ChildId) -> u32 {
    u32::try_from(child.pid()).unwrap_or(0)
}

fn ended(exit: children::Exit) -> Ended {
    match exit {
        children::Exit::Code(code) => Ended::Code(code),
        children::Exit::Signal { signal, core_dumped } => match spec::Signal::from_number(signal.number()) {
            Some(signal) => Ended::Signal { signal, core_dumped },
            None => Ended::Code(exit.shell_code()),
        },
    }
}

fn spawn_error(failure: Failure) -> supervise::SpawnError {
    use supervise::SpawnErrorKind as Kind;
    let kind = match failure.kind {
        FailureKind::NotFound => Kind::NotFound,
        FailureKind::NotExecutable => Kind::NotExecutable,
        FailureKind::BadDirectory => Kind::BadDirectory,
        FailureKind::Permission | FailureKind::Credentials => Kind::Permission,
        FailureKind::Limit => Kind::Limit,
        FailureKind::Pty => Kind::Pty,
        _ => Kind::Other,
    };
    supervise::SpawnError { kind, message: failure.message }
}

#[cfg(test)]
mod tests;
