//! Servers that lie about everything. After each the repository at home is byte for byte what it was, and nothing ran.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use agent_tests::{Home, Output, skip};
use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};

use crate::support::{contents, git, repository};

/// The liar; `evil.py list` names its ways.
const EVIL: &str = include_str!("evil.py");

/// For those who never end: long enough for everybody else, on a slow machine.
const TIME: &str = "20s";

/// For those who say nothing.
const SILENCE: &str = "1s";

struct Liar {
    home: Home,
    repository: PathBuf,
    script: PathBuf,
    canary: PathBuf,
}

impl Liar {
    fn new(home: Home) -> anyhow::Result<Self> {
        let repository = repository(&home, "repository")?;
        let script = home.file("evil.py", EVIL.as_bytes())?;
        let canary = home.path().join("home/canary");
        // The person's own hooks have no part in this either.
        let hook = format!("#!/bin/sh\ntouch {}\n", canary.display());
        for name in ["reference-transaction", "post-checkout", "post-merge"] {
            home.program(&format!("repository/.git/hooks/{name}"), &hook)?;
        }
        Ok(Self { home, repository, script, canary })
    }

    fn pull(&self, how: &str) -> anyhow::Result<Output> {
        let time =
            if how.starts_with("stalls") || how.starts_with("endless-progress") { SILENCE } else { TIME };
        let command =
            format!("CANARY={} exec python3 {} {how}", self.canary.display(), self.script.display());
        let into = self.repository.to_string_lossy();
        let args = [
            "pull",
            "evil",
            "--into",
            &into,
            "--timeout",
            time,
            "--max-size",
            "64M",
            "--upload-pack",
            &command,
        ];
        self.home.run(args)
    }
}

fn has_python() -> bool {
    let found = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !found {
        skip("there is no python3 to lie with");
    }
    found
}

#[test]
fn nothing_that_lies_leaves_a_trace() -> anyhow::Result<()> {
    if !has_python() {
        return Ok(());
    }
    for who in Home::everyone() {
        let liar = Liar::new(Home::new(*who)?)?;
        let list = std::process::Command::new("python3").arg(&liar.script).arg("list").output()?;
        let ways: Vec<String> = String::from_utf8(list.stdout)?.lines().map(str::to_owned).collect();
        ensure!(
            ways.len() >= 80,
            "only {} ways to lie: {}",
            ways.len(),
            String::from_utf8_lossy(&list.stderr)
        );
        let mut before = contents(&liar.repository)?;
        let mut failed = Vec::new();
        for way in &ways {
            let output = liar.pull(way)?;
            eprintln!("{way}: {}", output.errors().lines().collect::<Vec<_>>().join(" | "));
            let after = contents(&liar.repository)?;
            let same = after == before;
            before = after;
            let said = !output.errors().is_empty() && !output.errors().contains(['\x1b', '\x07']);
            if output.code() != 3 || !same || !said || liar.canary.exists() {
                failed.push(format!("{way} (unchanged: {same}): {output}"));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
    }
    Ok(())
}

/// The liar can tell the truth, too: what is refused above is refused for what it is.
#[test]
fn the_truth_from_the_same_mouth_is_taken() -> anyhow::Result<()> {
    if !has_python() {
        return Ok(());
    }
    let liar = Liar::new(Home::new(agent_tests::Who::Ordinary)?)?;
    let shown = liar.pull("good")?.success()?.text();
    ensure!(shown.starts_with("evil: 1 commit,"), "{shown}");
    let found = git(&liar.home, &liar.repository, &["cat-file", "-p", "refs/agents/evil/heads/main:file"])?;
    ensure!(found.success()?.text() == "good");
    git(&liar.home, &liar.repository, &["fsck", "--strict"])?.success()?;
    ensure!(!liar.canary.exists(), "a hook ran");
    Ok(())
}

/// Whoever calls it off gets their terminal back at once, and their repository as it was.
#[test]
fn a_pull_that_is_called_off_leaves_nothing() -> anyhow::Result<()> {
    if !has_python() {
        return Ok(());
    }
    let liar = Liar::new(Home::new(agent_tests::Who::Ordinary)?)?;
    let before = contents(&liar.repository)?;
    let objects = liar.repository.join(".git/objects");
    let quarantine = || -> anyhow::Result<Option<PathBuf>> {
        let mut all = fs::read_dir(&objects)?.flatten().map(|entry| entry.path());
        Ok(all.find(|path| path.to_string_lossy().contains("tmp_objdir-agent-shim")))
    };
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let command = format!("exec python3 {} stalls-in-pack", liar.script.display());
        let into = liar.repository.to_string_lossy().into_owned();
        let args = ["pull", "evil", "--into", &into, "--timeout", "10m", "--upload-pack", &command];
        let mut pull = liar.home.shim(args);
        pull.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pull = pull.spawn()?;
        let until = Instant::now() + agent_tests::deadline();
        while quarantine()?.is_none() {
            ensure!(Instant::now() < until, "nothing came");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = Pid::from_raw(i32::try_from(pull.id())?).context("a process")?;
        rustix::process::kill_process(pid, signal)?;
        ensure!(pull.wait()?.code() == Some(5), "{signal:?}");
        ensure!(contents(&liar.repository)? == before, "{signal:?}: something is left");
    }
    Ok(())
}
