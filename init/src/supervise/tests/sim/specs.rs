//! Random specs, small enough that a few dozen events reach every corner of them.

use agent_protocol::spec::{
    Agent, Backoff, FastFail, Health, InitSpec, OnAgentExit, Readiness, ReadyCommand, Restart, RestartPolicy,
    Service, Shutdown, Step, Stop, Terminal,
};

use super::dice::Dice;

/// Names of further agents; few, so that they meet.
pub(super) const FURTHER: [&str; 3] = ["fix", "try", "x"];

pub(super) fn random_spec(dice: &mut Dice) -> InitSpec {
    let steps = dice.pick(&[0, 0, 1, 2]);
    let services = dice.pick(&[0, 0, 1, 2, 4]);
    let spec = InitSpec {
        agent: (!dice.one_in(15)).then(|| agent(dice)),
        agents: FURTHER[..dice.pick(&[0, 0, 0, 1, 2])]
            .iter()
            .map(|name| (name.to_string(), further(dice)))
            .collect(),
        steps: (0..steps).map(|i| step(dice, i)).collect(),
        services: (0..services).map(|i| service(dice, i)).collect(),
        on_agent_exit: dice.pick(&[OnAgentExit::Stay, OnAgentExit::End]),
        linger_ms: dice.pick(&[0, 300, 5_000]),
        shutdown: Shutdown { total_ms: dice.pick(&[100, 2_000, 20_000]) },
        ..InitSpec::default()
    };
    assert_eq!(spec.validate(), Ok(()));
    spec
}

pub(super) fn further(dice: &mut Dice) -> Agent {
    Agent { terminal: Some(Terminal::default()), ..agent(dice) }
}

fn agent(dice: &mut Dice) -> Agent {
    Agent {
        argv: argv(),
        restart: restart(dice),
        readiness: readiness(dice),
        ready_timeout_ms: dice.pick(&[0, 0, 3_000]),
        health: health(dice),
        watchdog_ms: dice.pick(&[0, 0, 1_000]),
        stop: stop(dice),
        terminal: dice.one_in(2).then(Terminal::default),
        ..Agent::default()
    }
}

fn step(dice: &mut Dice, i: usize) -> Step {
    Step {
        name: format!("step{i}"),
        argv: argv(),
        timeout_ms: dice.pick(&[200, 5_000, 60_000]),
        ..Step::default()
    }
}

fn service(dice: &mut Dice, i: usize) -> Service {
    Service {
        name: format!("service{i}"),
        argv: argv(),
        after: (0..i).filter(|_| dice.one_in(2)).map(|before| format!("service{before}")).collect(),
        restart: restart(dice),
        readiness: readiness(dice),
        ready_timeout_ms: dice.pick(&[0, 3_000, 60_000]),
        health: health(dice),
        watchdog_ms: dice.pick(&[0, 0, 1_000]),
        stop: stop(dice),
        ..Service::default()
    }
}

fn argv() -> Vec<String> {
    vec!["x".to_owned()]
}

fn restart(dice: &mut Dice) -> Restart {
    Restart {
        policy: dice.pick(&[
            RestartPolicy::Always,
            RestartPolicy::OnFailure,
            RestartPolicy::OnFailure,
            RestartPolicy::Never,
        ]),
        backoff: Backoff {
            initial_ms: dice.pick(&[1, 100]),
            max_ms: dice.pick(&[100, 1_000, 30_000]),
            factor: dice.pick(&[1, 2, 10]),
            jitter_percent: dice.pick(&[0, 10, 100]),
        },
        stable_ms: dice.pick(&[0, 500, 10_000]),
        fast_fail: FastFail { count: dice.pick(&[0, 1, 3, 3, 5]), within_ms: dice.pick(&[0, 1_000, 10_000]) },
    }
}

fn readiness(dice: &mut Dice) -> Readiness {
    let command = ReadyCommand { argv: argv(), interval_ms: 250, timeout_ms: 500 };
    match dice.up_to(5) {
        0 | 1 => Readiness::None,
        2 => Readiness::FirstOutput,
        3 => Readiness::Notify,
        4 => Readiness::DelayMs(dice.pick(&[0, 400])),
        _command => Readiness::Command(command),
    }
}

fn health(dice: &mut Dice) -> Option<Health> {
    let start_delay_ms = dice.pick(&[0, 300]);
    let retries = dice.pick(&[1, 2]);
    dice.one_in(3).then(|| Health {
        argv: argv(),
        interval_ms: 700,
        timeout_ms: 200,
        retries,
        start_delay_ms,
    })
}

fn stop(dice: &mut Dice) -> Stop {
    Stop { grace_ms: dice.pick(&[0, 300, 5_000]), ..Stop::default() }
}
