//! One unit: the agent, a step or a service. The same machine for all three.
//!
//! ```text
//!  Waiting --begin--> Starting --started--> Running --told to end--> Stopping
//!                        ^  \                  |                        |
//!                        |   `--spawn failed---+------ exited ----------+
//!                        |                     v
//!                        +---- timer ------ Backoff | Parked | Exited
//! ```
//! Which of the last three it is, is decided in one place, `over`. A person's restart leads from each of
//! them to Starting.

mod over;
mod running;
mod view;

use std::time::Duration;

use agent_protocol::spec::{Readiness, Signal};

use super::backoff::Ladder;
use super::event::{Action, Attempt, ChildId, Instant, Notice, ProbeId, ProbeKind, UnitId};
use super::exit::{Ended, ExitRecord, KilledBy, SpawnError};
use super::outbox::Outbox;
use super::run::{Plan, Run, take_if_due};
use super::status::Change;
use over::HELD;

/// What happens to one unit.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// Its turn has come.
    Begin,
    Started {
        attempt: Attempt,
        child: ChildId,
    },
    SpawnFailed {
        attempt: Attempt,
        error: SpawnError,
    },
    Exited {
        child: ChildId,
        ended: Ended,
        oom: bool,
    },
    FirstOutput {
        child: ChildId,
    },
    Notice {
        child: ChildId,
        notice: Notice,
    },
    ProbeResult {
        probe: ProbeId,
        ok: bool,
    },
    Timer,
    /// A person wants a new run.
    Again,
    /// A person wants it down.
    Hold,
    /// It is to end and to be no more.
    Leave {
        force: bool,
    },
    /// The end has begun: whatever runs goes on for now, but nothing is started any more.
    Last,
    /// The end has come to this unit.
    Halt,
    /// Every process got this signal, its own among them.
    Swept(Signal),
    /// A signal passed on from outside.
    Forward {
        signal: Signal,
        group: bool,
    },
}

#[derive(Debug)]
pub(super) struct Unit {
    id: UnitId,
    plan: Plan,
    state: State,
    since: Instant,
    ladder: Ladder,
    /// The one probe that may exist, from its start until its result.
    probe: Option<Probe>,
    starts: u32,
    /// Nothing is started any more.
    last: bool,
    /// It is forgotten once it is down.
    going: bool,
    been_ready: bool,
    text: Option<String>,
    text_told_at: Option<Instant>,
    last_exit: Option<ExitRecord>,
}

#[derive(Debug)]
enum State {
    Waiting,
    /// Waits for the caller's answer. It has no deadline of its own: spawning is one call of the caller's, and
    /// starting a second process while the first may still appear would make two.
    Starting {
        attempt: Attempt,
        /// What was asked meanwhile.
        then: After,
    },
    Running(Run),
    Stopping(Run, Stopping),
    Backoff {
        until: Instant,
    },
    Parked {
        reason: String,
    },
    Exited,
}

#[derive(Clone, Copy, Debug)]
struct Stopping {
    why: KilledBy,
    then: After,
    hangup_at: Option<Instant>,
    kill_at: Option<Instant>,
    stuck_at: Option<Instant>,
}

/// What follows the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// What the policy says.
    Policy,
    /// A new run, since a person asked.
    Again,
    /// Nothing until a person asks.
    Hold,
    /// Nothing, for ever.
    Halt,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: ProbeId,
    /// The run it asks about.
    attempt: Attempt,
    kind: ProbeKind,
    /// `None`: it was killed, and only its result is awaited. Until then there is no second one, so that commands
    /// that hang in the kernel do not pile up.
    kill_at: Option<Instant>,
}

/// Between the stop signal and SIGHUP on a terminal. A shell ignores SIGTERM there and ends by SIGHUP; a program that
/// handles SIGTERM but not SIGHUP would be dead before it had put its things in order.
const HANGUP_AFTER: Duration = Duration::from_millis(500);

/// A process that is there so long after SIGKILL hangs in the kernel; that is worth saying, once.
const STUCK_AFTER: Duration = Duration::from_secs(5);

impl Unit {
    #[inline(never)] // Rare, and large.
    pub(super) fn new(id: UnitId, plan: Plan) -> Self {
        Self {
            id,
            plan,
            state: State::Waiting,
            since: Instant::default(),
            ladder: Ladder::default(),
            probe: None,
            starts: 0,
            last: false,
            going: false,
            been_ready: false,
            text: None,
            text_told_at: None,
            last_exit: None,
        }
    }

