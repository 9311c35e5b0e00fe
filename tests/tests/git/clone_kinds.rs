//! Every kind of repository that git has, as the project of a clone.

use std::os::unix::fs::MetadataExt;

use agent_tests::{Home, Output, Sandbox, Who};
use anyhow::ensure;

use crate::{
    clone::cloned,
    support::{git, repository},
};

/// A start of this folder, under the name `box`.
fn start(home: &Home, folder: &str, flags: &[&str]) -> anyhow::Result<Output> {
    home.run([&["start", "--name", "box"], flags, &[folder, "--", "cat"]].concat())
}

/// What a command inside says.
fn inside(home: &Home, script: &str) -> anyhow::Result<String> {
    Ok(home.run(["exec", "box", "--", "sh", "-c", script])?.success()?.text())
}

/// Commits inside and looks whether that comes home.
fn commits_come_home(home: &Home, project: &str) -> anyhow::Result<()> {
    inside(
        home,
        "cd /workspace; git config user.name A; git config user.email a@b; git commit -q --allow-empty -m inside",
    )?;
    home.run(["pull", "box"])?.success()?;
    let branch =
        git(home, &home.path().join(project), &["log", "-1", "--format=%s", "refs/agents/box/HEAD"])?;
    ensure!(branch.success()?.text() == "inside");
    inside(home, "cd /workspace; git fsck --strict")?;
    home.run(["destroy", "--force", "box"])?.success()?;
    Ok(())
}

#[test]
fn a_folder_of_a_repository_is_where_the_agent_starts() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let project = repository(&home, "project")?;
        home.project("project/deep/er")?;
        home.file("project/deep/er/file", b"deep")?;
        git(&home, &project, &["add", "-A"])?.success()?;
        git(&home, &project, &["commit", "-qm", "deep"])?.success()?;
        home.project("project/new")?;
        let (place, marker) = ("project/deep/er", "pwd > /tmp/where; cat");
        home.run(["start", "--name", "box", place, "--", "sh", "-c", marker])?.success()?;
        agent_tests::until("the agent to start", || {
            Ok((inside(&home, "cat /tmp/where")? == "/workspace/deep/er").then_some(()))
        })?;
        ensure!(inside(&home, "cat /workspace/file /workspace/deep/er/file")? == "one\ndeep");
        commits_come_home(&home, "project")?;
        // One that git does not know is there all the same.
        home.run(["start", "--name", "box", "project/new", "--", "sh", "-c", marker])?.success()?;
        agent_tests::until("the agent to start", || {
            Ok((inside(&home, "cat /tmp/where")? == "/workspace/new").then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_linked_worktree_gets_its_own_branch() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    git(&home, &project, &["worktree", "add", "-q", "-b", "side", "../side"])?.success()?;
    git(&home, &home.path().join("side"), &["commit", "-q", "--allow-empty", "-m", "side"])?.success()?;
    start(&home, "side", &[])?.success()?.complains("branch `side` at")?;
    ensure!(inside(&home, "cd /workspace; git log --format=%s")? == "side\none");
    commits_come_home(&home, "project")
}

#[test]
fn a_bare_repository() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    repository(&home, "project")?;
    git(&home, home.path(), &["clone", "-q", "--bare", "project", "bare"])?.success()?;
    start(&home, "bare", &[])?.success()?.complains("branch `main` at")?;
    ensure!(inside(&home, "cd /workspace; cat file; git status --porcelain")? == "one");
    commits_come_home(&home, "bare")
}

#[test]
fn without_a_commit_and_without_a_branch() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = home.project("project")?;
    git(&home, &project, &["init", "-q", "-b", "first"])?.success()?;
    start(&home, "project", &[])?.success()?.complains("branch `first`, without a commit yet")?;
    ensure!(inside(&home, "cd /workspace; git symbolic-ref HEAD")? == "refs/heads/first");
    commits_come_home(&home, "project")?;

    let project = repository(&home, "other")?;
    git(&home, &project, &["checkout", "-q", "--detach"])?.success()?;
    start(&home, "other", &[])?.success()?.complains("detached at")?;
    inside(&home, "cd /workspace; ! git symbolic-ref -q HEAD; test -z \"$(git branch --list main)\"")?;
    commits_come_home(&home, "other")?;

    // A branch whose commit is gone is no branch without one.
    let project = repository(&home, "broken")?;
    let commit = git(&home, &project, &["rev-parse", "HEAD"])?.text();
    std::fs::remove_file(project.join(".git/objects").join(&commit[..2]).join(&commit[2..]))?;
    start(&home, "broken", &[])?.exits(3)?.complains("the commit that is checked out cannot be read")?;
    Ok(())
}

