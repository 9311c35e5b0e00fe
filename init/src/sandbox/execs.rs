//! The commands that run, and the exits that nobody has read yet. Decides, and signals nothing itself.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use agent_protocol::{
    exit::{ExitRecord, KilledBy},
    failure::{Failure, FailureKind},
    message::ExecId,
};
use tokio::sync::watch;

use crate::{children::ChildId, supervise::Instant};

/// Commands that run at once.
pub(crate) const MAX_EXECS: usize = 256;

/// Exits kept for `ExecWait`; the oldest is forgotten first.
const KEPT_EXITS: usize = 256;

/// Between asking a command that ran out of time to end and making it.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);

/// A command that runs.
struct Exec {
    child: ChildId,
    exit: watch::Sender<Option<ExitRecord>>,
    ends: Option<End>,
    on_terminal: bool,
}

/// Why a command is going to end.
#[derive(Clone, Copy)]
struct End {
    by: KilledBy,
    signal: Option<i32>,
}

/// What is to be done to a command and everything that it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Ask all of it to end.
    Terminate(ChildId),
    /// Make all of it end.
    Kill(ChildId),
}

/// Every command.
#[derive(Default)]
pub(crate) struct Execs {
    running: BTreeMap<ExecId, Exec>,
    finished: VecDeque<(ExecId, ExitRecord)>,
    /// What has to be done when; its process may be gone by then, its descendants need not be.
    due: BTreeMap<(Instant, ExecId), Due>,
    last: u64,
}

impl Execs {
    /// The number of the next command, if one more may run.
    pub(crate) fn next_id(&mut self) -> Result<ExecId, Failure> {
        if self.running.len() >= MAX_EXECS {
            return Err(Failure::new(FailureKind::Busy, format!("{MAX_EXECS} commands run already")));
        }
        self.last += 1;
        Ok(ExecId(self.last))
    }

    /// A command was executed.
    pub(crate) fn started(
        &mut self,
        id: ExecId,
        child: ChildId,
        deadline: Option<Instant>,
    ) -> watch::Receiver<Option<ExitRecord>> {
        let (exit, told) = watch::channel(None);
        self.running.insert(id, Exec { child, exit, ends: None, on_terminal: false });
        if let Some(deadline) = deadline {
            self.due.insert((deadline, id), Due::Terminate(child));
        }
        told
    }

    /// The command has a terminal of its own, by which it hears that its client has gone.
    pub(crate) fn has_terminal(&mut self, id: ExecId) {
        if let Some(exec) = self.running.get_mut(&id) {
            exec.on_terminal = true;
        }
    }

    /// Whether the command has a terminal of its own.
    pub(crate) fn is_on_terminal(&self, id: ExecId) -> bool {
        self.running.get(&id).is_some_and(|exec| exec.on_terminal)
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// The process of a command that runs.
    pub(crate) fn child(&self, id: ExecId) -> Result<ChildId, Failure> {
        match self.running.get(&id) {
            Some(exec) => Ok(exec.child),
            None if self.finished.iter().any(|(finished, _)| *finished == id) => {
                Err(Failure::new(FailureKind::WrongState, format!("command {} has ended", id.0)))
            }
            None => Err(unknown(id)),
        }
    }

    /// Notes who is about to end a command. The first reason counts, but a client's signal need not be one.
    pub(crate) fn will_end(&mut self, id: ExecId, by: KilledBy, signal: Option<i32>) {
        if let Some(exec) = self.running.get_mut(&id)
            && exec.ends.is_none_or(|end| end.by == KilledBy::Client)
        {
            exec.ends = Some(End { by, signal });
        }
    }

    /// Who ended a command that ended like this, if we know.
    pub(crate) fn ended_by(&self, id: ExecId, signal: Option<i32>) -> Option<KilledBy> {
        let end = self.running.get(&id)?.ends?;
        // A client's SIGUSR1 that was survived explains no later death.
        let explains = end.by != KilledBy::Client || (signal.is_some() && end.signal == signal);
        explains.then_some(end.by)
    }

    /// The command ended: tells whoever waits, and keeps the exit for whoever comes.
    pub(crate) fn finished(&mut self, id: ExecId, exit: ExitRecord) {
        let Some(exec) = self.running.remove(&id) else { return };
        exec.exit.send_replace(Some(exit.clone()));
        if self.finished.len() == KEPT_EXITS {
            self.finished.pop_front();
        }
        self.finished.push_back((id, exit));
        // What ran out of time is killed to the last process, its first one being gone or not.
        self.due.retain(|(_, of), due| *of != id || matches!(due, Due::Kill(_)));
    }

    /// The exit of a command, now or later.
    pub(crate) fn wait(&self, id: ExecId) -> Result<watch::Receiver<Option<ExitRecord>>, Failure> {
        if let Some(exec) = self.running.get(&id) {
            return Ok(exec.exit.subscribe());
        }
        let (_, exit) =
            self.finished.iter().find(|(finished, _)| *finished == id).ok_or_else(|| unknown(id))?;
        Ok(watch::channel(Some(exit.clone())).1)
    }

    /// When [`Execs::due`] has something to say next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// What is to be done by `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, id), what) = entry.remove_entry();
            if let Due::Terminate(child) = what {
                self.will_end(id, KilledBy::Timeout, None);
                self.due.insert((now + TIMEOUT_GRACE, id), Due::Kill(child));
            }
            due.push(what);
        }
        due
    }
}

