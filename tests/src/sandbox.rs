//! One sandbox of a person's.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    ops::Deref,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    thread,
};

use agent_protocol::Request;
use anyhow::{Context, bail};
use serde_json::Value;

use crate::{Home, Output, Raw, Who, deadline};

/// A sandbox that runs. Destroyed on drop.
pub struct Sandbox {
    home: Home,
    name: String,
    project: PathBuf,
}

/// A sandbox to be.
pub struct Builder {
    who: Who,
    home: Option<Home>,
    flags: Vec<OsString>,
    agent: Vec<OsString>,
}

impl Sandbox {
    /// A sandbox of the tests' own user, with an agent that waits to be told what to do.
    pub fn builder() -> Builder {
        Builder { who: Who::Myself, home: None, flags: Vec::new(), agent: vec!["cat".into()] }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The project's folder on the host.
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// The folder in which the shim keeps it.
    pub fn folder(&self) -> PathBuf {
        self.home.data().join("agents").join(&self.name)
    }

    /// Runs a shell command inside to its end.
    pub fn sh(&self, script: &str) -> anyhow::Result<Output> {
        self.home.run(["exec", &self.name, "--", "sh", "-c", script])
    }

    /// `agent-shim SUBCOMMAND NAME ARGS...`
    pub fn tell(&self, subcommand: &str, args: &[&str]) -> anyhow::Result<Output> {
        self.home.run([subcommand, &self.name].iter().chain(args))
    }

    /// Asks its init for something, without the shim.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Raw> {
        Raw::of(&self.folder(), request)
    }

    /// What `status --json` says.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.home.run(["status", &self.name, "--json"])?.success()?.json()
    }

    /// All events so far.
    pub fn events(&self) -> anyhow::Result<Vec<Value>> {
        let output = self.home.run(["events", &self.name, "--json"])?.success()?;
        output.text().lines().map(|line| serde_json::from_str(line).context("reading an event")).collect()
    }

    /// Waits for the first event, old or new, that `is_it` takes.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut follow = self
            .home
            .shim(["events", &self.name, "--json", "-f"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(follow.stdout.take().context("the events' pipe")?).lines();
        let (tell, told) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let end = std::time::Instant::now() + deadline();
        let found = loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            match told.recv_timeout(left) {
                Ok(line) => {
                    let event: Value = serde_json::from_str(&line).context("reading an event")?;
                    if is_it(&event) {
                        break Some(event);
                    }
                }
                Err(_) => break None,
            }
        };
        follow.kill()?;
        follow.wait()?;
        drop(told);
        let _ = reader.join();
        match found {
            Some(event) => Ok(event),
            None => bail!("gave up waiting for {what}; the events were {:#?}", self.events()?),
        }
    }

    /// Waits for the first event of this name.
    pub fn wait_for_event(&self, name: &str) -> anyhow::Result<Value> {
        self.wait_for(name, |event| event["event"] == name)
    }
}

impl Deref for Sandbox {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.home.run(["destroy", "--force", &self.name]) {
            eprintln!("destroying {}: {error:#}", self.name);
        }
    }
}

impl Builder {
    /// As whom.
    pub fn who(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    /// In this person's folders, rather than in those of a new one.
    pub fn home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// More flags for `start`.
    pub fn flags<I>(mut self, flags: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// The agent, as a shell command.
    pub fn agent(self, script: &str) -> Self {
        self.command(["sh", "-c", script])
    }

    /// The agent, word by word.
    pub fn command<I>(mut self, argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.agent = argv.into_iter().map(Into::into).collect();
        self
    }

    /// Starts it.
    pub fn start(self) -> anyhow::Result<Sandbox> {
        let (sandbox, output) = self.try_start()?;
        output.success()?;
        Ok(sandbox)
    }

    /// Starts it; the output is that of `start`, whatever came of it.
    pub fn try_start(self) -> anyhow::Result<(Sandbox, Output)> {
        let home = self.home.map_or_else(|| Home::new(self.who), Ok)?;
        let project = home.project("project")?;
        let sandbox = Sandbox { home, name: "box".to_owned(), project };
        let mut args: Vec<OsString> = ["start", "--name", "box", "--env", "host"].map(Into::into).into();
        args.extend(self.flags);
        args.push(sandbox.project.clone().into());
        args.push("--".into());
        args.extend(self.agent);
        let output = sandbox.home.run(&args)?;
        Ok((sandbox, output))
    }
}