#[test]
fn replaced_and_grafted_history_is_cloned_as_it_was() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    for subject in ["two", "three"] {
        git(&home, &project, &["commit", "-q", "--allow-empty", "-m", subject])?.success()?;
    }
    git(&home, &project, &["replace", "HEAD", "HEAD~2"])?.success()?;
    let two = git(&home, &project, &["--no-replace-objects", "rev-parse", "HEAD~1"])?.text();
    home.file("project/.git/info/grafts", format!("{two}\n").as_bytes())?;
    start(&home, "project", &[])?.success()?;
    ensure!(inside(&home, "cd /workspace; git log --format=%s; git fsck --strict")? == "three\ntwo\none");
    Ok(())
}

#[test]
fn objects_that_lie_elsewhere_and_a_shallow_history() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    git(&home, &project, &["commit", "-q", "--allow-empty", "-m", "two"])?.success()?;
    git(&home, home.path(), &["clone", "-q", "--shared", "project", "shared"])?.success()?;
    start(&home, "shared", &[])?.success()?;
    ensure!(
        inside(&home, "cd /workspace; ls .git/objects/info; git fsck --strict; git log --format=%s")?
            == "two\none"
    );
    commits_come_home(&home, "shared")?;
    let url = format!("file://{}", project.display());
    git(&home, home.path(), &["clone", "-q", "--depth", "1", &url, "shallow"])?.success()?;
    start(&home, "shallow", &[])?.success()?;
    ensure!(
        inside(&home, "cd /workspace; git rev-parse --is-shallow-repository; git log --format=%s")?
            == "true\ntwo"
    );
    commits_come_home(&home, "shallow")
}

#[test]
fn other_formats() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    for (name, flag) in [("long", "--object-format=sha256"), ("table", "--ref-format=reftable")] {
        let project = home.project(name)?;
        if git(&home, &project, &["init", "-q", "-b", "main", flag])?.code() != 0 {
            agent_tests::skip(&format!("this git knows no {flag}"));
            continue;
        }
        home.file(&format!("{name}/file"), b"one\n")?;
        git(&home, &project, &["add", "-A"])?.success()?;
        git(&home, &project, &["commit", "-qm", "one"])?.success()?;
        start(&home, name, &[])?.success()?.complains("branch `main` at")?;
        ensure!(
            inside(&home, "cd /workspace; cat file; git status --porcelain; git fsck --strict")? == "one"
        );
        commits_come_home(&home, name)?;
    }
    Ok(())
}

#[test]
fn somebody_elses_repository_is_not_trusted() -> anyhow::Result<()> {
    // Only root can make one for somebody else.
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("only root can give a folder away");
        return Ok(());
    }
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    for path in [project.clone(), project.join(".git")] {
        std::os::unix::fs::chown(path, Some(64_123), None)?;
    }
    std::fs::set_permissions(&project, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let refused = start(&home, "project", &[])?.exits(2)?.complains("git does not trust the repository")?;
    refused.complains("safe.directory")?;
    Ok(())
}

#[test]
fn the_other_way_is_the_folder_itself() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    let (sandbox, told) = cloned(home, &["--workspace", "bind"])?;
    ensure!(!told.errors().contains("clone"), "{told}");
    Sandbox::sh(&sandbox, "echo two > file")?.success()?;
    ensure!(std::fs::read(project.join("file"))? == b"two\n");
    Ok(())
}

