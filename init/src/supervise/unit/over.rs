//! The end of a run, and what comes after it.

use agent_protocol::spec::RestartPolicy;

use super::super::backoff::Verdict;
use super::super::event::Instant;
use super::super::exit::{Ended, ExitRecord};
use super::super::outbox::Outbox;
use super::super::run::Run;
use super::super::status::Change;
use super::{After, State, Stopping, Unit};

/// Why a unit is parked that a person stopped.
pub(super) const HELD: &str = "stopped on request";

impl Unit {
    pub(super) fn exited(
        &mut self,
        now: Instant,
        run: Run,
        ended: Ended,
        oom: bool,
        stopping: Option<Stopping>,
        out: &mut Outbox,
    ) {
        let killed_by = run.sent.killed_by(&ended, oom);
        let record = ExitRecord { ended, killed_by, at: now, ran: now.since(run.started_at) };
        self.kill_probe(out);
        let then = stopping.map_or(After::Policy, |stopping| stopping.then);
        self.over(now, &record, then, stopping.is_some(), out);
    }

    /// A run is over, or came to nothing. `told`: it ended because we wanted it to.
    pub(super) fn over(
        &mut self,
        now: Instant,
        record: &ExitRecord,
        then: After,
        told: bool,
        out: &mut Outbox,
    ) {
        out.changed(self.id, Change::Exited(record.clone()));
        self.last_exit = Some(record.clone());
        match if self.last { After::Halt } else { then } {
            After::Halt => self.become_state(now, State::Exited),
            After::Hold => self.park(now, HELD.to_owned(), out),
            After::Again => {
                self.ladder.forget();
                self.start(now, out);
            }
            After::Policy if self.plan.once => {
                if record.ended.is_success() && !told {
                    self.become_state(now, State::Exited);
                    out.changed(self.id, Change::Done);
                } else {
                    self.park(now, record.to_string(), out);
                }
            }
            After::Policy => self.by_policy(now, record, told, out),
        }
    }

    fn by_policy(&mut self, now: Instant, record: &ExitRecord, told: bool, out: &mut Outbox) {
        let failed = told || !record.ended.is_success();
        let policy = self.plan.restart.policy;
        let again = match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => failed,
            RestartPolicy::Never => false,
        };
        if !again {
            self.ladder.forget();
            self.become_state(now, State::Exited);
            return;
        }
        // What is not there will not be there in 100 ms either. Under `always` it may be: whoever writes that
        // wants it tried again, for a program that is yet to be installed.
        if let Ended::NotStarted(error) = &record.ended
            && error.kind.is_permanent()
            && policy != RestartPolicy::Always
        {
            self.park(now, error.to_string(), out);
            return;
        }
        match self.ladder.ended(now, record.ran, &self.plan.restart, &mut out.random) {
            Verdict::Wait(delay) => {
                let failures = self.ladder.failures();
                out.changed(self.id, Change::BackingOff { delay, failures });
                self.become_state(now, State::Backoff { until: now + delay });
            }
            Verdict::GiveUp { exits, within } => {
                let within = within.as_secs_f64();
                self.park(now, format!("exited {exits} times within {within:.1} s, last: {record}"), out);
            }
        }
    }

    pub(super) fn park(&mut self, now: Instant, reason: String, out: &mut Outbox) {
        out.changed(self.id, Change::Parked { reason: reason.clone() });
        self.become_state(now, State::Parked { reason });
    }
}
