//! What an init costs while nothing happens, and how large it is.

use std::{fs, path::PathBuf, thread::sleep, time::Duration};

use anyhow::Context;

use super::{Setting, absolute};
use crate::{
    ours::Ours,
    rounds::single,
    table::{Row, Series, Unit},
    tools::{as_pid_1, find, processes, wait_until},
};

/// How long everything is left alone.
const WINDOW: Duration = Duration::from_secs(3);

/// Who may still be busy with its own start before that.
const COMING_TO_REST: Duration = Duration::from_millis(500);

/// Memory, threads and wake-ups of each init with a program that sleeps; and the sizes of the files.
pub(super) fn rest(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::new(setting.workshop)?;
    ours.start("box", &[], &["sleep", "100000"])?;
    let (init, monitor) = ours.pids("box")?;
    let mut subjects = vec![("ours", Ok(init)), ("ours, monitor on the host", Ok(monitor))];
    let mut guards = Vec::new();
    let inits = [
        ("agent-init -- (as tini)", Ok(agent_tests::agent_init().to_owned())),
        ("tini-static", find("tini-static")),
        ("catatonit", find("catatonit")),
        ("dumb-init (dynamic)", find("dumb-init")),
    ];
    for (who, found) in inits {
        let pid = found.and_then(|path: PathBuf| {
            let guard = as_pid_1(&path, &["--", "sleep", "100000"].map(AsRef::as_ref))?;
            let mut pid = None;
            wait_until(who, || {
                pid = processes::children(guard.pid()).first().copied();
                // Executed, with a child that was executed as well.
                pid.is_some_and(|pid| !processes::children(pid).is_empty())
            })?;
            guards.push(guard);
            pid.context("it has ended")
        });
        subjects.push((who, pid));
    }
    sleep(COMING_TO_REST);
    let before: Vec<_> = subjects.iter().map(|(_, pid)| sleeps(pid)).collect();
    sleep(WINDOW);
    let each = |measure: fn(i32) -> anyhow::Result<i32>| -> anyhow::Result<Vec<Series>> {
        subjects.iter().map(|(who, pid)| single(who, known(pid).and_then(measure).map(f64::from))).collect()
    };
    let wakeups: anyhow::Result<Vec<Series>> = subjects
        .iter()
        .zip(before)
        .map(|((who, pid), before)| {
            single(who, before.and_then(|before| Ok(f64::from(sleeps(pid)? - before))))
        })
        .collect();
    let mut rows = vec![
        Row {
            name: "rest-memory",
            what: "PSS of an init at rest".to_owned(),
            unit: Unit::Kilobytes,
            series: each(processes::pss_kb)?,
            targets: vec![absolute("ours", 1500.0)],
        },
        Row {
            name: "rest-threads",
            what: "threads of an init at rest".to_owned(),
            unit: Unit::Count,
            series: each(processes::threads)?,
            targets: vec![absolute("ours", 1.0)],
        },
        Row {
            name: "rest-wakeups",
            what: format!("wake-ups in {} seconds of rest", WINDOW.as_secs()),
            unit: Unit::Count,
            series: wakeups?,
            targets: vec![absolute("ours", 0.0), absolute("ours, monitor on the host", 0.0)],
        },
    ];
    for guard in &guards {
        processes::children(guard.pid()).into_iter().for_each(processes::end);
    }
    rows.push(sizes()?);
    Ok(rows)
}

fn known(pid: &anyhow::Result<i32>) -> anyhow::Result<i32> {
    pid.as_ref().copied().map_err(|error| anyhow::anyhow!("{error:#}"))
}

fn sleeps(pid: &anyhow::Result<i32>) -> anyhow::Result<i32> {
    known(pid).and_then(processes::sleeps)
}

fn sizes() -> anyhow::Result<Row> {
    let files = [
        ("agent-init", Ok(agent_tests::agent_init().to_owned())),
        ("agent-shim", Ok(agent_tests::agent_shim().to_owned())),
        ("tini-static", find("tini-static")),
        ("catatonit", find("catatonit")),
        ("crun (dynamic)", find("crun")),
    ];
    let series: anyhow::Result<Vec<Series>> = files
        .into_iter()
        .map(|(who, path)| {
            #[allow(clippy::cast_precision_loss)] // Files of this kind are small.
            let size = path.and_then(|path| Ok(fs::metadata(path)?.len() as f64 / 1e3));
            single(who, size)
        })
        .collect();
    Ok(Row {
        name: "size",
        what: "the file on disk, static unless said".to_owned(),
        unit: Unit::Kilobytes,
        series: series?,
        targets: vec![absolute("agent-init", 2500.0)],
    })
}