#[test]
fn nothing_is_written_to_the_repository_and_the_clone_may_lie_elsewhere() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    let read_only = home.command("chmod", ["-R", "a-w", &project.to_string_lossy()]);
    agent_tests::finish(read_only, b"")?.success()?;
    for flags in [&[][..], &["--all-branches"], &["--depth", "1"], &["--clone-objects", "share"]] {
        start(&home, "project", flags)?.success()?;
        home.run(["destroy", "--force", "box"])?.success()?;
    }
    // On another file system nothing can be moved from the repository to the clone.
    let elsewhere = tempfile::Builder::new().prefix("as-").tempdir_in("/dev/shm")?;
    if elsewhere.path().metadata()?.dev() == project.metadata()?.dev() {
        agent_tests::skip("/dev/shm is no file system of its own here");
        return Ok(());
    }
    std::os::unix::fs::chown(elsewhere.path(), Some(home.uid()), Some(home.uid()))?;
    home.variable("XDG_DATA_HOME", elsewhere.path());
    start(&home, "project", &[])?.success()?;
    ensure!(inside(&home, "cd /workspace; cat file; git fsck --strict")? == "one");
    home.run(["destroy", "--force", "box"])?.success()?;
    agent_tests::finish(home.command("chmod", ["-R", "u+w", &project.to_string_lossy()]), b"")?.success()?;
    Ok(())
}

#[test]
fn a_repository_that_a_folder_only_claims_is_not_cloned() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let secret = repository(&home, "secret")?;
    git(&home, &secret, &["worktree", "add", "-q", "../tree"])?.success()?;
    let refused = |flags: &[&str]| -> anyhow::Result<()> {
        start(&home, "project", flags)?.exits(2)?.complains("which knows nothing of it")?;
        Ok(())
    };
    // An agent that worked in the folder itself can have left any of these.
    let project = home.project("project")?;
    for place in ["../secret/.git", "../secret/.git/worktrees/tree"] {
        home.file("project/.git", format!("gitdir: {place}\n").as_bytes())?;
        refused(&[])?;
    }
    std::fs::remove_file(project.join(".git"))?;
    agent_tests::finish(home.command("ln", ["-s", "../secret/.git", "project/.git"]), b"")?.success()?;
    refused(&[])?;
    std::fs::remove_file(project.join(".git"))?;
    git(&home, &project, &["init", "-q", "-b", "main"])?.success()?;
    home.file("project/.git/commondir", b"../../secret/.git\n")?;
    refused(&["--all-branches"])?;
    std::fs::remove_file(project.join(".git/commondir"))?;
    git(&home, &project, &["config", "core.worktree", &home.path().to_string_lossy()])?.success()?;
    home.run(["start", "--include-dirty", "project", "--", "cat"])?.exits(2)?;
    // Nor objects that are another's.
    git(&home, &project, &["config", "--unset", "core.worktree"])?.success()?;
    git(&home, &project, &["commit", "-q", "--allow-empty", "-m", "own"])?.success()?;
    std::fs::rename(project.join(".git/objects"), project.join(".git/own"))?;
    std::os::unix::fs::symlink("../../secret/.git/objects", project.join(".git/objects"))?;
    for way in ["share", "reflink"] {
        start(&home, "project", &["--clone-objects", way])?.exits(3)?;
    }
    ensure!(home.run(["list", "--json"])?.text() == "[]");

    // A submodule is its own repository, and what is meant is taken.
    let outer = repository(&home, "outer")?;
    let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", "../secret", "sub"];
    git(&home, &outer, &add)?.success()?;
    start(&home, "outer/sub", &[])?.success()?;
    ensure!(inside(&home, "cat /workspace/file")? == "one");
    home.run(["destroy", "--force", "box"])?.success()?;
    let meant = home.project("meant")?;
    home.file("meant/.git", b"gitdir: ../secret/.git\n")?;
    start(&home, "meant", &["--workspace", "clone"])?.success()?;
    ensure!(meant.join(".git").is_file());
    Ok(())
}
