//! One run of one unit, from executed to reaped: what it has shown and what it owes by when.

use std::time::Duration;

use agent_protocol::spec::{
    Agent, Health, Readiness, Restart, RestartPolicy, Service, Signal, Step, Stop as StopSpec,
};

use super::event::{Attempt, ChildId, Instant, ProbeKind};
use super::exit::Sent;

/// What the spec says about a unit, without what only the spawner needs.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    /// A step runs once; the others are kept running.
    pub(super) once: bool,
    pub(super) restart: Restart,
    pub(super) readiness: Readiness,
    pub(super) ready_timeout: Option<Duration>,
    /// How long a run may take at all.
    pub(super) timeout: Option<Duration>,
    pub(super) health: Option<Health>,
    pub(super) watchdog: Option<Duration>,
    pub(super) stop: StopPlan,
}

/// How a run is told to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopPlan {
    pub(super) signal: Signal,
    pub(super) hangup: bool,
    pub(super) grace: Duration,
}

/// What a step gets after SIGTERM. The spec has no setting: a step holds no state that a longer one would save.
const STEP_GRACE: Duration = Duration::from_secs(5);

impl Plan {
    pub(super) fn of_step(step: &Step) -> Self {
        Self {
            name: step.name.clone(),
            once: true,
            restart: Restart { policy: RestartPolicy::Never, ..Restart::default() },
            // A step is done, never ready, unless it says so itself.
            readiness: Readiness::Notify,
            ready_timeout: None,
            timeout: Some(Duration::from_millis(step.timeout_ms)),
            health: None,
            watchdog: None,
            stop: StopPlan { signal: Signal::TERM, hangup: false, grace: STEP_GRACE },
        }
    }

    pub(super) fn of_service(service: &Service) -> Self {
        Self {
            name: service.name.clone(),
            once: false,
            restart: service.restart.clone(),
            readiness: service.readiness.clone(),
            ready_timeout: unless_zero(service.ready_timeout_ms),
            timeout: None,
            health: service.health.clone(),
            watchdog: unless_zero(service.watchdog_ms),
            stop: StopPlan::new(&service.stop, false),
        }
    }

    #[inline(never)] // Copies much, in several places, rarely.
    pub(super) fn of_agent(name: &str, agent: &Agent) -> Self {
        Self {
            name: name.to_owned(),
            once: false,
            restart: agent.restart.clone(),
            readiness: agent.readiness.clone(),
            ready_timeout: unless_zero(agent.ready_timeout_ms),
            timeout: None,
            health: agent.health.clone(),
            watchdog: unless_zero(agent.watchdog_ms),
            stop: StopPlan::new(&agent.stop, agent.terminal.is_some()),
        }
    }
}

impl StopPlan {
    fn new(stop: &StopSpec, has_terminal: bool) -> Self {
        Self {
            signal: stop.signal,
            hangup: stop.hangup.unwrap_or(has_terminal),
            grace: Duration::from_millis(stop.grace_ms),
        }
    }
}

fn unless_zero(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// One run. Each `Option<Instant>` is a thing that becomes due; none is left standing once it was acted on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) child: ChildId,
    pub(super) attempt: Attempt,
    pub(super) started_at: Instant,
    pub(super) sent: Sent,
    pub(super) ready: bool,
    /// It said `STOPPING=1`, or the end has begun: health commands would only fail.
    pub(super) leaving: bool,
    /// Failed health commands in a row.
    pub(super) unhealthy: u32,
    /// Ready by the clock.
    pub(super) ready_at: Option<Instant>,
    /// Killed if not ready.
    pub(super) ready_by: Option<Instant>,
    /// Killed if not done.
    pub(super) ends_by: Option<Instant>,
    /// Killed if not heard of.
    pub(super) watchdog_by: Option<Instant>,
    /// The next readiness or health command.
    pub(super) probe_at: Option<Instant>,
}

/// What has become due of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Timeout,
    WatchdogMissed,
    Ready,
    Probe(ProbeKind),
}

impl Run {
    pub(super) fn new(child: ChildId, attempt: Attempt, now: Instant, plan: &Plan) -> Self {
        let mut run = Self {
            child,
            attempt,
            started_at: now,
            sent: Sent::default(),
            ready: false,
            leaving: false,
            unhealthy: 0,
            ready_at: None,
            ready_by: plan.ready_timeout.map(|timeout| now + timeout),
            ends_by: plan.timeout.map(|timeout| now + timeout),
            watchdog_by: None,
            probe_at: None,
        };
        match &plan.readiness {
            Readiness::None => run.ready_at = Some(now),
            Readiness::DelayMs(ms) => run.ready_at = Some(now + Duration::from_millis(*ms)),
            Readiness::Command(_) => run.probe_at = Some(now),
            Readiness::FirstOutput | Readiness::Notify => {}
        }
        run
    }

    /// It is ready: what was owed for that is settled, watchdog and health begin.
    pub(super) fn become_ready(&mut self, now: Instant, plan: &Plan) {
        self.ready = true;
        self.ready_at = None;
        self.ready_by = None;
        self.feed_watchdog(now, plan);
        self.probe_at = plan.health.as_ref().map(|health| now + Duration::from_millis(health.start_delay_ms));
    }

    pub(super) fn feed_watchdog(&mut self, now: Instant, plan: &Plan) {
        self.watchdog_by = plan.watchdog.map(|every| now + every);
    }

    /// What is due, and no longer owed once it was returned.
    pub(super) fn take_due(&mut self, now: Instant, probe_free: bool) -> Option<Due> {
        if take_if_due(&mut self.ends_by, now) {
            Some(Due::Timeout)
        } else if take_if_due(&mut self.ready_at, now) {
            Some(Due::Ready)
        } else if take_if_due(&mut self.ready_by, now) {
            Some(Due::Timeout)
        } else if take_if_due(&mut self.watchdog_by, now) {
            Some(Due::WatchdogMissed)
        } else if probe_free && !self.leaving && take_if_due(&mut self.probe_at, now) {
            Some(Due::Probe(if self.ready { ProbeKind::Health } else { ProbeKind::Readiness }))
        } else {
            None
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&self, probe_free: bool) -> Option<Instant> {
        let probe_at = self.probe_at.filter(|_| probe_free && !self.leaving);
        [self.ends_by, self.ready_by, self.watchdog_by, self.ready_at, probe_at].into_iter().flatten().min()
    }
}

/// Whether that time has come; if so it is forgotten.
pub(super) fn take_if_due(due: &mut Option<Instant>, now: Instant) -> bool {
    due.take_if(|due| *due <= now).is_some()
}
