//! What the tasks of connections ask for: the state, commands, the agent's restart, the end.

use std::{os::fd::OwnedFd, rc::Rc};

use agent_protocol::{
    exit::{ExitRecord, How, KilledBy},
    failure::{Failure, FailureKind},
    message::{AddAgent, ExecId, ExecRequest, What},
    spec::{self, Agent},
};
use tokio::sync::oneshot;

use super::{
    super::{
        ask::{Ask, Ends, StartedExec},
        commands,
        execs::Due,
        wire,
    },
    Loop, Role, note, pid,
};
use crate::{
    children,
    journal::unix_ms,
    signals::Signal,
    supervise::{self, Instant, UnitId},
    watch::Activity,
};

impl Loop {
    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => give(reply, self.status()),
            Ask::Resources(reply) => give(reply, self.resources()),
            Ask::AgentCpu(reply) => give(reply, self.agent_cpu()),
            Ask::Exec { request, git, reply } => {
                let started = self.exec(*request, git);
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
            Ask::RestartUnit { name, reply } => {
                let asked =
                    self.find(&name).and_then(|unit| self.request(supervise::Event::Restart { unit }));
                give(reply, asked);
            }
            Ask::AddAgent { request, reply } => give(reply, self.add_agent(&request)),
            Ask::RemoveAgent { name, force, reply } => give(reply, self.remove_agent(&name, force)),
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

    fn find(&self, name: &str) -> Result<UnitId, Failure> {
        let unknown = || Failure::new(FailureKind::Unknown, format!("there is no unit `{name}`"));
        self.supervisor.find(name).ok_or_else(unknown)
    }

    fn add_agent(&mut self, request: &AddAgent) -> Result<(), Failure> {
        let bad = |why: String| Failure::new(FailureKind::BadRequest, why);
        let main = match (&self.spec.agent, request.like_main) {
            (None, true) => return Err(bad("there is no main agent".to_owned())),
            (main, like_main) => main.as_ref().filter(|_| like_main),
        };
        let name = &request.name;
        let agent = Agent::further(name, &request.agent, main).map_err(|error| bad(error.to_string()))?;
        let agent = Rc::new(agent);
        if self.supervisor.find(name).is_some() {
            let there = format!("there is a unit `{name}` already");
            return Err(Failure::new(FailureKind::WrongState, there));
        }
        // It has to be known before it is started, which may be at once.
        let number = self.units.add(&self.shared, name, Rc::clone(&agent));
        let added = self.request(supervise::Event::Add { number, name: name.clone(), agent });
        if added.is_err() {
            self.units.forget(&self.children, &self.shared, UnitId::Further(number));
        }
        added
    }

    fn remove_agent(&mut self, name: &str, force: bool) -> Result<oneshot::Receiver<()>, Failure> {
        let unit = self.find(name)?;
        let (tell, removed) = oneshot::channel();
        // Waits before it is asked for: what has no process is gone at once.
        self.removals.push((unit, tell));
        let asked = self.request(supervise::Event::Remove { unit, force });
        if asked.is_err() {
            self.removals.pop();
        }
        asked.map(|()| removed)
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

    fn exec(&mut self, request: ExecRequest, git: Option<OwnedFd>) -> Result<StartedExec, Failure> {
        if self.stopping {
            return Err(Failure::new(FailureKind::Stopping, "the sandbox is stopping"));
        }
        let id = self.execs.next_id()?;
        let command = commands::shown(&request.argv);
        let shows = git.is_none() && Activity::shows(&request.argv);
        let timeout = request.timeout_ms.map(std::time::Duration::from_millis);
        let (child, ends) = commands::start(&mut self.children, &self.defaults, request, git)?;
        let now = self.clock.now();
        self.register(child, Role::Exec(id, now));
        let exit = self.execs.started(id, child, timeout.map(|timeout| now + timeout));
        if matches!(ends, Ends::Terminal(_)) {
            self.execs.has_terminal(id);
        }
        let pid = pid(child);
        self.shared.activity.exec_started(id, shows);
        self.tell(What::ExecStarted { exec: id, pid, command });
        Ok(StartedExec { id, pid, ends, exit })
    }

    /// What the agent's whole tree has used, daemons of it included.
    fn agent_cpu(&self) -> Option<std::time::Duration> {
        let is_agent = |role: &Role| matches!(role, Role::Unit(UnitId::Agent | UnitId::Further(_)));
        let agents: Vec<_> =
            self.roles.values().filter(|(_, role)| is_agent(role)).map(|(child, _)| *child).collect();
        self.children.cpu(&agents)
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
    pub(super) fn abandoned(&mut self, exec: ExecId) {
        let Ok(child) = self.execs.child(exec) else { return };
        self.execs.will_end(exec, KilledBy::Disconnect, None);
        if self.execs.is_on_terminal(exec) {
            return;
        }
        note(self.children.signal_group(child, Signal::TERM), "ending a command without a client");
    }

    pub(super) fn end_exec(&self, due: Due) {
        let (child, signal) = match due {
            Due::Terminate(child) => (child, Signal::TERM),
            Due::Kill(child) => (child, Signal::KILL),
        };
        note(self.children.kill_tree(child, signal), "ending a command that ran out of time");
    }

    pub(super) fn exec_ended(&mut self, exec: ExecId, started: Instant, exit: children::Exit) {
        self.shared.activity.exec_ended(exec);
        let now = self.clock.now();
        let (how, core_dumped) = match exit {
            children::Exit::Code(code) => (How::Code(code.into()), false),
            children::Exit::Signal { signal, core_dumped } => (How::Signal(signal.number()), core_dumped),
        };
        let signal = if let How::Signal(signal) = how { Some(signal) } else { None };
        let oom = self.ran_out_of_memory(exit);
        let killed_by = self.execs.ended_by(exec, signal).unwrap_or_else(|| match wire::killed_by(how) {
            _ if self.stopping => KilledBy::Stop,
            KilledBy::Unknown if oom => KilledBy::OutOfMemory,
            by => by,
        });
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
}

/// Whoever asked may be gone by now.
fn give<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}

fn bad_signal(number: i32) -> Failure {
    Failure::new(FailureKind::BadRequest, format!("{number} is not a signal"))
}
