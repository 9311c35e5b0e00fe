//! Starts agents, steps, services and probes, and collects what they write.

use std::{collections::BTreeMap, ffi::OsString, io, os::fd::AsFd, path::PathBuf, rc::Rc};

use agent_protocol::{
    exit::ExitRecord,
    failure::{Failure, FailureKind},
    message::{SessionId, TerminalSize},
    spec::{Agent, InitSpec, Readiness, Terminal},
};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    commands::{self, Defaults},
    shared::{AGENT, Shared},
};
use crate::{
    children::{ChildId, Children, Exit, Reaped},
    server::ReadEnd,
    session::{
        Session,
        pty::{self, Master},
    },
    signals::Signal,
    spawn::Stdio,
    supervise::{self, ProbeKind, UnitId},
    task,
    watch::Activity,
};

/// Bytes read from a unit at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// What is still read of a unit's output once it has ended: what a background process goes on writing is
/// not the unit's.
const LAST_BYTES: usize = 1024 * 1024;

/// What the loop keeps about the units' processes.
#[derive(Default)]
pub(super) struct Units {
    /// Agents beside the main one, by their numbers.
    further: Vec<Further>,
    /// The number of the next one.
    next_number: u32,
    /// Who reads the terminals of agents that run.
    readers: Vec<(UnitId, AbortHandle)>,
    /// Exits that viewers were not told of yet.
    session_ends: Vec<(UnitId, ExitRecord)>,
    /// The process of each unit's last run: by it the run's leftovers are found.
    last_runs: BTreeMap<UnitId, ChildId>,
    first_output: Option<mpsc::Sender<supervise::ChildId>>,
    /// What units find in `NOTIFY_SOCKET`.
    pub(super) notify_path: Option<PathBuf>,
}

/// An agent beside the main one.
struct Further {
    number: u32,
    name: String,
    agent: Rc<Agent>,
    session: Rc<Session>,
}

/// A unit that was executed.
pub(super) struct Run {
    pub(super) child: ChildId,
    /// On an agent's terminal.
    pub(super) session: Option<(SessionId, Rc<Session>)>,
}

/// What a unit starts with, wherever in the spec it stands.
struct Program<'a> {
    argv: &'a [String],
    env: &'a std::collections::BTreeMap<String, String>,
    workdir: Option<&'a String>,
    watchdog_ms: u64,
}

impl Units {
    /// Where to say that a unit wrote its first byte.
    pub(super) fn report_first_output_to(&mut self, sender: mpsc::Sender<supervise::ChildId>) {
        self.first_output = Some(sender);
    }

