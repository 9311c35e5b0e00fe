//! The one loop: whatever can wake init comes in here, and every process starts and ends here.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use agent_protocol::{
    failure::{Failure, FailureKind},
    message::{ExecId, What},
    spec::{self, InitSpec},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};

use super::{
    ask::Ask,
    clock::Clock,
    commands::Defaults,
    execs::Execs,
    shared::Shared,
    units::{Run, Units},
    wire,
};
use crate::{
    cgroup::{Memory, Turn},
    children::{self, Children, Reaped},
    journal::unix_ms,
    notify::{Notice, NotifySocket, Watchdog},
    signals::{Origin, Received, Signal, Signals},
    spawn::Limit,
    supervise::{self, Action, Ended, Instant, ProbeId, Supervisor, UnitId},
};

mod reports;
mod requests;
#[cfg(test)]
mod tests;

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
    /// The kernel has counted something about memory.
    Memory,
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
    /// Who waits for an agent to be gone. At most one for each connection.
    removals: Vec<(UnitId, oneshot::Sender<()>)>,
    execs: Execs,
    /// Where memory is bounded.
    memory: Option<Memory>,
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
        mut spec: InitSpec,
        shared: Rc<Shared>,
        descriptors: Option<Limit>,
        memory: Option<Memory>,
        warnings: Vec<String>,
    ) -> Self {
        let supervisor = Supervisor::new(&spec, unix_ms());
        let mut units = Units::default();
        for (name, agent) in std::mem::take(&mut spec.agents) {
            // Numbered in this order by the supervisor, too.
            units.add(&shared, &name, Rc::new(agent));
        }
        Self {
            defaults: Defaults::of(&spec, descriptors, memory.as_ref().and_then(Memory::entrance)),
            clock: Clock::start(),
            supervisor,
            shared,
            children: Children::marked(),
            roles: HashMap::new(),
            probes: HashMap::new(),
            truncated: HashSet::new(),
            units,
            removals: Vec::new(),
            execs: Execs::default(),
            memory,
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
            let look = self.memory.as_ref().and_then(Memory::next_look);
            let times = [self.wake_at, self.execs.next_due(), look];
            let timer = times.into_iter().flatten().min().map(|at| self.clock.at(at));
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
                () = news_of_memory(self.memory.as_ref(), &self.clock) => Event::Memory,
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
                if self.memory.as_ref().and_then(Memory::next_look).is_some_and(|at| at <= now) {
                    self.look_at_memory();
                }
                if self.wake_at.is_some_and(|at| at <= now) {
                    self.wake_at = None;
                    self.supervise(supervise::Event::Timer);
                }
            }
            Event::Memory => self.look_at_memory(),
            Event::ClientsGone => self.let_go_of_abandoned(),
        }
    }

    /// Whoever ends a process for want of memory shall take what the units have started before the units themselves.
    fn look_at_memory(&mut self) {
        let Some(memory) = &mut self.memory else { return };
        let mains: Vec<i32> = self.roles.values().map(|(child, _)| child.pid()).collect();
        memory.look(self.clock.now(), &mains);
        if let new @ 1.. = memory.untold_kills() {
            self.tell(What::Warning { message: memory_ran_out(new) });
        }
    }

    /// Whether a process that ended like this was ended for want of memory.
    fn ran_out_of_memory(&mut self, exit: children::Exit) -> bool {
        let was_killed = matches!(exit, children::Exit::Signal { signal: Signal::KILL, .. });
        let now = self.clock.now();
        was_killed && self.memory.as_mut().is_some_and(|memory| memory.kills(now))
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
                if let Some((session, on)) = session {
                    on.terminal.borrow_mut().started(session, pid);
                    if unit == UnitId::Agent {
                        self.tell(What::SessionStarted { session });
                    }
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
        if let Some(memory) = &self.memory {
            let is_agent = matches!(role, Role::Unit(UnitId::Agent | UnitId::Further(_)));
            memory.started(child.pid(), if is_agent { Turn::Agent } else { Turn::Other });
        }
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
                let oom = self.ran_out_of_memory(reaped.exit);
                let ended = ended(reaped.exit);
                self.supervise(supervise::Event::Exited { child: known, ended, oom });
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

fn memory_ran_out(ended: u64) -> String {
    let processes = if ended == 1 { "process" } else { "processes" };
    format!("memory ran out: the kernel has ended {ended} {processes}")
}

async fn news_of_memory(memory: Option<&Memory>, clock: &Clock) {
    match memory {
        Some(memory) => memory.news(clock).await,
        None => pending().await,
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
