//! A sandbox with a clone of a repository, whose work comes home by itself.

use std::{fs, path::Path};

use agent_tests::{Home, Output, Sandbox, Who, until};
use anyhow::ensure;
use serde_json::Value;

/// Someone who commits.
const WHO: [&str; 4] = ["-c", "user.name=Agent", "-c", "user.email=agent@example.org"];

/// The person's repository is the project itself; nobody pulls into it but the monitor.
pub(crate) struct Case {
    pub(crate) sandbox: Sandbox,
}

impl Case {
    /// Starts it with an agent that waits to be told what to do, and without snapshots.
    pub(crate) fn start(flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(flags, "exec cat", &["--snapshot-every", "off"])
    }

    pub(crate) fn start_with(flags: &[&str], agent: &str, snapshots: &[&str]) -> anyhow::Result<Self> {
        let home = Home::new(Who::Ordinary)?;
        let project = home.project("project")?;
        git(&home, &project, &["init", "-q", "-b", "main"])?.success()?;
        home.file("project/file", b"one\n")?;
        git(&home, &project, &["add", "file"])?.success()?;
        git(&home, &project, &["commit", "-q", "-m", "one"])?.success()?;
        let flags = [&["--workspace", "clone"], flags, snapshots].concat();
        Ok(Self { sandbox: Sandbox::builder().home(home).flags(flags).agent(agent).start()? })
    }

    /// Works inside, as an agent does.
    pub(crate) fn inside(&self, script: &str) -> anyhow::Result<Output> {
        let script = format!(
            "set -e; cd /workspace; git config user.name Agent; git config user.email agent@example.org; {script}"
        );
        self.sandbox.sh(&script)?.success()
    }

    pub(crate) fn git(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.sandbox, self.sandbox.project(), args)
    }

    /// What a ref at home points to; nothing where there is none.
    pub(crate) fn at_home(&self, name: &str) -> anyhow::Result<String> {
        Ok(self.git(&["rev-parse", "-q", "--verify", &format!("refs/agents/box/{name}")])?.text())
    }

    /// Waits until a ref at home is what it is inside.
    pub(crate) fn arrives(&self, name: &str, expected: &str) -> anyhow::Result<()> {
        until(&format!("{name} to be {expected}"), || Ok((self.at_home(name)? == expected).then_some(())))
    }

    /// How many events of a name there were.
    pub(crate) fn count(&self, event: &str) -> anyhow::Result<usize> {
        Ok(self.sandbox.events()?.iter().filter(|one| one["event"] == event).count())
    }

    /// What `status` says of it.
    pub(crate) fn sync(&self) -> anyhow::Result<Value> {
        Ok(self.sandbox.status()?["sync"].clone())
    }

    pub(crate) fn fsck(&self) -> anyhow::Result<()> {
        let said = self.git(&["fsck", "--strict"])?.success()?;
        ensure!(!said.text().contains("error"), "{said:?}");
        Ok(())
    }
}

fn git(home: &Home, folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = home.command("git", WHO.iter().chain(args));
    command.current_dir(folder);
    agent_tests::finish(command, b"")
}

/// Moves a folder away, and back when told.
pub(crate) struct Away {
    from: std::path::PathBuf,
    to: std::path::PathBuf,
}

impl Away {
    pub(crate) fn take(folder: &Path) -> anyhow::Result<Self> {
        let to = folder.with_extension("away");
        fs::rename(folder, &to)?;
        Ok(Self { from: folder.to_owned(), to })
    }

    pub(crate) fn bring_back(self) -> anyhow::Result<()> {
        Ok(fs::rename(self.to, self.from)?)
    }
}