    pub(super) fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        match (&mut self.state, input) {
            (State::Waiting, Input::Begin) => self.start(now, out),
            (State::Starting { attempt, then }, Input::Started { attempt: of, child }) if *attempt == of => {
                let then = *then;
                self.started(now, of, child, then, out);
            }
            (State::Starting { attempt, then }, Input::SpawnFailed { attempt: of, error }) if *attempt == of => {
                let then = *then;
                let ended = Ended::NotStarted(error);
                let record = ExitRecord { ended, killed_by: KilledBy::Itself, at: now, ran: Duration::ZERO };
                self.over(now, &record, then, false, out);
            }
            (State::Running(run), Input::Started { child, .. }) if run.child == child => {}
            (State::Stopping(run, _), Input::Started { child, .. }) if run.child == child => {}
            // A process that nobody waits for: it must not live beside the one that somebody does.
            (_, Input::Started { child, .. }) => out.signal(child, Signal::KILL, true),
            (State::Running(run), Input::Exited { child, ended, oom }) if run.child == child => {
                let run = *run;
                self.exited(now, run, ended, oom, None, out);
            }
            (State::Stopping(run, stopping), Input::Exited { child, ended, oom }) if run.child == child => {
                let (run, stopping) = (*run, *stopping);
                self.exited(now, run, ended, oom, Some(stopping), out);
            }
            (State::Running(run), Input::FirstOutput { child }) if run.child == child => {
                if !run.ready && self.plan.readiness == Readiness::FirstOutput {
                    self.become_ready(now, out);
                }
            }
            (State::Running(run), Input::Notice { child, notice }) if run.child == child => {
                self.noticed(now, notice, out);
            }
            (State::Stopping(run, _), Input::Notice { child, notice: Notice::Status(text) }) if run.child == child => {
                self.said(now, &text, out);
            }
            (_, Input::ProbeResult { probe, ok }) => self.probed(now, probe, ok, out),
            (State::Running(_), Input::Timer) => self.run_timer(now, out),
            (State::Stopping(run, stopping), Input::Timer) => {
                if take_if_due(&mut stopping.hangup_at, now) {
                    for signal in [Signal::HUP, Signal::CONT] {
                        run.sent.add(signal);
                        out.signal(run.child, signal, true);
                    }
                }
                if take_if_due(&mut stopping.kill_at, now) {
                    run.sent.add(Signal::KILL);
                    stopping.stuck_at = Some(now + STUCK_AFTER);
                    out.signal(run.child, Signal::KILL, true);
                } else if take_if_due(&mut stopping.stuck_at, now) {
                    out.changed(self.id, Change::Stuck);
                }
            }
            (State::Backoff { until }, Input::Timer) => {
                if *until <= now {
                    self.start(now, out);
                }
            }
            (State::Running(run), Input::Last) => {
                self.last = true;
                // Its health is of no interest any more, only its end.
                run.leaving = true;
                self.kill_probe(out);
            }
            (State::Starting { .. } | State::Stopping(..), Input::Last) => self.last = true,
            (State::Running(_), Input::Again) => self.tell(now, KilledBy::Restart, After::Again, out),
            (State::Running(_), Input::Hold) => self.tell(now, KilledBy::Stop, After::Hold, out),
            (State::Running(_), Input::Halt) => self.tell(now, KilledBy::Stop, After::Halt, out),
            (State::Stopping(_, Stopping { then, .. }), Input::Again) => then.become_unless_halt(After::Again),
            // The process that is about to be there is the new run that was asked for.
            (State::Starting { then, .. }, Input::Again) => {
                then.become_unless_halt(After::Policy);
                self.ladder.forget();
            }
            (State::Starting { then, .. } | State::Stopping(_, Stopping { then, .. }), Input::Hold) => {
                then.become_unless_halt(After::Hold);
            }
            (_, Input::Leave { force }) => self.leave(now, force, out),
            (State::Starting { then, .. } | State::Stopping(_, Stopping { then, .. }), Input::Halt) => {
                *then = After::Halt;
            }
            (State::Backoff { .. } | State::Parked { .. } | State::Exited, Input::Again) => {
                self.ladder.forget();
                self.start(now, out);
            }
            (State::Backoff { .. }, Input::Hold) => self.park(now, HELD.to_owned(), out),
            (State::Backoff { .. }, Input::Last | Input::Halt | Input::Swept(_)) => {
                self.become_state(now, State::Exited);
            }
            (State::Starting { then, .. }, Input::Swept(_)) => *then = After::Halt,
            (State::Running(run), Input::Swept(signal)) => {
                let mut run = *run;
                run.sent.because(KilledBy::Stop);
                run.sent.add(signal);
                let stopping = Stopping::by_sweep();
                self.probe_is_killed();
                self.become_state(now, State::Stopping(run, stopping));
            }
            (State::Stopping(run, stopping), Input::Swept(signal)) => {
                run.sent.add(signal);
                *stopping = Stopping { why: stopping.why, ..Stopping::by_sweep() };
            }
            (State::Running(run) | State::Stopping(run, _), Input::Forward { signal, group }) => {
                run.sent.add(signal);
                out.signal(run.child, signal, group);
            }

            // The turn comes only once.
            (
                State::Starting { .. } | State::Running(_) | State::Stopping(..) | State::Backoff { .. }
                | State::Parked { .. } | State::Exited,
                Input::Begin,
            )
            // An answer, exit or word of an earlier run.
            | (_, Input::SpawnFailed { .. } | Input::Exited { .. } | Input::FirstOutput { .. } | Input::Notice { .. })
            // Nothing is owed here.
            | (State::Waiting | State::Starting { .. } | State::Parked { .. } | State::Exited, Input::Timer)
            // Refused before it comes here, or already as asked.
            | (State::Waiting, Input::Again | Input::Hold)
            | (State::Parked { .. } | State::Exited, Input::Hold)
            | (State::Waiting | State::Parked { .. } | State::Exited, Input::Last | Input::Halt | Input::Swept(_))
            // Nobody there to pass it on to.
            | (
                State::Waiting | State::Starting { .. } | State::Backoff { .. } | State::Parked { .. } | State::Exited,
                Input::Forward { .. },
            ) => {}
        }
    }

    fn start(&mut self, now: Instant, out: &mut Outbox) {
        let attempt = out.new_attempt();
        self.starts = self.starts.saturating_add(1);
        self.text = None;
        self.text_told_at = None;
        out.changed(self.id, Change::Starting { attempt });
        out.push(Action::Start { unit: self.id, attempt });
        self.become_state(now, State::Starting { attempt, then: After::Policy });
    }

    fn started(&mut self, now: Instant, attempt: Attempt, child: ChildId, then: After, out: &mut Outbox) {
        let run = Run { leaving: self.last, ..Run::new(child, attempt, now, &self.plan) };
        self.become_state(now, State::Running(run));
        out.changed(self.id, Change::Started { child });
        match then {
            After::Policy => self.run_timer(now, out),
            After::Again => self.tell(now, KilledBy::Restart, then, out),
            After::Hold | After::Halt => self.tell(now, KilledBy::Stop, then, out),
        }
    }

    /// Tells a running unit to end.
    fn tell(&mut self, now: Instant, why: KilledBy, then: After, out: &mut Outbox) {
        let State::Running(run) = &self.state else { return };
        let mut run = *run;
        self.kill_probe(out);
        let stop = self.plan.stop;
        // A hung program that leaves a core says where it hung.
        let first = if why == KilledBy::Watchdog { Signal::ABRT } else { stop.signal };
        let hangs_up = stop.hangup && why != KilledBy::Watchdog;
        out.changed(self.id, Change::Stopping { why });
        run.sent.because(why);
        // SIGCONT last: a suspended group takes no signal but SIGKILL before it goes on.
        for signal in [first, Signal::CONT] {
            run.sent.add(signal);
            out.signal(run.child, signal, true);
        }
        let stopping = Stopping {
            why,
            then,
            hangup_at: hangs_up.then(|| now + HANGUP_AFTER.min(stop.grace / 2)),
            kill_at: Some(now + stop.grace),
            stuck_at: None,
        };
        self.become_state(now, State::Stopping(run, stopping));
    }

    /// Begins the end of a unit that is to be no more. One that has no process has come to it already.
    fn leave(&mut self, now: Instant, force: bool, out: &mut Outbox) {
        self.last = true;
        self.going = true;
        self.handle(now, Input::Halt, out);
        if let State::Stopping(_, stopping) = &mut self.state
            && force
            && let Some(kill_at) = &mut stopping.kill_at
        {
            *kill_at = now;
            self.handle(now, Input::Timer, out);
        }
    }

    fn become_state(&mut self, now: Instant, state: State) {
        self.state = state;
        self.since = now;
    }
}

impl Stopping {
    /// Told by the sweep at the end, which has its own deadlines.
    fn by_sweep() -> Self {
        Self { why: KilledBy::Stop, then: After::Halt, hangup_at: None, kill_at: None, stuck_at: None }
    }
}

impl After {
    fn become_unless_halt(&mut self, then: Self) {
        if *self != Self::Halt {
            *self = then;
        }
    }
}
