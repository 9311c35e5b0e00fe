//! What a command left behind: its status and both streams.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use anyhow::{Context, ensure};

/// A finished command.
#[derive(Debug)]
pub struct Output {
    /// The command as a shell would take it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its exit code; 128 + N for signal N.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Standard output as text, without the last line's end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("reading the JSON of {self}"))
    }

    /// Whether its standard error is empty, but for what a machine lacks on this host.
    pub fn is_quiet(&self) -> bool {
        self.errors().lines().all(|line| line.starts_with("note: the machine"))
    }

    /// Itself, if it succeeded.
    pub fn success(self) -> anyhow::Result<Self> {
        self.exits(0)
    }

    /// Itself, if it exited with this code.
    pub fn exits(self, code: i32) -> anyhow::Result<Self> {
        ensure!(self.code() == code, "expected exit code {code} from {self}");
        Ok(self)
    }

    /// Itself, if its standard error holds this.
    pub fn complains(self, about: &str) -> anyhow::Result<Self> {
        ensure!(self.errors().contains(about), "expected `{about}` on the standard error of {self}");
        Ok(self)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stderr = String::from_utf8_lossy(&self.stderr);
        write!(f, "`{}`: {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---", self.command, self.status)
    }
}