    /// One more agent from now on; its number.
    pub(super) fn add(&mut self, shared: &Shared, name: &str, agent: Rc<Agent>) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        let session = Rc::new(Session::new(size(agent.terminal.as_ref())));
        shared.further.borrow_mut().push((name.to_owned(), Rc::clone(&session)));
        self.further.push(Further { number, name: name.to_owned(), agent, session });
        number
    }

    /// An agent is no more. What its last run left behind is killed, and whoever watches is let go.
    pub(super) fn forget(&mut self, children: &Children, shared: &Shared, unit: UnitId) {
        self.kill_left_over(children, unit);
        let UnitId::Further(number) = unit else { return };
        if let Some(place) = self.further.iter().position(|further| further.number == number) {
            let further = self.further.swap_remove(place);
            shared.further.borrow_mut().retain(|(name, _)| *name != further.name);
            further.session.close();
        }
    }

    /// The terminal of an agent.
    pub(super) fn session(&self, shared: &Shared, unit: UnitId) -> Option<Rc<Session>> {
        match unit {
            UnitId::Agent => Some(Rc::clone(&shared.main)),
            UnitId::Further(number) => self.further(number).map(|further| Rc::clone(&further.session)),
            UnitId::Step(_) | UnitId::Service(_) => None,
        }
    }

    /// A unit's name.
    pub(super) fn name(&self, spec: &InitSpec, unit: UnitId) -> String {
        match unit {
            UnitId::Agent => AGENT.to_owned(),
            UnitId::Further(number) => {
                self.further(number).map(|further| further.name.clone()).unwrap_or_default()
            }
            UnitId::Step(place) => spec.steps.get(place).map(|step| step.name.clone()).unwrap_or_default(),
            UnitId::Service(place) => {
                spec.services.get(place).map(|service| service.name.clone()).unwrap_or_default()
            }
        }
    }

    /// Executes a unit. What its last run left behind and is deaf to SIGTERM is killed first: it would hold files,
    /// ports and pipes that the new run needs, and there would be more of it after each.
    pub(super) fn start(
        &mut self,
        children: &mut Children,
        defaults: &Defaults,
        spec: &InitSpec,
        shared: &Rc<Shared>,
        unit: UnitId,
    ) -> Result<Run, Failure> {
        self.kill_left_over(children, unit);
        let run = self.execute(children, defaults, spec, shared, unit)?;
        self.last_runs.insert(unit, run.child);
        Ok(run)
    }

    fn kill_left_over(&mut self, children: &Children, unit: UnitId) {
        if let Some(last) = self.last_runs.remove(&unit)
            && let Err(error) = children.kill_tree(last, Signal::KILL)
        {
            tracing::warn!(%error, "killing what a unit left behind");
        }
    }

    fn execute(
        &mut self,
        children: &mut Children,
        defaults: &Defaults,
        spec: &InitSpec,
        shared: &Rc<Shared>,
        unit: UnitId,
    ) -> Result<Run, Failure> {
        let program = self.program(spec, unit)?;
        let terminal = self.agent(spec, unit).and_then(|agent| agent.terminal.as_ref());
        if let (Some(terminal), Some(session)) = (terminal, self.session(shared, unit)) {
            let (run, reader) =
                self.start_on_terminal(children, defaults, shared, session, &program, &terminal.term)?;
            self.readers.push((unit, reader));
            return Ok(run);
        }
        if spec.control.is_none() || unit == UnitId::Agent {
            let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
            let stdio = Stdio::Descriptors([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
            let child = spawn(children, defaults, &program, self.notify_path.as_ref(), None, stdio)?;
            return Ok(Run { child, session: None });
        }
        let (reader, writer) = commands::pipe()?;
        let null = commands::null()?;
        let stdio = Stdio::Descriptors([null.as_fd(), writer.as_fd(), writer.as_fd()]);
        let child = spawn(children, defaults, &program, self.notify_path.as_ref(), None, stdio)?;
        shared.outputs.borrow_mut().begin(&self.name(spec, unit));
        match ReadEnd::new(reader) {
            Ok(reader) => {
                let task = read_output(Rc::clone(shared), self.name(spec, unit), reader, self.first(child));
                task::start(task);
            }
            Err(error) => tracing::warn!(%error, "a unit's output is lost"),
        }
        Ok(Run { child, session: None })
    }

    fn start_on_terminal(
        &self,
        children: &mut Children,
        defaults: &Defaults,
        shared: &Shared,
        session: Rc<Session>,
        program: &Program<'_>,
        term: &str,
    ) -> Result<(Run, AbortHandle), Failure> {
        let size = session.terminal.borrow().size();
        let (master, slave) = pty::open(size)
            .map_err(|error| Failure::new(FailureKind::Pty, format!("opening a terminal: {error}")))?;
        let child = spawn(
            children,
            defaults,
            program,
            self.notify_path.as_ref(),
            Some(term),
            Stdio::Terminal(slave.as_fd()),
        )?;
        let master = Rc::new(master);
        session.set_master(Some(Rc::clone(&master)));
        let activity = Rc::clone(&shared.activity);
        let reader = task::start(read_terminal(Rc::clone(&session), master, activity, self.first(child)));
        let number = session.terminal.borrow_mut().next_session();
        Ok((Run { child, session: Some((number, session)) }, reader.abort_handle()))
    }

    /// Runs a unit's readiness or health command.
    pub(super) fn probe(
        &mut self,
        children: &mut Children,
        defaults: &Defaults,
        spec: &InitSpec,
        unit: UnitId,
        kind: ProbeKind,
    ) -> Result<ChildId, Failure> {
        let mut program = self.program(spec, unit)?;
        program.argv = self
            .probe_argv(spec, unit, kind)
            .ok_or_else(|| Failure::new(FailureKind::Internal, "the unit has no such probe"))?;
        let null = commands::null()?;
        let fd = null.as_fd();
        spawn(children, defaults, &program, self.notify_path.as_ref(), None, Stdio::Descriptors([fd, fd, fd]))
    }

    /// A unit's process was reaped: takes the rest of its output, and ends what is left of it.
    pub(super) fn ended(&mut self, shared: &Shared, unit: UnitId, children: &mut Children, reaped: &Reaped) {
        if let Some(session) = self.session(shared, unit) {
            self.readers.retain(|(of, reader)| {
                if *of == unit {
                    reader.abort();
                }
                *of != unit
            });
            if let Some(master) = session.master() {
                drain(&session, &master);
            }
            // The last descriptor of the master: the kernel hangs up whoever still has the terminal.
            session.set_master(None);
        }
        // What a step leaves behind that succeeded was set up to stay. What others leave would be in the way of
        // their next run.
        if matches!(unit, UnitId::Step(_)) && reaped.exit == Exit::Code(0) {
            return;
        }
        if let Err(error) = children.kill_tree(reaped.child, Signal::TERM) {
            tracing::warn!(%error, "ending what a unit left behind");
        }
    }

    /// Keeps an agent's exit until it is known what follows.
    pub(super) fn session_ended(&mut self, unit: UnitId, exit: ExitRecord) {
        self.session_ends.push((unit, exit));
    }

    /// An exit that viewers were not told of yet.
    pub(super) fn take_session_end(&mut self) -> Option<(UnitId, ExitRecord)> {
        self.session_ends.pop()
    }

    fn further(&self, number: u32) -> Option<&Further> {
        self.further.iter().find(|further| further.number == number)
    }

    fn agent<'a>(&'a self, spec: &'a InitSpec, unit: UnitId) -> Option<&'a Agent> {
        match unit {
            UnitId::Agent => spec.agent.as_ref(),
            UnitId::Further(number) => self.further(number).map(|further| &*further.agent),
            UnitId::Step(_) | UnitId::Service(_) => None,
        }
    }

    fn program<'a>(&'a self, spec: &'a InitSpec, unit: UnitId) -> Result<Program<'a>, Failure> {
        let found = match unit {
            UnitId::Agent | UnitId::Further(_) => self.agent(spec, unit).map(|agent| Program {
                argv: &agent.argv,
                env: &agent.env,
                workdir: agent.workdir.as_ref(),
                watchdog_ms: agent.watchdog_ms,
            }),
            UnitId::Step(place) => spec.steps.get(place).map(|step| Program {
                argv: &step.argv,
                env: &step.env,
                workdir: step.workdir.as_ref(),
                watchdog_ms: 0,
            }),
            UnitId::Service(place) => spec.services.get(place).map(|service| Program {
                argv: &service.argv,
                env: &service.env,
                workdir: service.workdir.as_ref(),
                watchdog_ms: service.watchdog_ms,
            }),
        };
        found.ok_or_else(|| Failure::new(FailureKind::Internal, "there is no such unit"))
    }

    fn probe_argv<'a>(&'a self, spec: &'a InitSpec, unit: UnitId, kind: ProbeKind) -> Option<&'a [String]> {
        let (readiness, health) = match unit {
            UnitId::Agent | UnitId::Further(_) => {
                let agent = self.agent(spec, unit)?;
                (&agent.readiness, &agent.health)
            }
            UnitId::Service(place) => {
                let service = spec.services.get(place)?;
                (&service.readiness, &service.health)
            }
            UnitId::Step(_) => return None,
        };
        match (kind, readiness) {
            (ProbeKind::Health, _) => health.as_ref().map(|health| health.argv.as_slice()),
            (ProbeKind::Readiness, Readiness::Command(command)) => Some(&command.argv),
            (ProbeKind::Readiness, _) => None,
        }
    }

    fn first(&self, child: ChildId) -> FirstOutput {
        FirstOutput { child: supervise::ChildId(child.generation()), tell: self.first_output.clone() }
    }
}

/// The size that a terminal begins with.
pub(super) fn size(terminal: Option<&Terminal>) -> TerminalSize {
    let default = Terminal::default();
    let terminal = terminal.unwrap_or(&default);
    TerminalSize { columns: terminal.cols, rows: terminal.rows }
}

/// Says once that a unit wrote something.
struct FirstOutput {
    child: supervise::ChildId,
    tell: Option<mpsc::Sender<supervise::ChildId>>,
}

impl FirstOutput {
    async fn came(&mut self) {
        if let Some(tell) = self.tell.take() {
            // Without a loop there is nobody to tell.
            let _ = tell.send(self.child).await;
        }
    }
}

async fn read_terminal(
    session: Rc<Session>,
    master: Rc<Master>,
    activity: Rc<Activity>,
    mut first: FirstOutput,
) {
    let mut buf = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = master.read(&mut buf).await {
        activity.output();
        show(&session, &master, &buf[..read]);
        first.came().await;
    }
}

fn show(session: &Session, master: &Master, bytes: &[u8]) {
    let mut terminal = session.terminal.borrow_mut();
    terminal.output(bytes);
    let replies = terminal.take_replies();
    if !replies.is_empty() {
        master.write_now(&replies);
    }
}

fn drain(session: &Session, master: &Master) {
    let mut buf = vec![0; CHUNK_BYTES];
    let mut left = LAST_BYTES;
    while left > 0 {
        match master.read_now(&mut buf) {
            Ok(Some(read @ 1..)) => {
                show(session, master, &buf[..read]);
                left = left.saturating_sub(read);
            }
            Ok(Some(_) | None) | Err(_) => return,
        }
    }
}

async fn read_output(shared: Rc<Shared>, unit: String, reader: ReadEnd, mut first: FirstOutput) {
    let mut buf = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = reader.read(&mut buf).await {
        shared.outputs.borrow_mut().push(&unit, &buf[..read]);
        first.came().await;
    }
}

fn spawn(
    children: &mut Children,
    defaults: &Defaults,
    program: &Program<'_>,
    notify_path: Option<&PathBuf>,
    term: Option<&str>,
    stdio: Stdio<'_>,
) -> Result<ChildId, Failure> {
    let argv = program.argv.iter().map(OsString::from).collect();
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    if let Some(term) = term {
        env.push(("TERM".into(), term.into()));
    }
    if let Some(path) = notify_path {
        env.push(("NOTIFY_SOCKET".into(), path.into()));
    }
    if program.watchdog_ms > 0 {
        // sd_watchdog_enabled(3): microseconds.
        env.push(("WATCHDOG_USEC".into(), program.watchdog_ms.saturating_mul(1000).to_string().into()));
    }
    env.extend(program.env.iter().map(|(name, value)| (name.into(), value.into())));
    let request = defaults.request(argv, env, program.workdir.map(PathBuf::from), stdio);
    children.spawn(request).map_err(|error| commands::refused(&error))
}
