//! The sessions of worktrees: seen, typed to, killed, started anew.

use agent_tests::{Pty, Who, until};
use anyhow::{Context, ensure};

use super::support::Case;

fn attach(case: &Case, args: &[&str]) -> anyhow::Result<Pty> {
    Pty::spawn(&case.0.shim([&["attach", "box"], args].concat()))
}

fn leave(mut person: Pty) -> anyhow::Result<()> {
    person.type_in("\x1dd")?;
    ensure!(person.ended()? == 0);
    Ok(())
}

#[test]
fn each_has_a_terminal_to_attach_to_leave_and_come_back_to() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.add("old", &["--", "sh", "-c", "echo another program; exec cat"])?;
    let fix = attach(&case, &["--worktree", "fix"])?;
    let old = attach(&case, &["--worktree", "old"])?;
    let main = attach(&case, &[])?;
    fix.wait_for("here: /workspace/.worktrees/fix")?;
    old.wait_for("another program")?;
    main.wait_for("here: /workspace")?;
    fix.type_in("for fix\r")?;
    old.type_in("for old\r")?;
    fix.wait_for("for fix")?;
    old.wait_for("for old")?;
    for (person, others) in [(&fix, "for old"), (&old, "for fix"), (&main, "for ")] {
        ensure!(!person.shown().contains(others), "{:?}", person.shown());
    }
    leave(fix)?;
    leave(old)?;
    let again = attach(&case, &["--worktree", "fix"])?;
    again.wait_for("for fix")?;
    leave(again)?;
    leave(main)
}

#[test]
fn a_killed_one_comes_back_and_the_others_go_on() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.add("old", &[])?;
    let (fix, old) = (case.session("fix", None)?, case.session("old", None)?);
    let main = case.0.status()?["agent"]["pid"].clone();
    case.0.sh(&format!("kill -9 {fix}"))?.success()?;
    let second = case.session("fix", Some(fix))?;
    case.0.run(["restart", "box", "--worktree", "fix"])?.success()?;
    case.session("fix", Some(second))?;
    ensure!(case.session("old", None)? == old);
    let status = case.0.status()?;
    ensure!(status["agent"]["pid"] == main && status["agent"]["restarts"] == 0, "{status:#}");
    // And the other way round.
    let fix = case.session("fix", None)?;
    case.0.tell("restart", &[])?.success()?;
    until("another agent", || Ok((case.0.status()?["agent"]["pid"] != main).then_some(())))?;
    ensure!(case.session("fix", None)? == fix && case.session("old", None)? == old);
    Ok(())
}

#[test]
fn all_of_them_come_back_with_the_sandbox() -> anyhow::Result<()> {
    let case = Case::start_with(Who::Myself, "clone", "echo here: $PWD $KEY; exec cat")?;
    case.add("fix", &["--create"])?;
    case.add("feature/x", &["--create", "--", "sh", "-c", "echo another program; exec cat"])?;
    case.logged("feature/x", "another program")?;
    case.0.tell("stop", &[])?.success()?;
    ensure!(case.0.status()?["worktrees"][0]["state"] == "exited");
    case.0.tell("start", &[])?.success()?;
    for branch in ["fix", "feature/x"] {
        case.session(branch, None)?;
    }
    until("both logs to go on", || {
        let log = |branch| Ok::<_, anyhow::Error>(case.0.run(["logs", "box", "--worktree", branch])?.text());
        let twice =
            log("fix")?.matches("here:").count() == 2 && log("feature/x")?.matches("another").count() == 2;
        Ok(twice.then_some(()))
    })?;
    case.0.tell("stop", &[])?.success().map(drop)
}

#[test]
fn a_monitor_that_comes_later_records_them_too() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.logged("fix", "here:")?;
    let monitor = case.0.status()?["monitor"]["pid"].as_i64().context("a monitor")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(monitor.try_into()?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    // Removed and made again while nobody watches, or while the next one comes up.
    case.worktree("remove", "fix", &[])?.success()?;
    case.add("fix", &["--", "sh", "-c", "echo second; exec cat"])?;
    case.logged("fix", "second")?;
    until("the first one's log to be gone", || {
        Ok((!case.0.run(["logs", "box", "--worktree", "fix"])?.text().contains("here:")).then_some(()))
    })?;
    case.logged("fix", "second")
}

#[test]
fn whoever_watches_a_worktree_that_is_removed_is_told() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    let mut person = attach(&case, &["--worktree", "fix"])?;
    person.wait_for("here:")?;
    case.worktree("remove", "fix", &[])?.success()?;
    person.wait_for("its worktree was removed")?;
    ensure!(person.ended()? == 3);
    Ok(())
}

#[test]
fn a_sandbox_that_ends_with_its_agent_ends_whatever_worktrees_do() -> anyhow::Result<()> {
    let case = Case::start_with(Who::Myself, "clone", "until test -e /tmp/end; do sleep 0.05; done; exit 3")?;
    case.0.tell("stop", &[])?.success()?;
    let mut run = case.0.shim(["run", "box"]);
    run.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut run = run.spawn()?;
    until("it to run", || Ok((case.0.status()?["state"] == "running").then_some(())))?;
    case.add("fix", &["--create", "--", "sleep", "1000"])?;
    case.0.sh("touch /tmp/end")?.success()?;
    let ended = run.wait()?;
    ensure!(ended.code() == Some(3), "{ended}");
    Ok(())
}
