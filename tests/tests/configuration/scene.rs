//! A person, a project, and what both say.

use std::{fs, path::PathBuf};

use agent_tests::{Home, Output, Pty, Who, finish};
use anyhow::{Context, ensure};
use serde_json::Value;

/// A person with a project.
pub(crate) struct Scene {
    pub(crate) home: Home,
    pub(crate) project: PathBuf,
}

impl Scene {
    pub(crate) fn new(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        home.project("home/.config")?;
        home.project("home/.config/agent-shim")?;
        let project = home.project("project")?;
        Ok(Self { home, project })
    }

    pub(crate) fn with(who: Who, project: &str) -> anyhow::Result<Self> {
        let scene = Self::new(who)?;
        scene.projects(project)?;
        Ok(scene)
    }

    pub(crate) fn projects(&self, text: &str) -> anyhow::Result<PathBuf> {
        self.home.file("project/agent-shim.toml", text.as_bytes())
    }

    pub(crate) fn persons(&self, text: &str) -> anyhow::Result<PathBuf> {
        self.home.file("home/.config/agent-shim/config.toml", text.as_bytes())
    }

    pub(crate) fn run(&self, line: &str) -> anyhow::Result<Output> {
        self.home.run(line.split_whitespace())
    }

    pub(crate) fn with_variable(&self, name: &str, value: &str, line: &str) -> anyhow::Result<Output> {
        let mut shim = self.home.shim(line.split_whitespace());
        shim.env(name, value);
        finish(shim, b"")
    }

    pub(crate) fn start(&self) -> anyhow::Result<Output> {
        self.run("start --name web project")
    }

    pub(crate) fn record(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.home.data().join("agents/web/sandbox.json"))?)?)
    }

    pub(crate) fn exec(&self, script: &str) -> anyhow::Result<String> {
        Ok(self.home.run(["exec", "web", "--", "sh", "-c", script])?.success()?.text())
    }

    pub(crate) fn no_sandbox(&self) -> anyhow::Result<()> {
        let listed = self.run("list --quiet")?.text();
        ensure!(listed.is_empty(), "nothing was made: {listed}");
        Ok(())
    }

    /// A person at a terminal starts the project, and is asked.
    pub(crate) fn asked(&self) -> anyhow::Result<Pty> {
        Pty::spawn(&self.home.shim(["start", "--name", "web", "project"]))
    }
}

/// What one value of `config show --json` is, and which layer said it.
pub(crate) fn shown(output: &Output, key: &str) -> anyhow::Result<(Value, String)> {
    let json = output.json()?;
    let rows = json["settings"].as_array().context("rows")?;
    let row = rows.iter().find(|row| row["key"] == key).with_context(|| format!("{key} in {json}"))?;
    Ok((row["value"].clone(), row["origin"]["layer"].as_str().unwrap_or_default().to_owned()))
}
