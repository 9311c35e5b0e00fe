//! A sandbox with a clone of its own, and what a person does with it.

use std::path::Path;

use agent_tests::{Home, Output, Sandbox, Who};
use serde_json::Value;

/// Someone who commits.
const WHO: [&str; 4] = ["-c", "user.name=Agent", "-c", "user.email=agent@example.org"];

/// Runs git as the person.
pub(crate) fn git(home: &Home, folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = home.command("git", WHO.iter().chain(args));
    command.current_dir(folder).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    agent_tests::finish(command, b"")
}

/// A project with one commit on `main`, and a sandbox with a clone of it.
pub(crate) struct Case {
    pub(crate) sandbox: Sandbox,
}

impl Case {
    pub(crate) fn start(who: Who) -> anyhow::Result<Self> {
        Self::start_as(who, &[], "exec cat")
    }

    pub(crate) fn start_as(who: Who, flags: &[&str], agent: &str) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let project = home.project("project")?;
        git(&home, &project, &["init", "-q", "-b", "main"])?.success()?;
        home.file("project/file", b"one\n")?;
        home.file("project/.gitignore", b"*.o\nout/\n")?;
        git(&home, &project, &["add", "-A"])?.success()?;
        git(&home, &project, &["commit", "-q", "-m", "one"])?.success()?;
        let flags = ["--workspace", "clone"].iter().chain(flags);
        let sandbox = Sandbox::builder().home(home).flags(flags).agent(agent).start()?;
        let case = Self { sandbox };
        case.inside("git config user.name Agent; git config user.email agent@example.org")?;
        Ok(case)
    }

    /// Works inside, as an agent does.
    pub(crate) fn inside(&self, script: &str) -> anyhow::Result<Output> {
        self.sandbox.sh(&format!("set -e; cd /workspace; {script}"))?.success()
    }

    /// `agent-shim snapshot WHAT box ARGS...`
    pub(crate) fn snapshot(&self, what: &str, args: &[&str]) -> anyhow::Result<Output> {
        self.sandbox.run(["snapshot", what, "box"].iter().chain(args))
    }

    /// Takes one, and what is said of its worktrees.
    pub(crate) fn take(&self, args: &[&str]) -> anyhow::Result<Vec<Value>> {
        let args = [&["--json"], args].concat();
        let said = self.snapshot("take", &args)?.success()?.json()?;
        Ok(said["snapshots"].as_array().cloned().unwrap_or_default())
    }
}
