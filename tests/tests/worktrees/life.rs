//! A worktree from its making to its removal.

use std::fs;

use agent_tests::{Home, Who, until};
use anyhow::ensure;
use serde_json::Value;

use super::support::{Case, git};

#[test]
fn a_new_branch_and_an_old_one_are_worked_on_beside_the_workspace() -> anyhow::Result<()> {
    for (who, workspace) in Home::everyone().iter().zip(["clone", "bind"].iter().cycle()) {
        let case = Case::start(*who, workspace)?;
        let made = case.add("fix", &["--create"])?;
        ensure!(made.stdout == b"/workspace/.worktrees/fix\n" && made.stderr.is_empty(), "{made}");
        case.add("old", &[])?;
        case.logged("fix", "here: /workspace/.worktrees/fix")?;
        case.logged("old", "here: /workspace/.worktrees/old")?;
        let main = case.0.run(["logs", "box"])?.text();
        ensure!(main.contains("here: /workspace") && !main.contains(".worktrees"), "{main}");

        let listed = case.0.run(["worktree", "list", "box", "--json"])?.success()?.json()?;
        let field = |at: usize, key: &str| listed[at][key].clone();
        ensure!(field(0, "main") == true && field(0, "branch") == "main" && field(0, "path") == "/workspace");
        ensure!(field(1, "branch") == "fix" && field(1, "path") == "/workspace/.worktrees/fix", "{listed:#}");
        ensure!(field(1, "folder") == "present" && field(1, "checked_out") == "fix", "{listed:#}");
        ensure!(listed[2]["session"]["state"] == "running" && field(2, "branch") == "old", "{listed:#}");
        let shown = case.0.run(["worktree", "list", "box"])?.success()?.text();
        ensure!(shown.lines().count() == 4 && shown.lines().nth(1).unwrap().starts_with("main"), "{shown}");

        let status = case.0.status()?;
        ensure!(status["worktrees"][0]["branch"] == "fix", "{status:#}");
        ensure!(status["worktrees"][1]["name"] == "worktree.old" && status["units"] == serde_json::json!([]));
        ensure!(case.0.run(["status", "box"])?.text().contains("worktree fix"));

        // Nothing of it is a change of the workspace.
        ensure!(case.inside("git status --porcelain")?.stdout.is_empty());
        let exec =
            case.0.run(["exec", "box", "--worktree", "fix", "--", "git", "branch", "--show-current"])?;
        ensure!(exec.success()?.text() == "fix");
    }
    Ok(())
}

#[test]
fn a_removed_one_is_gone_with_its_session_and_its_log() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    let script = "(setsid sh -c 'trap \"\" TERM; echo $$ >/tmp/pid; mv /tmp/pid /tmp/daemon; sleep 1000' &); echo up; exec cat";
    case.add("feature/deep", &["--create", "--", "sh", "-c", script])?;
    case.logged("feature/deep", "up")?;
    let daemon =
        until("the daemon", || Ok(Some(case.0.sh("cat /tmp/daemon")?).filter(|out| out.code() == 0)))?;
    let removed = case.worktree("remove", "feature/deep", &[])?.success()?;
    ensure!(removed.stdout == b"feature/deep\n", "{removed}");
    ensure!(case.listed("feature/deep")?.is_none());
    let left = case.0.sh(&format!("kill -0 {}", daemon.text()))?;
    ensure!(left.code() != 0, "what its session had started is there");
    ensure!(case.0.sh("ls -A /workspace/.worktrees")?.text().is_empty(), "folders are left");
    ensure!(
        case.inside("git worktree list | wc -l; git branch --list feature/deep")?.text()
            == "1\n  feature/deep"
    );
    case.0.wait_for("the removal", |event| {
        event["event"] == "unit-removed" && event["unit"] == "worktree.feature..deep"
    })?;
    until("its log to be gone", || {
        let logs = case.0.folder().join("logs");
        let left = fs::read_dir(logs)?
            .flatten()
            .any(|file| file.file_name().to_string_lossy().starts_with("worktree."));
        Ok((!left).then_some(()))
    })?;
    for args in [&["remove", "feature/deep", "box"][..], &["remove", "nothing", "box"]] {
        let again = case.0.run([&["worktree"], args].concat())?;
        ensure!(again.code() == 1, "{again}");
    }
    // The same name again is another one.
    case.add("feature/deep", &[])?;
    case.logged("feature/deep", "here: /workspace/.worktrees/feature/deep")?;
    ensure!(!case.0.run(["logs", "box", "--worktree", "feature/deep"])?.text().contains("up"));
    Ok(())
}

#[test]
fn what_would_be_lost_is_not_removed_without_force() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    let refused = |case: &Case, why: &str| -> anyhow::Result<()> {
        let output = case.worktree("remove", "fix", &[])?;
        let said = output.errors();
        ensure!(output.code() == 2 && said.contains(why) && said.contains("--force"), "{output}");
        ensure!(
            case.listed("fix")?.is_some_and(|one| one["session"]["pid"].is_u64()),
            "its session was ended"
        );
        Ok(())
    };
    case.add("fix", &["--create"])?;
    case.session("fix", None)?;
    case.inside("echo new >.worktrees/fix/untracked")?;
    refused(&case, "1 file")?;
    case.inside("cd .worktrees/fix; git config status.showUntrackedFiles no; echo two >>file")?;
    refused(&case, "2 files")?;
    case.inside("cd .worktrees/fix; git add .; git commit -qm two; git checkout -q --detach; git commit -q --allow-empty -m lost")?;
    refused(&case, "on no branch")?;
    case.worktree("remove", "fix", &["--force"])?.success()?;
    ensure!(case.inside("git log -1 --format=%s fix")?.text() == "two");
    // Commits that a branch holds are not lost with the folder.
    case.add("fix", &[])?;
    case.inside("cd .worktrees/fix; git commit -q --allow-empty -m three")?;
    case.worktree("remove", "fix", &[])?.success()?;
    ensure!(case.inside("git log -1 --format=%s fix")?.text() == "three");
    Ok(())
}

