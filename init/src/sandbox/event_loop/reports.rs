//! What the loop says of itself: events for those who follow, and the state for those who ask.

use agent_protocol::message::{AgentStatus, Counts, Resources, Status, Usage, What};

use super::{
    super::{shared::AGENT, wire},
    Loop, memory_ran_out, pid,
};
use crate::{
    cgroup::Memory,
    journal::unix_ms,
    supervise::{self, Announcement, Change, UnitId},
    usage,
};

impl Loop {
    pub(super) fn announce(&mut self, announcement: Announcement) {
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
                if matches!(id, UnitId::Agent | UnitId::Further(_)) {
                    self.units.session_ended(id, exit.clone());
                }
                What::UnitExited { unit, exit }
            }
            Change::BackingOff { delay, .. } => What::UnitBackoff { unit, delay_ms: wire::millis(delay) },
            Change::Parked { reason } => What::UnitParked { unit, reason },
            Change::Removed => {
                self.removed(id);
                What::UnitRemoved { unit }
            }
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
    pub(super) fn announce_session_ends(&mut self) {
        while let Some((unit, exit)) = self.units.take_session_end() {
            let status = self.supervisor.status();
            let agent = status.units.iter().find(|status| status.unit == unit);
            // One that was removed is not supervised any more.
            let state = agent.map_or(&supervise::UnitState::Exited, |agent| &agent.state);
            let next = wire::next(state, &status.phase, &self.clock);
            if let Some(session) = self.units.session(&self.shared, unit) {
                session.terminal.borrow_mut().ended(exit, next);
            }
        }
    }

    /// An agent is no more.
    fn removed(&mut self, unit: UnitId) {
        self.announce_session_ends();
        self.truncated.remove(&unit);
        self.units.forget(&self.children, &self.shared, unit);
        for (_, waiting) in self.removals.extract_if(.., |(of, _)| *of == unit) {
            // Whoever asked may be gone by now.
            let _ = waiting.send(());
        }
    }

    pub(super) fn status(&self) -> Status {
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
        let terminal = self.shared.main.terminal.borrow();
        let mut warnings = self.warnings.clone();
        if terminal.pictures_lost() > 0 {
            warnings.push(format!("the picture of the screen was lost {} times", terminal.pictures_lost()));
        }
        if let Some(ended @ 1..) = self.memory.as_ref().map(Memory::all_kills) {
            warnings.push(memory_ran_out(ended));
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
                viewers: u32::try_from(self.shared.viewers()).unwrap_or(u32::MAX),
                execs: u32::try_from(self.execs.len()).unwrap_or(u32::MAX),
                processes: used.processes,
                orphans_reaped: self.children.orphans_reaped(),
            },
            usage: Usage { memory_bytes: used.memory_bytes, cpu_ms: wire::millis(used.cpu) },
            warnings,
        }
    }

    /// Without a cgroup only what /proc tells is known.
    pub(super) fn resources(&self) -> Resources {
        match &self.memory {
            Some(memory) => memory.resources(),
            None => Resources { pids_limit: self.spec.limits.pids, ..Resources::default() },
        }
    }

    pub(super) fn tell(&self, what: What) {
        tracing::info!(?what);
        self.shared.journal.borrow_mut().add(unix_ms(), what);
    }
}
