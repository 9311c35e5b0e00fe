//! A cgroup around everything that init starts: bounds that hold, what is used of them, and who goes first when
//! memory runs out.
//!
//! In a machine init makes the group itself and stays out of it. Elsewhere whoever starts init has made one around init
//! and all the rest, and hands over the files that matter here: the file system of cgroups is not there inside.

mod group;
mod pressure;
mod turn;

use std::{io, time::Duration};

use agent_protocol::{message::Resources, spec::Limits};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep_until,
};

pub(crate) use self::{group::Group, turn::Turn};
use self::{
    pressure::{High, Pressure},
    turn::Turns,
};
use crate::{sandbox::Clock, supervise::Instant, sys};

/// How long after a kill of the kernel's the death of a process by SIGKILL counts as one. The kernel counts before it kills,
/// and what has used much memory takes its time to end.
const KILL_SHOWS_WITHIN: Duration = Duration::from_secs(10);

/// The group at work.
pub(crate) struct Memory {
    group: Group,
    limits: Limits,
    pressure: Pressure,
    turns: Turns,
    /// Wakes when the kernel counts something; `None` on what is no real cgroup.
    news: Option<AsyncFd<std::os::fd::OwnedFd>>,
    /// Kills that were told of.
    told: u64,
}

impl Memory {
    /// Takes over a group whose memory is bounded by `limits`. Needs a runtime with I/O.
    pub(crate) fn watch(group: Group, limits: &Limits) -> io::Result<Self> {
        let max_bytes = limits.memory_bytes.unwrap_or(u64::MAX);
        let pressure = Pressure::new(max_bytes, &group.seen()?);
        group.set_high(High::At(pressure.trip_bytes()))?;
        let news = group.events().and_then(|events| sys::watch(events, Interest::PRIORITY));
        let news = news.inspect_err(|error| tracing::warn!(%error, "listening to the cgroup")).ok();
        Ok(Self { group, limits: limits.clone(), pressure, turns: Turns::of_this_process(), news, told: 0 })
    }

    /// Returns when the kernel has counted something.
    pub(crate) async fn news(&self, clock: &Clock) {
        let Some(news) = &self.news else { return std::future::pending().await };
        // What keeps files in memory is at the bound all the time, and that is no news.
        sleep_until(clock.at(self.pressure.quiet_until())).await;
        match news.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }

    /// When to look although nothing is new.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.pressure.next_look()
    }

    /// Looks at what the kernel has counted, and prepares for the worst where it is near.
    pub(crate) fn look(&mut self, now: Instant, mains: &[i32]) {
        let seen = match self.group.seen() {
            Ok(seen) => seen,
            Err(error) => return tracing::warn!(%error, "reading the cgroup"),
        };
        let orders = self.pressure.look(now, &seen);
        if orders.mark {
            self.turns.children_first(&self.group.members(), mains);
        }
        // Last: until then the kernel holds back who wants more.
        if let Some(high) = orders.high
            && let Err(error) = self.group.set_high(high)
        {
            tracing::warn!(%error, "setting where memory is short");
        }
    }

    /// A process of ours was executed.
    pub(crate) fn started(&self, pid: i32, turn: Turn) {
        self.turns.set(pid, turn);
    }

    /// Whether the kernel has ended processes for want of memory just now.
    pub(crate) fn kills(&mut self, now: Instant) -> bool {
        if let Ok(seen) = self.group.seen() {
            self.pressure.count_kills(now, &seen);
        }
        self.pressure.last_kill().is_some_and(|last| now.since(last) <= KILL_SHOWS_WITHIN)
    }

    /// How many processes the kernel has ended for want of memory since this was asked last.
    pub(crate) fn untold_kills(&mut self) -> u64 {
        let new = self.all_kills() - self.told;
        self.told += new;
        new
    }

    /// How many processes the kernel has ended for want of memory.
    pub(crate) fn all_kills(&self) -> u64 {
        self.pressure.kills()
    }

    /// What is used of what may be used.
    pub(crate) fn resources(&self) -> Resources {
        let Limits { pids, memory_bytes, cpus_milli, .. } = self.limits;
        Resources {
            memory_limit_bytes: memory_bytes,
            cpu_limit_milli: cpus_milli,
            pids_limit: pids,
            out_of_memory: Some(self.pressure.kills()),
            ..self.group.used()
        }
    }

    /// What children enter before anything else, where init is not in it itself.
    pub(crate) fn entrance(&self) -> Option<std::rc::Rc<std::fs::File>> {
        self.group.entrance()
    }
}
