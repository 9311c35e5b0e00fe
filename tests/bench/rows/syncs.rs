//! The agent's commits coming home by themselves.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};

use super::{Setting, absolute, pulls::fill};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::find,
};

/// Between one commit and the next: each finds everything at rest.
const REST: Duration = Duration::from_millis(700);

/// For one commit to come home.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happens inside, and when it was done.
const COMMIT: &str = "cd /workspace && echo $$ > file && git add file && \
    git -c user.name=A -c user.email=a@b commit -qm x && date +%s%N && git rev-parse HEAD";

/// From a commit inside to its ref at home, with `--sync auto-commit`, in a repository of about 32,000 objects and 100 MB.
pub(super) fn one_commit(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let git = find("git")?;
    let ours = Ours::new(setting.workshop)?;
    fill(&git, ours.project())?;
    let flags = ["--workspace", "clone", "--sync", "auto-commit", "--snapshot-every", "off"];
    ours.start("box", &flags, &["sleep", "100000"])?;
    let home = ours.project().join(".git/refs/agents/box/heads/main");
    let arrives = Contender::repeated("agent-shim", 1, || {
        sleep(REST);
        let (at, commit) = commit(&mut ours.shim(&["exec", "box", "--", "sh", "-c", COMMIT]))?;
        wait_for(&home, &commit)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(now.saturating_sub(at).as_secs_f64() * 1000.0)
    });
    let series = in_turn(setting.rounds(20), vec![arrives])?;
    Ok(vec![Row {
        name: "sync",
        what: "a commit inside, until its ref is at home".to_owned(),
        unit: Unit::Milliseconds,
        series,
        targets: vec![absolute("agent-shim", 200.0)],
    }])
}

fn commit(command: &mut Command) -> anyhow::Result<(Duration, String)> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "committing inside: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    let at = lines.next().and_then(|line| line.parse().ok()).context("the time of the commit")?;
    Ok((Duration::from_nanos(at), lines.next().context("the commit")?.to_owned()))
}

fn wait_for(home: &Path, commit: &str) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while std::fs::read_to_string(home).unwrap_or_default().trim() != commit {
        ensure!(Instant::now() < end, "{commit} did not come home");
        sleep(Duration::from_micros(500));
    }
    Ok(())
}
