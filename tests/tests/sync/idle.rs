//! `--sync auto-idle`: what was done is brought home once the agent is quiet.

use std::{fs, thread::sleep, time::Duration};

use agent_tests::{Home, Who, until};
use anyhow::ensure;

use crate::support::Case;

const IDLE: [&str; 4] = ["--sync", "auto-idle", "--sync-idle", "2s"];

/// That something does not happen shows in time alone: twice what it would take.
const LONG_ENOUGH: Duration = Duration::from_secs(4);

/// Lets the agent be quiet. Not by a command inside, which is a doing.
fn hush(case: &Case) -> anyhow::Result<()> {
    Ok(fs::write(case.sandbox.folder().join("tmp/hush"), "")?)
}

#[test]
fn it_comes_home_once_it_is_quiet_and_not_before() -> anyhow::Result<()> {
    // It says something every so often, until it is told to stop.
    let chatter = "while ! [ -e /tmp/hush ]; do echo working; sleep 0.1; done; exec cat";
    let case = Case::start_with(&IDLE, chatter, &["--snapshot-every", "off"])?;
    let commit = case.inside("git commit -q --allow-empty -m a; git rev-parse HEAD")?.text();
    sleep(LONG_ENOUGH);
    ensure!(case.count("quiet")? == 0, "{:#?}", case.sandbox.events()?);
    ensure!(case.at_home("heads/main")?.is_empty(), "it was not quiet");
    hush(&case)?;
    case.arrives("heads/main", &commit)?;
    case.sandbox.wait_for_event("pulled")?;
    ensure!(case.count("quiet")? == 1);
    // Pulling is no doing of the agent's, or there would be no end of it.
    let pulled = case.count("pulled")?;
    sleep(LONG_ENOUGH);
    ensure!((case.count("quiet")?, case.count("pulled")?) == (1, pulled), "{:#?}", case.sandbox.events()?);
    // And again.
    let commit = case.inside("git commit -q --allow-empty -m b; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &commit)?;
    ensure!(case.sync()?["idle_s"] == 2);
    Ok(())
}

#[test]
fn work_without_a_word_is_not_quiet() -> anyhow::Result<()> {
    // In a session of its own, and nobody's child: it is the agent's all the same.
    let busy = "(setsid sh -c 'while ! [ -e /tmp/hush ]; do :; done' &) ; exec cat";
    let case = Case::start_with(&IDLE, busy, &["--snapshot-every", "off"])?;
    sleep(LONG_ENOUGH);
    ensure!(case.count("quiet")? == 0, "{:#?}", case.sandbox.events()?);
    hush(&case)?;
    case.sandbox.wait_for_event("quiet")?;
    Ok(())
}

#[test]
fn snapshots_are_taken_when_it_is_quiet_and_come_home_with_the_rest() -> anyhow::Result<()> {
    let case = Case::start_with(&IDLE, "exec cat", &["--snapshot-every", "1h"])?;
    case.inside("echo not committed > new")?;
    case.sandbox.wait_for_event("snapshot-taken")?;
    until("the snapshot to come home", || {
        let refs = case.git(&["for-each-ref", "refs/agents/box/snapshots"])?.text();
        Ok((!refs.is_empty()).then_some(()))
    })
}

#[test]
fn nothing_to_bring_home_is_said() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = home.project("plain")?;
    let project = project.to_string_lossy();
    let start =
        |flags: &[&str]| home.run([&["start", "--env", "host"], flags, &[&*project, "--", "cat"]].concat());
    start(&["--sync", "auto-commit"])?.exits(64)?.complains("there is nothing to bring home")?;
    start(&["--sync", "often"])?.exits(64)?;
    start(&["--sync-idle", "0"])?.exits(64)?;
    // Written down once for all projects, it is for those that it can be for.
    home.project("home/.config/agent-shim")?;
    home.file("home/.config/agent-shim/config.toml", b"sync = \"auto-commit\"\n")?;
    start(&[])?.success()?;
    Ok(())
}
