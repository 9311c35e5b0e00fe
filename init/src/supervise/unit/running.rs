//! A unit that runs: when it becomes ready, what it says about itself, and whether it still works.

use std::time::Duration;

use agent_protocol::spec::Readiness;

use super::super::event::{Action, Instant, Notice, ProbeId, ProbeKind};
use super::super::exit::KilledBy;
use super::super::outbox::Outbox;
use super::super::run::{Due, take_if_due};
use super::super::status::{Change, one_line};
use super::{After, Probe, State, Unit};

/// How often a `STATUS=` is announced at most, so that a flood does not push other events out.
const STATUS_EVERY: Duration = Duration::from_secs(1);

impl Unit {
    /// Acts on whatever is due of a run.
    pub(super) fn run_timer(&mut self, now: Instant, out: &mut Outbox) {
        if let Some(probe) = &mut self.probe
            && take_if_due(&mut probe.kill_at, now)
        {
            let (id, kind) = (probe.id, probe.kind);
            out.push(Action::KillProbe { unit: self.id, probe: id });
            self.probe_failed(now, kind, out);
        }
        while let State::Running(run) = &mut self.state
            && let Some(due) = run.take_due(now, self.probe.is_none())
        {
            match due {
                Due::Timeout => self.tell(now, KilledBy::Timeout, After::Policy, out),
                Due::WatchdogMissed => self.tell(now, KilledBy::Watchdog, After::Policy, out),
                Due::Ready => self.become_ready(now, out),
                Due::Probe(kind) => self.start_probe(now, kind, out),
            }
        }
    }

    pub(super) fn become_ready(&mut self, now: Instant, out: &mut Outbox) {
        let State::Running(run) = &mut self.state else { return };
        run.become_ready(now, &self.plan);
        self.been_ready = true;
        self.kill_probe(out);
        out.changed(self.id, Change::Ready);
        // A health command without a delay is due at once.
        self.run_timer(now, out);
    }

    pub(super) fn noticed(&mut self, now: Instant, notice: Notice, out: &mut Outbox) {
        let State::Running(run) = &mut self.state else { return };
        match notice {
            Notice::Ready => {
                if !run.ready {
                    self.become_ready(now, out);
                }
            }
            Notice::Watchdog => run.feed_watchdog(now, &self.plan),
            Notice::WatchdogTrigger => self.tell(now, KilledBy::Watchdog, After::Policy, out),
            Notice::Stopping => {
                if !run.leaving {
                    run.leaving = true;
                    out.changed(self.id, Change::Leaving);
                }
            }
            Notice::Status(text) => self.said(now, &text, out),
        }
    }

    pub(super) fn said(&mut self, now: Instant, text: &str, out: &mut Outbox) {
        let text = one_line(text);
        if self.text.as_ref() == Some(&text) {
            return;
        }
        if self.text_told_at.is_none_or(|told| now.since(told) >= STATUS_EVERY) {
            self.text_told_at = Some(now);
            out.changed(self.id, Change::Status { text: text.clone() });
        }
        self.text = Some(text);
    }

    fn start_probe(&mut self, now: Instant, kind: ProbeKind, out: &mut Outbox) {
        let State::Running(run) = &self.state else { return };
        let timeout_ms = match (kind, &self.plan.readiness, &self.plan.health) {
            (ProbeKind::Readiness, Readiness::Command(command), _) => command.timeout_ms,
            (ProbeKind::Health, _, Some(health)) => health.timeout_ms,
            // The plan asks for no such command, so none is ever due.
            (ProbeKind::Readiness | ProbeKind::Health, _, _) => return,
        };
        let id = out.new_probe();
        let kill_at = Some(now + Duration::from_millis(timeout_ms));
        self.probe = Some(Probe { id, attempt: run.attempt, kind, kill_at });
        out.push(Action::StartProbe { unit: self.id, probe: id, kind });
    }

    pub(super) fn probed(&mut self, now: Instant, id: ProbeId, ok: bool, out: &mut Outbox) {
        let Some(probe) = self.probe.take_if(|probe| probe.id == id) else { return };
        let State::Running(run) = &mut self.state else { return };
        if probe.kill_at.is_some() && probe.attempt == run.attempt {
            match (probe.kind, ok, &self.plan.health) {
                (ProbeKind::Readiness, true, _) => self.become_ready(now, out),
                (ProbeKind::Health, true, Some(health)) => {
                    run.unhealthy = 0;
                    run.probe_at = Some(now + Duration::from_millis(health.interval_ms));
                }
                // There is a health command, or it would not have been asked.
                (ProbeKind::Health, true, None) => {}
                (ProbeKind::Readiness | ProbeKind::Health, false, _) => {
                    self.probe_failed(now, probe.kind, out);
                }
            }
        }
        // The next one may have waited for this one to be gone.
        self.run_timer(now, out);
    }

    fn probe_failed(&mut self, now: Instant, kind: ProbeKind, out: &mut Outbox) {
        let State::Running(run) = &mut self.state else { return };
        match (kind, &self.plan.readiness, &self.plan.health) {
            (ProbeKind::Readiness, Readiness::Command(command), _) => {
                run.probe_at = Some(now + Duration::from_millis(command.interval_ms));
            }
            (ProbeKind::Health, _, Some(health)) => {
                run.unhealthy += 1;
                run.probe_at = Some(now + Duration::from_millis(health.interval_ms));
                let (failures, enough) = (run.unhealthy, run.unhealthy >= health.retries);
                out.changed(self.id, Change::Unhealthy { failures });
                if enough {
                    self.tell(now, KilledBy::Health, After::Policy, out);
                }
            }
            // The plan asks for no such command, so none can fail.
            (ProbeKind::Readiness | ProbeKind::Health, _, _) => {}
        }
    }

    pub(super) fn kill_probe(&mut self, out: &mut Outbox) {
        if let Some(probe) = &mut self.probe
            && probe.kill_at.take().is_some()
        {
            out.push(Action::KillProbe { unit: self.id, probe: probe.id });
        }
    }

    pub(super) fn probe_is_killed(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.kill_at = None;
        }
    }
}
