//! Plain git with a sandbox at the other end.

use agent_tests::{Home, Sandbox};
use anyhow::ensure;

use crate::support::{Case, git, repository};

#[test]
fn clone_fetch_and_push_are_those_of_git() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        let home = &case.sandbox;
        case.inside("git checkout -q -b work; echo two >> file; git commit -qam two; git tag -a -m v v1")?;
        let listed = git(home, home.path(), &["ls-remote", "agent::box"])?.success()?;
        for name in ["HEAD", "refs/heads/main", "refs/heads/work", "refs/tags/v1^{}"] {
            ensure!(listed.text().contains(&format!("\t{name}")), "{name} is missing in {listed}");
        }
        git(home, home.path(), &["clone", "-q", "agent::box", "home/new"])?.success()?;
        ensure!(std::fs::read(home.path().join("home/new/file"))? == b"one\ntwo\n");
        case.git(&["fetch", "agent::box", "refs/heads/*:refs/remotes/box/*"])?.success()?;
        let inside = case.inside("git rev-parse work")?.text();
        ensure!(case.at("refs/remotes/box/work")? == inside);

        case.git(&["commit", "-q", "--allow-empty", "-m", "from the host"])?.success()?;
        case.git(&["push", "-q", "agent::box", "HEAD:refs/heads/new"])?.success()?;
        ensure!(case.inside("git rev-parse new")?.text() == case.at("HEAD")?);
        // Onto what the agent has checked out only where nothing of it is lost.
        case.inside("echo mine >> file")?;
        case.git(&["checkout", "-q", "-B", "work", "refs/remotes/box/work"])?.success()?;
        case.git(&["commit", "-q", "--allow-empty", "-m", "more"])?.success()?;
        let refused = case.git(&["push", "agent::box", "HEAD:refs/heads/work"])?.exits(1)?;
        refused.complains("Working directory has unstaged changes")?;
        ensure!(case.inside("git rev-parse work")?.text() == inside);
    }
    Ok(())
}

#[test]
fn repositories_below_the_workspace_have_an_address() -> anyhow::Result<()> {
    let case = Case::start(agent_tests::Who::Ordinary)?;
    case.inside("git worktree add -q .worktrees/x -b x; git init -q -b other nested")?;
    let home = &case.sandbox;
    let listed = |place: &str| git(home, home.path(), &["ls-remote", &format!("agent::box/{place}")]);
    ensure!(listed(".worktrees/x")?.success()?.text().contains("refs/heads/x"));
    ensure!(listed("nested/")?.success()?.text().is_empty());
    listed("missing")?.exits(128)?.complains("missing")?;
    listed("../etc")?.exits(128)?.complains("named from the workspace")?;
    Ok(())
}

#[test]
fn what_cannot_be_reached_is_said_as_git_says_it() -> anyhow::Result<()> {
    let home = Home::new(agent_tests::Who::Ordinary)?;
    let fetch = |home: &Home, from: &str| git(home, home.path(), &["ls-remote", from]);
    fetch(&home, "agent::nobody")?.exits(128)?.complains("fatal: there is no sandbox `nobody`")?;
    repository(&home, "project")?;
    let sandbox = Sandbox::builder().home(home).start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    std::fs::remove_file(sandbox.folder().join("sandbox.json"))?;
    let failed = fetch(&sandbox, "agent::box")?.exits(128)?;
    failed.complains("cannot reach the sandbox `box`")?.complains("is not complete")?;
    Ok(())
}

#[test]
fn a_folder_that_is_no_repository_is_told() -> anyhow::Result<()> {
    let without = Sandbox::builder().start()?;
    git(&without, without.path(), &["ls-remote", "agent::box"])?
        .exits(128)?
        .complains("'/workspace' does not appear to be a git repository")?;
    without.tell("pull", &["--into", "/"])?.exits(2)?;
    Ok(())
}
