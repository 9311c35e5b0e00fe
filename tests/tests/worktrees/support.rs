//! A sandbox with a repository.

use std::path::Path;

use agent_tests::{Home, Output, Sandbox, Who, finish, until};
use anyhow::Context;
use serde_json::Value;

/// Says where it is, and then what it is told.
pub(crate) const AGENT: &str = "echo here: $PWD; exec cat";

/// Someone who commits.
const WHO: [&str; 4] = ["-c", "user.name=Agent", "-c", "user.email=agent@example.org"];

/// Runs git as the person.
pub(crate) fn git(home: &Home, folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = home.command("git", WHO.iter().chain(args));
    command.current_dir(folder);
    finish(command, b"")
}

/// A sandbox that works in a repository of one commit on `main`, beside which there is a branch `old`.
pub(crate) struct Case(pub(crate) Sandbox);

impl Case {
    pub(crate) fn start(who: Who, workspace: &str) -> anyhow::Result<Self> {
        Self::start_with(who, workspace, AGENT)
    }

    pub(crate) fn start_with(who: Who, workspace: &str, agent: &str) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let folder = home.project("project")?;
        git(&home, &folder, &["init", "-q", "-b", "main"])?.success()?;
        home.file("project/file", b"one\n")?;
        git(&home, &folder, &["add", "file"])?.success()?;
        git(&home, &folder, &["commit", "-q", "-m", "one"])?.success()?;
        let sandbox = Sandbox::builder().home(home).flags(["--workspace", workspace]).agent(agent).start()?;
        let case = Self(sandbox);
        case.inside("git branch old")?;
        Ok(case)
    }

    /// `agent-shim worktree COMMAND BRANCH box ARGS...`
    pub(crate) fn worktree(&self, command: &str, branch: &str, args: &[&str]) -> anyhow::Result<Output> {
        self.0.run([&["worktree", command, branch, "box"], args].concat())
    }

    pub(crate) fn add(&self, branch: &str, args: &[&str]) -> anyhow::Result<Output> {
        self.worktree("add", branch, args)?.success()
    }

    /// What `list --json` says of one; `None` for one that is not there.
    pub(crate) fn listed(&self, branch: &str) -> anyhow::Result<Option<Value>> {
        let listed = self.0.run(["worktree", "list", "box", "--json"])?.success()?.json()?;
        let all = listed.as_array().context("a list")?;
        Ok(all.iter().find(|one| one["branch"] == branch).cloned())
    }

    /// The process of a worktree's session, once it has one that is not `before`.
    pub(crate) fn session(&self, branch: &str, before: Option<u64>) -> anyhow::Result<u64> {
        until(&format!("the session of {branch}"), || {
            let listed = self.listed(branch)?.context("it is not listed")?;
            Ok(listed["session"]["pid"].as_u64().filter(|pid| Some(*pid) != before))
        })
    }

    /// Waits until the log of a worktree's session has this.
    pub(crate) fn logged(&self, branch: &str, text: &str) -> anyhow::Result<()> {
        until(&format!("`{text}` in the log of {branch}"), || {
            let log = self.0.run(["logs", "box", "--worktree", branch])?.text();
            Ok(log.contains(text).then_some(()))
        })
    }

    /// Works inside, as an agent does.
    pub(crate) fn inside(&self, script: &str) -> anyhow::Result<Output> {
        let script = format!(
            "set -e; cd /workspace; git config user.name Agent; git config user.email agent@example.org; {script}"
        );
        self.0.sh(&script)?.success()
    }
}
