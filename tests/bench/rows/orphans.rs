//! Ten thousand processes whose parents went away.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use agent_protocol::message::Stdio;
use anyhow::Context;

use super::{Setting, absolute, against};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    table::{Outcome, Row, Series, Unit},
    tools::{Fifo, as_pid_1, find, millis, processes, wait_until},
};

const COUNT: &str = "10000";

/// How often the living are told from the dead meanwhile.
const LOOK: Duration = Duration::from_millis(2);

/// What one storm showed.
struct Storm {
    took: Duration,
    most_zombies: usize,
    /// From the last orphan to the last one reaped.
    lag: Duration,
}

/// How long they take under each init, how many wait at most to be reaped, and how long execs take meanwhile.
pub(super) fn orphans(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let workshop = setting.workshop;
    let ours = Ours::new(workshop)?;
    let ready = Fifo::new(ours.project())?;
    ours.start("box", &[], &["sleep", "100000"])?;
    let (init, _) = ours.pids("box")?;
    let caller = ours.caller("box");
    let storm_inside = |with_execs: bool| -> anyhow::Result<(Storm, Vec<f64>)> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let execs = scope.spawn(|| {
                let mut times = Vec::new();
                while with_execs && !is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    if caller.exec(&["true"], Stdio::Descriptors).is_ok() {
                        times.push(millis(began.elapsed()));
                    }
                }
                times
            });
            let storm = watch(init, &ready, || {
                caller.exec(&["/workspace/floor", "orphans", COUNT, "/workspace/ready"], Stdio::Detached)?;
                Ok(())
            });
            is_over.store(true, Ordering::Relaxed);
            let times = execs.join().ok().context("the thread that runs execs")?;
            Ok((storm?, times))
        })
    };
    let fifo = ours.project().join("ready");
    let floor = workshop.floor();
    let storm_under = |peer: &Path, separator: &[&str]| -> anyhow::Result<Storm> {
        let mut args: Vec<_> = separator.iter().map(AsRef::as_ref).collect();
        args.extend([floor.as_os_str(), "orphans".as_ref(), COUNT.as_ref(), fifo.as_os_str()]);
        let mut guard = None;
        let mut pid = 0;
        let storm = watch_later(&ready, || {
            let started = guard.insert(as_pid_1(peer, &args)?);
            wait_until("the init", || {
                pid = processes::children(started.pid()).first().copied().unwrap_or(0);
                pid != 0
            })?;
            Ok(pid)
        });
        processes::end(pid);
        storm
    };
    let mut most = Vec::new();
    let mut lags = Vec::new();
    let exec_times = std::cell::RefCell::new(Vec::new());
    let note = std::cell::RefCell::new((&mut most, &mut lags));
    let told = |who: &'static str, storm: Storm| {
        let mut note = note.borrow_mut();
        note.0.push((who, storm.most_zombies));
        note.1.push((who, millis(storm.lag)));
        Ok(vec![millis(storm.took)])
    };
    let peers = ["tini-static", "catatonit", "dumb-init"].map(|name| (name, find(name)));
    let mut contenders = vec![
        Contender::new("sandbox", || told("sandbox", storm_inside(false)?.0)),
        Contender::new("sandbox, execs meanwhile", || {
            let (storm, times) = storm_inside(true)?;
            exec_times.borrow_mut().extend(times);
            told("sandbox, execs meanwhile", storm)
        }),
        Contender::new("agent-init --", || {
            told("agent-init --", storm_under(agent_tests::agent_init(), &["--"])?)
        }),
    ];
    for (name, found) in &peers {
        contenders.push(Contender::if_there(name, found, |path| {
            Contender::new(name, || told(name, storm_under(path, &["--"])?))
        }));
    }
    let took = Row {
        name: "orphans",
        what: format!("{COUNT} double-forked orphans, from the first to the last one reaped"),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(3), contenders)?,
        targets: vec![against("agent-init --", "tini-static", 1.1)],
    };
    let most = Row {
        name: "orphans-unreaped",
        what: "most of them that waited to be reaped, looked at every 2 ms".to_owned(),
        unit: Unit::Count,
        series: gathered(
            most.into_iter().map(|(who, count)| (who, f64::from(u32::try_from(count).unwrap_or(u32::MAX)))),
        ),
        targets: vec![absolute("sandbox", 10.0), absolute("sandbox, execs meanwhile", 10.0)],
    };
    let lags = Row {
        name: "orphans-lag",
        what: "last orphan made to none left".to_owned(),
        unit: Unit::Milliseconds,
        series: gathered(lags.into_iter()),
        targets: vec![absolute("sandbox", 1.0)],
    };
    let execs = Row {
        name: "orphans-exec",
        what: "run `true` inside meanwhile, from an open client".to_owned(),
        unit: Unit::Milliseconds,
        series: gathered(exec_times.into_inner().into_iter().map(|time| ("ours", time))),
        targets: vec![],
    };
    Ok(vec![took, most, lags, execs])
}

fn gathered(values: impl Iterator<Item = (&'static str, f64)>) -> Vec<Series> {
    let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
    for (who, value) in values {
        match all.iter_mut().find(|(known, _)| *known == who) {
            Some((_, values)) => values.push(value),
            None => all.push((who, vec![value])),
        }
    }
    let series = all.into_iter().map(|(who, values)| {
        let mut samples = crate::stats::Samples::default();
        samples.add_round(values);
        Series { who: who.to_owned(), outcome: Outcome::Measured(samples) }
    });
    series.collect()
}

fn watch(init: i32, ready: &Fifo, begin: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Storm> {
    watch_later(ready, || begin().map(|()| init))
}

/// Watches an init that is known once the storm has begun.
fn watch_later(ready: &Fifo, begin: impl FnOnce() -> anyhow::Result<i32>) -> anyhow::Result<Storm> {
    let began = Instant::now();
    let init = begin()?;
    let mut most_zombies = 0;
    while !ready.is_told(LOOK)? {
        most_zombies = most_zombies.max(processes::zombies(init));
    }
    let made = Instant::now();
    wait_until("the last orphan's end", || processes::zombies(init) == 0)?;
    Ok(Storm { took: began.elapsed(), most_zombies, lag: made.elapsed() })
}
