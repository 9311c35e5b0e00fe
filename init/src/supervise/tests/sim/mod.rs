//! Ten thousand random lives in virtual time, judged at every step.
//!
//! A life is a random spec, a world that obeys more or less, and people who interfere. All of it comes from one
//! seed. A life that breaks a law is lived again with a trace, and both are printed; `SEED=n` lives one life and
//! prints it.

mod dice;
mod laws;
mod record;
mod specs;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::super::{Event, Instant, Supervisor};
use super::scene::line;
use dice::Dice;
use laws::Laws;
use specs::random_spec;
use world::World;

const LIVES: u64 = 10_000;
/// At most so many events, and then a stop, so that every life also shows that a stop ends it.
const EVENTS_BEFORE_STOP: u64 = 250;
/// An end has a few dozen events; so many mean that it goes round in circles.
const EVENTS: u32 = 2_000;

/// Why a law was broken.
type Broken = String;

/// Returns early with a broken law.
macro_rules! ensure {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}
use ensure;

type Seen = BTreeMap<&'static str, u64>;

#[test]
fn ten_thousand_lives_break_no_law() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        let (outcome, trace) = retrace(seed);
        println!("{trace}");
        outcome.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        return;
    }
    let seen = std::thread::scope(|scope| {
        // Two halves at once; which seeds there are does not depend on it.
        let halves = [0, LIVES / 2].map(|from| scope.spawn(move || live_all(from..from + LIVES / 2)));
        halves.map(|half| half.join().expect("each life catches its own panics"))
    });
    let mut total = Seen::new();
    for half in seen {
        for (what, count) in half.unwrap_or_else(|report| panic!("{report}")) {
            *total.entry(what).or_default() += count;
        }
    }
    // Laws that nothing puts to the test are worth nothing.
    for what in EVERYTHING {
        let count = total.get(what).copied().unwrap_or_default();
        assert!(count >= 50, "only {count} times in all lives: {what}\n{total:#?}");
    }
}

const EVERYTHING: [&str; 24] = [
    "add refused",
    "added",
    "backoff",
    "force",
    "gone",
    "killed by health",
    "killed by itself",
    "killed by limit",
    "killed by oom",
    "killed by stop",
    "killed by restart",
    "killed by timeout",
    "killed by unknown",
    "killed by watchdog",
    "lingering",
    "parked",
    "parked by the ladder",
    "power off",
    "removed",
    "removed by force",
    "restart refused",
    "setup failed",
    "step done",
    "stuck",
];

fn live_all(seeds: std::ops::Range<u64>) -> Result<Seen, String> {
    let mut total = Seen::new();
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| live(seed, None)));
        match outcome {
            Ok(Ok(seen)) => {
                for (what, count) in seen {
                    *total.entry(what).or_default() += count;
                }
            }
            Ok(Err(broken)) => return Err(report(seed, &broken)),
            Err(_panic) => return Err(report(seed, "it panicked")),
        }
    }
    Ok(total)
}

fn report(seed: u64, broken: &str) -> String {
    let (_, trace) = retrace(seed);
    format!(
        "{trace}\nseed {seed} broke a law: {broken}\nonce more: SEED={seed} cargo test -p agent-init lives"
    )
}

fn retrace(seed: u64) -> (Result<Seen, Broken>, String) {
    let mut trace = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| live(seed, Some(&mut trace))));
    (outcome.unwrap_or_else(|_panic| Err("it panicked".to_owned())), trace)
}

fn live(seed: u64, mut trace: Option<&mut String>) -> Result<Seen, Broken> {
    let mut dice = Dice::new(seed);
    let spec = random_spec(&mut dice);
    if let Some(trace) = &mut trace {
        let _ = writeln!(trace, "{}", spec.to_json());
    }
    let mut supervisor = Supervisor::new(&spec, seed);
    let mut status = supervisor.status();
    let mut world = World::new(dice, status.units.iter().map(|unit| unit.unit).collect());
    let mut laws = Laws::new(&spec);

    let mut now = Instant::default();
    let mut event = Some(Event::Timer);
    let mut interference = now + world.dice.time(10_000);
    let stop_at = world.dice.up_to(EVENTS_BEFORE_STOP);
    for count in 0..EVENTS {
        if let Some(event) = event.take() {
            let actions = supervisor.handle(now, event.clone());
            if let Some(trace) = &mut trace {
                tell(trace, now, &event, &actions);
            }
            let before = std::mem::replace(&mut status, supervisor.status());
            laws.judge(now, &event, &actions, &before, &status)?;
            if laws.off {
                return Ok(laws.seen);
            }
            for action in &actions {
                world.obey(now, action);
            }
        }
        if u64::from(count) == stop_at && laws.end_by.is_none() {
            event = Some(Event::Stop { within: None, force: false });
            continue;
        }
        match world.next() {
            Some(next) if next <= interference => {
                now = now.max(next);
                event = world.happen();
            }
            Some(_) | None => {
                now = now.max(interference);
                interference = now + world.dice.time(60_000) + Duration::from_micros(1);
                event = Some(world.interfere());
            }
        }
    }
    Err(format!("it has not ended after {EVENTS} events"))
}

fn tell(trace: &mut String, now: Instant, event: &Event, actions: &[super::super::Action]) {
    let _ = writeln!(trace, "{now} {event:?}");
    for action in actions {
        let _ = match line(action) {
            Some(line) => writeln!(trace, "    {line}"),
            None => writeln!(trace, "    {action:?}"),
        };
    }
}