fn unknown(id: ExecId) -> Failure {
    Failure::new(FailureKind::Unknown, format!("there is no command {}", id.0))
}

#[cfg(test)]
mod tests {
    use agent_protocol::exit::How;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(Duration::from_millis(ms))
    }

    fn child(generation: u64) -> ChildId {
        ChildId::for_test(77, generation)
    }

    fn exit(how: How) -> ExitRecord {
        ExitRecord {
            how,
            core_dumped: false,
            killed_by: KilledBy::Itself,
            limit: None,
            output_truncated: false,
            ran_ms: 1,
            at_unix_ms: 1,
        }
    }

    #[test]
    fn an_exit_is_kept_for_a_late_reader() {
        let mut execs = Execs::default();
        let id = execs.next_id().unwrap();
        let told = execs.started(id, child(7), None);
        execs.finished(id, exit(How::Code(3)));
        assert_eq!(told.borrow().as_ref().unwrap().how, How::Code(3));
        assert_eq!(execs.wait(id).unwrap().borrow().as_ref().unwrap().how, How::Code(3));
        assert_eq!(execs.child(id).unwrap_err().kind, FailureKind::WrongState);
        assert_eq!(execs.wait(ExecId(99)).unwrap_err().kind, FailureKind::Unknown);
    }

    #[test]
    fn the_oldest_exits_are_forgotten() {
        let mut execs = Execs::default();
        for n in 0..=KEPT_EXITS as u64 {
            let id = execs.next_id().unwrap();
            execs.started(id, child(n), None);
            execs.finished(id, exit(How::Code(0)));
        }
        assert_eq!(execs.wait(ExecId(1)).unwrap_err().kind, FailureKind::Unknown);
        assert!(execs.wait(ExecId(2)).is_ok());
    }

    #[test]
    fn no_more_than_the_limit_run_at_once() {
        let mut execs = Execs::default();
        for n in 0..MAX_EXECS as u64 {
            let id = execs.next_id().unwrap();
            execs.started(id, child(n), None);
        }
        assert_eq!(execs.next_id().unwrap_err().kind, FailureKind::Busy);
    }

    #[test]
    fn a_command_out_of_time_is_asked_and_then_killed_even_when_its_first_process_is_gone() {
        let mut execs = Execs::default();
        let id = execs.next_id().unwrap();
        execs.started(id, child(1), Some(at(100)));
        assert_eq!(execs.due(at(99)), []);
        assert_eq!(execs.due(at(100)), [Due::Terminate(child(1))]);
        assert_eq!(execs.ended_by(id, None), Some(KilledBy::Timeout));
        execs.finished(id, exit(How::Code(0)));
        assert_eq!(execs.next_due(), Some(at(2100)));
        assert_eq!(execs.due(at(2100)), [Due::Kill(child(1))]);
        assert_eq!(execs.next_due(), None);
    }

    #[test]
    fn a_command_in_time_is_left_alone() {
        let mut execs = Execs::default();
        let id = execs.next_id().unwrap();
        execs.started(id, child(1), Some(at(100)));
        execs.finished(id, exit(How::Code(0)));
        assert_eq!(execs.next_due(), None);
    }

    #[test]
    fn a_survived_signal_of_the_client_explains_no_later_death() {
        let mut execs = Execs::default();
        let id = execs.next_id().unwrap();
        execs.started(id, child(1), None);
        execs.will_end(id, KilledBy::Client, Some(10));
        assert_eq!(execs.ended_by(id, Some(9)), None);
        assert_eq!(execs.ended_by(id, None), None);
        assert_eq!(execs.ended_by(id, Some(10)), Some(KilledBy::Client));
    }
}
