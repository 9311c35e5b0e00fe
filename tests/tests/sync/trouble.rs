//! What goes wrong on the way: it is shown, tried again, and nothing is lost.

use std::fs;

use agent_tests::until;
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Away, Case};

#[test]
fn a_pull_that_fails_is_shown_tried_again_and_goes_well_later() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    case.sandbox.wait_for_event("pulled")?;
    let away = Away::take(case.sandbox.project())?;
    let commit = case.inside("git commit -q --allow-empty -m a; git rev-parse HEAD")?.text();
    let failed = case.sandbox.wait_for("a second failure", |event| {
        event["event"] == "pull-failed" && event["times"].as_u64() > Some(1)
    })?;
    ensure!(failed["reason"].as_str().is_some_and(|reason| reason.contains("project")), "{failed}");
    let sync = case.sync()?;
    ensure!(sync["failure"]["next_try"].is_string() && !sync["failure"]["reason"].is_null(), "{sync:#}");
    let shown = case.sandbox.tell("status", &[])?.success()?.text();
    ensure!(shown.contains("pull failed") && shown.contains("tried again at"), "{shown}");
    away.bring_back()?;
    case.arrives("heads/main", &commit)?;
    until("the failure to be forgotten", || Ok(case.sync()?["failure"].is_null().then_some(())))
}

#[test]
fn a_monitor_that_was_killed_loses_nothing() -> anyhow::Result<()> {
    // It commits by itself: a command of ours would bring another monitor.
    let agent = "while ! [ -e /tmp/go ]; do sleep 0.05; done; \
                 git -c user.name=A -c user.email=a@b commit -q --allow-empty -m a; touch /tmp/done; exec cat";
    let case = Case::start_with(&["--sync", "auto-commit"], agent, &["--snapshot-every", "off"])?;
    case.sandbox.wait_for_event("pulled")?;
    let before = case.at_home("heads/main")?;
    let pid = case.sandbox.status()?["monitor"]["pid"].as_i64().context("the monitor's pid")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    let tmp = case.sandbox.folder().join("tmp");
    fs::write(tmp.join("go"), "")?;
    until("the commit", || Ok(tmp.join("done").exists().then_some(())))?;
    ensure!(case.at_home("heads/main")? == before, "nobody was there");
    // The next command of any kind brings a monitor, and that one what was missed.
    case.sandbox.run(["list"])?.success()?;
    until("the commit to be at home", || Ok((case.at_home("heads/main")? != before).then_some(())))?;
    case.sandbox.wait_for_event("monitor-adopted")?;
    let next = case.inside("git commit -q --allow-empty -m b; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &next)
}

#[test]
fn the_refs_of_a_hostile_repository_do_not_upset_init() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    case.sandbox.wait_for_event("pulled")?;
    for evil in [
        "rm -rf .git/refs; mkfifo .git/refs",
        "rm -rf .git/refs; ln -s / .git/refs",
        "rm -rf .git/refs; ln -s /proc/self/fd .git/refs",
        "rm -rf .git; mkfifo .git",
        "rm -rf .git; ln -s .git .git",
        "rm -rf .git; echo 'gitdir: /proc/1/root' > .git",
        "rm -rf .git; mkdir -p .git; chmod 0 .git",
        "chmod 700 .git; rm -rf .git; mkdir -p .git/refs/heads; cd .git/refs/heads; seq 1 5000 | xargs mkdir",
        "rm -rf .git; d=.git/refs/heads; for i in $(seq 1 200); do d=$d/d; done; mkdir -p $d",
        "rm -rf .git",
    ] {
        case.sandbox.sh(&format!("cd /workspace; {evil}"))?.success()?;
        ensure!(case.sandbox.status()?["state"] == "running", "{evil}");
    }
    // It is a repository again, and followed again.
    case.sandbox.sh("cd /workspace; git init -q -b main")?.success()?;
    let commit = case.inside("git commit -q --allow-empty -m a; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &commit)
}
