//! A person with sandboxes, and with something on the host that no sandbox may get.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_tests::{Home, Output, Who, finish, until};
use anyhow::{Context, ensure};

/// Where the probe is inside.
pub(crate) const PROBE: &str = "/opt/probe";

/// One person's host.
pub(crate) struct World {
    pub(crate) who: Who,
    pub(crate) home: Home,
    /// The probe on the host.
    pub(crate) probe: PathBuf,
    /// A word that is in files of the host and nowhere else.
    pub(crate) marker: String,
    started: RefCell<Vec<String>>,
}

impl World {
    pub(crate) fn new(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let probe = home.path().join("probe");
        agent_tests::copy_program(Path::new(env!("CARGO_BIN_EXE_probe")), &probe)?;
        fs::set_permissions(&probe, fs::Permissions::from_mode(0o755))?;
        let marker =
            format!("marker-{}", home.path().file_name().context("a name")?.display()).replace('.', "-");
        let world = Self { who, home, probe, marker: marker.replace("as-", ""), started: RefCell::default() };
        world.as_person(
            "mkdir -p home/.ssh other data && echo $0 > home/.ssh/id && echo $0 > other/file",
            &[&world.marker],
        )?;
        Ok(world)
    }

    /// What only the host has, as paths.
    pub(crate) fn private_files(&self) -> Vec<String> {
        let own = ["home/.ssh/id", "other/file", "data/agent-shim/agents"].map(|path| self.at(path));
        own.into_iter().chain(["/etc/shadow", "/root/.ssh", "/var/log", "/boot"].map(str::to_owned)).collect()
    }

    /// A path of the person's.
    pub(crate) fn at(&self, path: &str) -> String {
        self.home.path().join(path).display().to_string()
    }

    /// Runs a shell script on the host as the person, in the folder of all that is theirs.
    pub(crate) fn as_person(&self, script: &str, args: &[&str]) -> anyhow::Result<Output> {
        let words = [&["-c", script], args].concat();
        finish(self.home.command("/bin/sh", words), b"")?.success()
    }

    /// Runs the probe on the host as the person.
    pub(crate) fn outside(&self, args: &[&str]) -> anyhow::Result<Output> {
        finish(self.home.command(&self.probe, args), b"")
    }

    /// Runs the probe in a sandbox.
    pub(crate) fn inside(&self, name: &str, args: &[&str]) -> anyhow::Result<Output> {
        self.home.run(["exec", name, "--", PROBE].iter().chain(args))
    }

    /// Runs a shell script in a sandbox.
    pub(crate) fn sh(&self, name: &str, script: &str) -> anyhow::Result<Output> {
        self.home.run(["exec", name, "--", "sh", "-c", script])
    }

    /// Runs a shell script on the host as the person, on a terminal from script(1).
    pub(crate) fn on_a_terminal(&self, line: &str) -> anyhow::Result<Output> {
        let output = finish(self.home.command("script", ["-qec", line, "/dev/null"]), b"")?.success()?;
        // The end of its own input is typed into the terminal too, which may echo it anywhere.
        let stdout = output.text().replace("^@", "").replace("^D\u{8}\u{8}", "").into_bytes();
        Ok(Output { stdout, ..output })
    }

    /// Starts a sandbox in a project of its own with the probe in it.
    pub(crate) fn start(&self, name: &str, flags: &[&str], agent: &[&str]) -> anyhow::Result<PathBuf> {
        let project = self.home.project(&format!("project-{name}"))?;
        finish(self.start_command(name, &project, flags, agent), b"")?.success()?;
        Ok(project)
    }

    /// The command that does so.
    pub(crate) fn start_command(
        &self,
        name: &str,
        project: &Path,
        flags: &[&str],
        agent: &[&str],
    ) -> Command {
        self.started.borrow_mut().push(name.to_owned());
        let mount = format!("{}:{PROBE}:ro", self.probe.display());
        let mut args: Vec<OsString> =
            ["start", "--name", name, "--env", "host", "--mount", &mount].map(Into::into).into();
        args.extend(flags.iter().map(Into::into));
        args.push(project.into());
        args.push("--".into());
        args.extend(agent.iter().map(Into::into));
        self.home.shim(args)
    }

    /// What `status --json` says, once init has answered it: what was tried may have kept it busy.
    pub(crate) fn status(&self, name: &str) -> anyhow::Result<serde_json::Value> {
        until(&format!("the status of {name}"), || {
            let status = self.home.run(["status", name, "--json"])?.success()?.json()?;
            let busy = status["state"] == "running" && status["init"].is_null();
            Ok((!busy).then_some(status))
        })
    }

    /// Whether the sandbox runs, answers, and never lost PID 1 or its agent.
    pub(crate) fn is_unharmed(&self, name: &str, before: &serde_json::Value) -> anyhow::Result<()> {
        let now = self.status(name)?;
        for field in ["/state", "/started_at", "/starts", "/init/pid", "/agent/pid", "/agent/restarts"] {
            let (before, now) = (before.pointer(field), now.pointer(field));
            ensure!(before.is_some() && before == now, "{field} was {before:?} and is {now:?}");
        }
        ensure!(self.sh(name, "echo fine")?.success()?.text() == "fine", "it does not answer");
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in self.started.borrow().iter() {
            if let Err(error) = self.home.run(["destroy", "--force", name]) {
                eprintln!("destroying {name}: {error:#}");
            }
        }
    }
}

/// A word as the probe takes it when it is to look for it: not itself a place where it is found.
pub(crate) fn backwards(word: &str) -> String {
    word.chars().rev().collect()
}
