//! A person with a Nix, a package set and a project: all that a sandbox with tools of its own needs.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;

use crate::{Home, Nix, Output, Who, finish};

/// A person who has a Nix, a package set that their sandboxes take packages from, and a project.
pub struct Workshop {
    home: Home,
    nix: Nix,
    project: PathBuf,
}

impl Workshop {
    /// One whose store is shared with other tests. Nothing may be deleted from it. Where there is no Nix, that is said and
    /// counted.
    pub fn new(who: Who) -> anyhow::Result<Option<Self>> {
        let mut home = Home::new(who)?;
        let nix = home.nix()?;
        nix.map(|nix| Self::with(home, nix)).transpose()
    }

    /// One whose store is their own, and empty.
    pub fn private(who: Who) -> anyhow::Result<Option<Self>> {
        let mut home = Home::new(who)?;
        let nix = home.private_nix()?;
        nix.map(|nix| Self::with(home, nix)).transpose()
    }

    /// Runs a test for each kind of person that there can be here, and says for whom it failed.
    pub fn each(test: impl Fn(Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for who in Home::everyone() {
            let Some(workshop) = Self::new(*who)? else { return Ok(()) };
            test(workshop).with_context(|| format!("as {who:?}"))?;
        }
        Ok(())
    }

    fn with(mut home: Home, nix: Nix) -> anyhow::Result<Self> {
        let project = home.project("project")?;
        // As on a machine where nobody said anything: what is empty is not set.
        home.variable("AGENT_SHIM_ENV", "");
        home.variable("AGENT_SHIM_NIX_NIXPKGS", nix.nixpkgs());
        Ok(Self { home, nix, project })
    }

    /// The person, to be changed.
    pub fn home_mut(&mut self) -> &mut Home {
        &mut self.home
    }

    /// Their Nix.
    pub fn nix(&self) -> &Nix {
        &self.nix
    }

    /// Their project.
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// `agent-shim LINE`, in the project's folder.
    pub fn say(&self, line: &str) -> anyhow::Result<Output> {
        let mut shim = self.home.shim(line.split_whitespace());
        shim.current_dir(&self.project);
        finish(shim, b"")
    }

    /// `agent-shim start --name NAME FLAGS . -- cat`: a sandbox that waits to be told what to do. There is nothing but a
    /// shell that every environment has.
    pub fn start(&self, name: &str, flags: &str) -> anyhow::Result<Output> {
        self.say(&format!("start --name {name} {flags} . -- sh -c read"))
    }

    /// Runs a shell script in a sandbox to its end.
    pub fn inside(&self, name: &str, script: &str) -> anyhow::Result<Output> {
        self.home.run(["exec", name, "--", "sh", "-euc", script])
    }

    /// Stops a sandbox.
    pub fn stop(&self, name: &str) -> anyhow::Result<()> {
        self.home.run(["stop", "--force", name])?.success().map(drop)
    }

    /// What is written down about a sandbox.
    pub fn record(&self, name: &str) -> anyhow::Result<Value> {
        let file = self.home.data().join("agents").join(name).join("sandbox.json");
        Ok(serde_json::from_slice(&fs::read(&file).with_context(|| file.display().to_string())?)?)
    }

    /// What `status --json` says.
    pub fn status(&self, name: &str) -> anyhow::Result<Value> {
        self.home.run(["status", name, "--json"])?.success()?.json()
    }

    /// The id of a sandbox's environment.
    pub fn environment(&self, name: &str) -> anyhow::Result<String> {
        let status = self.status(name)?;
        Ok(status["environment_id"].as_str().with_context(|| format!("an id in {status:#}"))?.to_owned())
    }

    /// The names of all sandboxes.
    pub fn sandboxes(&self) -> anyhow::Result<Vec<String>> {
        let agents = self.home.data().join("agents");
        if !agents.exists() {
            return Ok(Vec::new());
        }
        fs::read_dir(agents)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

impl Deref for Workshop {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}
