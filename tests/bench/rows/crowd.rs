//! A hundred sandboxes, doing nothing.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{Setting, absolute};
use crate::{
    ours::Ours,
    rounds::single,
    table::{Row, Unit},
    tools::{Fifo, Guard, find, millis, plain_bwrap, processes},
};

const CROWD: usize = 100;

/// How many are started at a time.
const AT_A_TIME: usize = 8;

/// Memory of everything on the host, for each of a hundred.
pub(super) fn hundred(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::new(setting.workshop)?;
    let ready = Fifo::new(ours.project())?;
    let hello = ["/workspace/floor", "hello", "/workspace/ready"];
    let began = Instant::now();
    in_parallel(|number| ours.start(&name(number), &[], &hello).map(drop))?;
    let took = began.elapsed();
    for _ in 0..CROWD {
        ready.wait()?;
    }
    thread::sleep(Duration::from_millis(500));
    let mine = all_of_mine(&ours);
    let began = Instant::now();
    in_parallel(|number| ours.destroy(&name(number)))?;
    let ended = began.elapsed();

    let tini = find("tini-static").or_else(|_| find("tini"));
    let theirs = tini.and_then(|tini| {
        let mut guards = Vec::new();
        for _ in 0..CROWD {
            let mut command = plain_bwrap(ours.project())?;
            command.arg(&tini).arg("--").args(hello);
            guards.push(Guard(command.spawn()?));
            ready.wait()?;
        }
        each(guards.iter().map(Guard::pid).flat_map(processes::tree))
    });
    let count = f64::from(u32::try_from(CROWD)?);
    Ok(vec![
        Row {
            name: "hundred",
            what: "PSS of everything on the host for each of 100 sandboxes at rest, agent included"
                .to_owned(),
            unit: Unit::Kilobytes,
            series: vec![single("ours", mine)?, single("bwrap + tini", theirs)?],
            targets: vec![absolute("ours", 2000.0)],
        },
        Row {
            name: "hundred-time",
            what: format!("each of 100 sandboxes, {AT_A_TIME} at a time"),
            unit: Unit::Milliseconds,
            series: vec![
                single("start", Ok(millis(took) / count))?,
                single("destroy", Ok(millis(ended) / count))?,
            ],
            targets: vec![],
        },
    ])
}

fn name(number: usize) -> String {
    format!("box-{number}")
}

/// Monitor, what it started, and what became an orphan's child on the way.
fn all_of_mine(ours: &Ours) -> anyhow::Result<f64> {
    let mut pids = Vec::new();
    for number in 0..CROWD {
        let (init, monitor) = ours.pids(&name(number))?;
        pids.extend(processes::tree(monitor));
        pids.extend(processes::tree(init));
        // The layer's own process, wherever it hangs.
        let parent = processes::parent(init)?;
        if parent > 1 {
            pids.push(parent);
        }
    }
    pids.sort_unstable();
    pids.dedup();
    each(pids.into_iter())
}

fn each(pids: impl Iterator<Item = i32>) -> anyhow::Result<f64> {
    let mut total = 0;
    for pid in pids {
        total += processes::pss_kb(pid)?;
    }
    Ok(f64::from(total) / f64::from(u32::try_from(CROWD)?))
}

fn in_parallel(act: impl Fn(usize) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= CROWD {
                    return Ok(());
                }
                act(number).with_context(|| name(number))?;
            }
        };
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().ok().context("a worker panicked")?)
    })
}