#[test]
fn what_cannot_be_is_said_with_its_exit_code() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    let said = |args: &[&str], code: i32, words: &str| -> anyhow::Result<()> {
        let output = case.0.run(args)?;
        let text = output.errors();
        ensure!(output.code() == code && text.contains(words), "{args:?}: {output}");
        Ok(())
    };
    said(&["worktree", "add", "nothing", "box"], 1, "--create")?;
    said(&["worktree", "add", "old", "box", "--create"], 2, "already")?;
    said(&["worktree", "add", "main", "box"], 2, "in use already")?;
    case.add("fix", &["--create"])?;
    said(&["worktree", "add", "fix", "box"], 2, "attach box --worktree fix")?;
    said(&["worktree", "add", "fix/more", "box", "--create"], 2, "within")?;
    for command in ["attach", "restart", "logs"] {
        said(&[command, "box", "--worktree", "nothing"], 1, "worktree list")?;
    }
    said(&["exec", "box", "--worktree", "nothing", "--", "true"], 125, "no worktree")?;
    said(&["worktree", "add", "old", "nobody"], 1, "no sandbox")?;
    // Nothing of all that left a trace.
    ensure!(case.inside("git worktree list | wc -l; ls .worktrees")?.text() == "2\nfix");
    case.0.tell("stop", &[])?.success()?;
    said(&["restart", "box", "--worktree", "fix"], 2, "agent-shim start box")?;
    let listed = case.listed("fix")?.expect("it is listed although it does not run");
    ensure!(listed["session"] == Value::Null && listed["folder"] == "unknown", "{listed:#}");
    Ok(())
}

#[test]
fn a_sandbox_that_does_not_run_has_its_worktrees_made_and_removed_too() -> anyhow::Result<()> {
    for workspace in ["clone", "bind"] {
        let case = Case::start(Who::Myself, workspace)?;
        case.add("fix", &["--create"])?;
        case.session("fix", None)?;
        case.inside("echo new >.worktrees/fix/untracked")?;
        case.0.tell("stop", &[])?.success()?;
        case.add("old", &[])?;
        ensure!(case.worktree("add", "old", &[])?.code() == 2, "there already");
        ensure!(case.worktree("remove", "fix", &[])?.code() == 2, "not committed");
        case.worktree("remove", "fix", &["--force"])?.success()?;
        ensure!(case.0.status()?["state"] == "stopped" && case.listed("fix")?.is_none());
        case.0.tell("start", &[])?.success()?;
        case.session("old", None)?;
        ensure!(case.0.sh("ls -A /workspace/.worktrees")?.text() == "old");
    }
    Ok(())
}

#[test]
fn a_workspace_without_git_or_repository_has_no_worktrees() -> anyhow::Result<()> {
    let sandbox = agent_tests::Sandbox::builder().flags(["--workspace", "bind"]).start()?;
    let output = sandbox.run(["worktree", "add", "x", "box", "--create"])?;
    ensure!(output.code() == 2 && output.errors().contains("no git repository"), "{output}");
    let without = agent_tests::Sandbox::builder()
        .flags(["--workspace", "bind", "-e", "PATH=/nowhere"])
        .command(["/bin/cat"])
        .start()?;
    let output = without.run(["worktree", "add", "x", "box", "--create"])?;
    ensure!(output.code() == 4 && output.errors().contains("no git inside"), "{output}");
    ensure!(without.run(["worktree", "list", "box"])?.success()?.text().contains("/workspace"));
    Ok(())
}

#[test]
fn commits_in_a_worktree_come_home() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.inside("cd .worktrees/fix; echo two >>file; git commit -qam two")?;
    case.0.tell("pull", &[])?.success()?;
    let subject = git(&case.0, case.0.project(), &["log", "-1", "--format=%s", "refs/agents/box/heads/fix"])?;
    ensure!(subject.success()?.text() == "two");
    Ok(())
}

#[test]
fn the_persons_own_git_leaves_a_worktree_of_a_bound_project_alone() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "bind")?;
    case.add("fix", &["--create"])?;
    case.session("fix", None)?;
    // The folder is called otherwise on the host: git would take the worktree for gone.
    git(&case.0, case.0.project(), &["worktree", "prune", "--expire=now"])?.success()?;
    ensure!(git(&case.0, case.0.project(), &["status", "--porcelain"])?.success()?.stdout.is_empty());
    ensure!(case.listed("fix")?.is_some_and(|one| one["folder"] == "present"));
    case.worktree("remove", "fix", &[])?.success()?;
    ensure!(!case.0.project().join(".worktrees/fix").exists());
    Ok(())
}
