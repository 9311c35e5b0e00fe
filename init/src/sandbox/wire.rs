//! What the supervisor decided, as the host is told.

use agent_protocol::{
    exit::{ExitRecord, How, KilledBy, LimitKind},
    message::{Next, Phase, UnitKind, UnitState, UnitStatus},
};

use super::clock::Clock;
use crate::supervise::{self, Ended, UnitId};

/// The kind of a unit.
pub(super) fn kind(unit: UnitId) -> UnitKind {
    match unit {
        UnitId::Agent | UnitId::Further(_) => UnitKind::Agent,
        UnitId::Step(_) => UnitKind::Step,
        UnitId::Service(_) => UnitKind::Service,
    }
}

/// A finished run.
pub(super) fn exit(record: &supervise::ExitRecord, output_truncated: bool, clock: &Clock) -> ExitRecord {
    let (how, core_dumped) = match &record.ended {
        Ended::Signal { signal, core_dumped } => (How::Signal(signal.number()), *core_dumped),
        Ended::Code(_) | Ended::NotStarted(_) => (How::Code(record.ended.shell_code().into()), false),
    };
    let killed_by = match record.killed_by {
        supervise::KilledBy::Stop => KilledBy::Stop,
        supervise::KilledBy::Restart => KilledBy::Restart,
        supervise::KilledBy::Timeout => KilledBy::Timeout,
        supervise::KilledBy::Watchdog => KilledBy::Watchdog,
        supervise::KilledBy::Health => KilledBy::Health,
        supervise::KilledBy::Limit => KilledBy::Limit,
        supervise::KilledBy::Oom => KilledBy::OutOfMemory,
        supervise::KilledBy::Itself => KilledBy::Itself,
        supervise::KilledBy::Unknown => KilledBy::Unknown,
    };
    ExitRecord {
        how,
        core_dumped,
        killed_by,
        limit: limit(how, killed_by),
        output_truncated,
        ran_ms: millis(record.ran),
        at_unix_ms: clock.unix_ms(record.at),
    }
}

/// Which limit an exit speaks of.
pub(super) fn limit(how: How, killed_by: KilledBy) -> Option<LimitKind> {
    match (killed_by, how) {
        (KilledBy::OutOfMemory, _) => Some(LimitKind::Memory),
        (KilledBy::Limit, How::Signal(libc::SIGXCPU)) => Some(LimitKind::CpuTime),
        (KilledBy::Limit, How::Signal(libc::SIGXFSZ)) => Some(LimitKind::FileSize),
        _ => None,
    }
}

/// Who ended a process that nobody here wanted to end: the signals of its own faults speak for themselves.
pub(super) fn killed_by(how: How) -> KilledBy {
    match how {
        How::Signal(libc::SIGXCPU | libc::SIGXFSZ) => KilledBy::Limit,
        How::Code(_)
        | How::Signal(
            libc::SIGABRT
            | libc::SIGBUS
            | libc::SIGFPE
            | libc::SIGILL
            | libc::SIGPIPE
            | libc::SIGSEGV
            | libc::SIGSYS
            | libc::SIGTRAP,
        ) => KilledBy::Itself,
        How::Signal(_) => KilledBy::Unknown,
    }
}

/// The state of one unit; the caller knows its pid, and whether output of its last run was lost.
pub(super) fn unit(
    unit: &supervise::UnitStatus,
    pid: Option<u32>,
    output_truncated: bool,
    clock: &Clock,
) -> UnitStatus {
    let (state, next_start_ms, reason) = match &unit.state {
        supervise::UnitState::Waiting => (UnitState::Waiting, None, None),
        supervise::UnitState::Starting => (UnitState::Starting, None, None),
        supervise::UnitState::Running if !unit.ready => (UnitState::Starting, None, None),
        supervise::UnitState::Running => (UnitState::Running, None, None),
        supervise::UnitState::Stopping { .. } => (UnitState::Stopping, None, None),
        supervise::UnitState::Backoff { until } => {
            (UnitState::Backoff, Some(millis(until.since(clock.now()))), None)
        }
        supervise::UnitState::Parked { reason } => (UnitState::Parked, None, Some(reason.clone())),
        supervise::UnitState::Exited => (UnitState::Exited, None, None),
    };
    UnitStatus {
        name: unit.name.clone(),
        kind: kind(unit.unit),
        state,
        pid,
        restarts: unit.restarts.into(),
        started_at_unix_ms: pid.is_some().then(|| clock.unix_ms(unit.since)),
        next_start_ms,
        reason,
        status_text: unit.text.clone(),
        last_exit: unit.last_exit.as_ref().map(|last| exit(last, output_truncated, clock)),
    }
}

/// The sandbox as a whole.
pub(super) fn phase(phase: &supervise::Phase) -> Phase {
    match phase {
        supervise::Phase::Setup => Phase::Setup,
        supervise::Phase::SetupFailed { .. } => Phase::SetupFailed,
        supervise::Phase::Up => Phase::Running,
        supervise::Phase::Lingering { .. } | supervise::Phase::Stopping { .. } | supervise::Phase::Off => {
            Phase::Stopping
        }
    }
}

/// What follows the agent's exit, given where it and the whole stand now.
pub(super) fn next(agent: &supervise::UnitState, phase: &supervise::Phase, clock: &Clock) -> Next {
    if matches!(
        phase,
        supervise::Phase::Lingering { .. } | supervise::Phase::Stopping { .. } | supervise::Phase::Off
    ) {
        return Next::End;
    }
    match agent {
        supervise::UnitState::Backoff { until } => {
            Next::Restart { delay_ms: millis(until.since(clock.now())) }
        }
        supervise::UnitState::Waiting
        | supervise::UnitState::Starting
        | supervise::UnitState::Running
        | supervise::UnitState::Stopping { .. } => Next::Restart { delay_ms: 0 },
        supervise::UnitState::Parked { reason } => Next::Parked { reason: reason.clone() },
        supervise::UnitState::Exited => Next::Exited,
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
