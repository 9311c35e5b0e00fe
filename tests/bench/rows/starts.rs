//! From a typed command to a program that runs; and from the end of an agent to the next one.

use std::{ffi::OsStr, path::Path, process::Command, time::Instant};

use super::{Setting, absolute, against, beyond};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    stats::Quantile,
    table::{Against, Row, Target, Unit},
    tools::{Container, Fifo, Guard, find, millis, plain_bwrap, processes},
};

/// Samples of each contender in a round.
const BATCH: usize = 4;

const HELLO: [&str; 3] = ["/workspace/floor", "hello", "/workspace/ready"];

/// From `start`, typed, to its return: the agent runs and init answers.
pub(super) fn start(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::new(setting.workshop)?;
    let project = ours.project();
    let ready = Fifo::new(project)?;
    ours.start("again", &[], &HELLO)?;
    ready.wait()?;
    ours.stop("again")?;
    let container = Container::start(setting.workshop, "run", project, &HELLO);
    if let Ok(container) = &container {
        ready.wait()?;
        container.end();
    }
    let tini = find("tini-static").or_else(|_| find("tini"));
    let plain = |inits: &[&OsStr]| -> anyhow::Result<f64> {
        let mut command = plain_bwrap(project)?;
        command.args(inits).args(HELLO);
        until_hello(&mut command, &ready)
    };
    let contenders = vec![
        Contender::repeated("agent-shim start", BATCH, || {
            let took = ours.start("new", &[], &HELLO)?;
            ready.wait()?;
            ours.destroy("new")?;
            Ok(millis(took))
        }),
        Contender::repeated("agent-shim start, again", BATCH, || {
            let took = ours.start_again("again")?;
            ready.wait()?;
            ours.stop("again")?;
            Ok(millis(took))
        }),
        Contender::if_there("bwrap + tini", &tini, |tini| {
            Contender::repeated("bwrap + tini", BATCH, || plain(&[tini.as_os_str(), "--".as_ref()]))
        }),
        Contender::repeated("bwrap", BATCH, || plain(&[])),
        Contender::if_there("crun run", &container, |container| {
            Contender::repeated("crun run", BATCH, || {
                let began = Instant::now();
                container.rerun()?;
                ready.wait()?;
                let took = began.elapsed();
                container.end();
                Ok(millis(took))
            })
        }),
    ];
    Ok(vec![Row {
        name: "start",
        what: "start a sandbox: command typed to agent executed".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(6), contenders)?,
        targets: vec![
            against("agent-shim start", "bwrap + tini", 2.0),
            against("agent-shim start, again", "bwrap + tini", 2.0),
        ],
    }])
}

fn until_hello(command: &mut Command, ready: &Fifo) -> anyhow::Result<f64> {
    let began = Instant::now();
    let guard = Guard(command.spawn()?);
    ready.wait()?;
    let took = began.elapsed();
    // An init that is killed takes nobody along where it is not PID 1.
    processes::tree(guard.pid()).into_iter().for_each(processes::end);
    Ok(millis(took))
}

/// What an environment of Nix that was built before adds to a start.
pub(super) fn start_nix(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let Some(ours) = Ours::with_nix(setting.workshop)? else { return Ok(Vec::new()) };
    let ready = Fifo::new(ours.project())?;
    let packages = format!("--nixpkgs {} --nix-preset claude", ours.nixpkgs()?.display());
    let tools = [
        ("--env host", "--env host".to_owned()),
        ("--env nix", packages.clone()),
        ("--env nix, --store whole", format!("{packages} --store whole")),
    ];
    let start = |tools: &str| -> anyhow::Result<f64> {
        let took = ours.start_with("new", &tools.split(' ').collect::<Vec<_>>(), &HELLO)?;
        ready.wait()?;
        ours.destroy("new")?;
        Ok(millis(took))
    };
    // The first start builds what the others find.
    tools.iter().try_for_each(|(_, flags)| start(flags).map(drop))?;
    let contenders =
        tools.iter().map(|(name, flags)| Contender::repeated(name, BATCH, || start(flags))).collect();
    Ok(vec![Row {
        name: "start-nix",
        what: "start a sandbox with the tools of a built environment".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(8), contenders)?,
        targets: vec![beyond("--env nix", "--env host", 3.0)],
    }])
}

/// What init itself adds between bubblewrap and the program.
pub(super) fn init_share(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::new(setting.workshop)?;
    let ready = Fifo::new(ours.project())?;
    let fifo = ours.project().join("ready");
    let floor = setting.workshop.floor();
    let tini = find("tini-static").or_else(|_| find("tini"));
    let direct = |init: Option<&Path>| -> anyhow::Result<f64> {
        let mut command = crate::tools::quiet(init.unwrap_or(&floor));
        if init.is_some() {
            command.arg("--").arg(&floor);
        }
        command.arg("hello").arg(&fifo);
        until_hello(&mut command, &ready)
    };
    let contenders = vec![
        Contender::repeated("agent-init", BATCH, || direct(Some(agent_tests::agent_init()))),
        Contender::repeated("no init", BATCH, || direct(None)),
        Contender::if_there("tini", &tini, |tini| Contender::repeated("tini", BATCH, || direct(Some(tini)))),
        Contender::repeated("bwrap", BATCH, || {
            let mut command = plain_bwrap(ours.project())?;
            command.args(HELLO);
            until_hello(&mut command, &ready)
        }),
    ];
    Ok(vec![Row {
        name: "init-share",
        what: "what an init adds to the start of a program, without a sandbox around it".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(10), contenders)?,
        targets: vec![Target {
            ours: "agent-init",
            against: Against::Added { without: "no init", parts_of: "bwrap" },
            at: Quantile::MEDIAN,
            limit: 0.05,
        }],
    }])
}

/// From the end of an agent to the next one, less the backoff that init announced.
pub(super) fn restart(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::new(setting.workshop)?;
    // It ends when it is typed to. Three ends at once would park it, so every one has a sandbox that is new.
    let agent = ["sh", "-c", "read key"];
    let restart = Contender::repeated("ours", 1, || {
        ours.start("box", &["--restart", "always"], &agent)?;
        let took = ours.caller("box").time_restart(b"\n");
        ours.destroy("box")?;
        took
    });
    Ok(vec![Row {
        name: "restart",
        what: "agent ended to next session ready, without the backoff".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(8), vec![restart])?,
        targets: vec![absolute("ours", 10.0)],
    }])
}
