//! The processes that a sandbox is made of, for the tests that kill and stop them.

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{Sandbox, layer, until};

/// One process of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The one that watches and records.
    Monitor,
    /// The isolation layer's own, such as bwrap.
    Layer,
    /// PID 1 of the sandbox; the machine, where there is one.
    Init,
    /// The agent. No process of the host where the kernel is not the host's.
    Agent,
}

impl Part {
    /// Those that are processes of the host on this layer.
    pub fn all() -> &'static [Self] {
        let all = &[Self::Monitor, Self::Layer, Self::Init, Self::Agent];
        if layer().shares_kernel { all } else { &all[..3] }
    }
}

impl Sandbox {
    /// The process id of a part, as the host numbers it. Runs no command, which would mend what a test broke.
    pub fn pid(&self, part: Part) -> anyhow::Result<i32> {
        let recorded = |key: &str| -> anyhow::Result<i32> {
            let path = self.folder().join("run.json");
            let run: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let pid = run[key]["pid"].as_i64().with_context(|| format!("no {key} in {run:#}"))?;
            Ok(pid.try_into()?)
        };
        match part {
            Part::Monitor => recorded("monitor"),
            Part::Layer => recorded("supervisor"),
            // Its layer tells a moment after it is there.
            Part::Init => {
                until("init to be recorded", || Ok(recorded("init").ok())).or_else(|_| recorded("init"))
            }
            Part::Agent => {
                ensure!(layer().shares_kernel, "the agent is no process of the host on this layer");
                until("the agent as a child of init", || Ok(children(recorded("init")?)?.into_iter().next()))
            }
        }
    }

    /// The agent is killed from outside of the sandbox; where the host has no process to kill, from beside it.
    pub fn kill_agent(&self) -> anyhow::Result<()> {
        if layer().shares_kernel {
            return self.kill(Part::Agent);
        }
        let pid = self.status()?["agent"]["pid"].clone();
        self.sh(&format!("kill -9 {pid}"))?.success()?;
        Ok(())
    }

    /// Sends a signal from the host to a part, and returns its process id.
    pub fn signal(&self, part: Part, signal: Signal) -> anyhow::Result<i32> {
        let pid = self.pid(part)?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {part:?}, process {pid}"))?;
        Ok(pid)
    }

    /// Kills a part and waits until it is gone.
    pub fn kill(&self, part: Part) -> anyhow::Result<()> {
        let pid = self.signal(part, Signal::SIGKILL)?;
        until_gone(pid)
    }
}

/// Waits until a process has ended; a zombie has.
pub fn until_gone(pid: i32) -> anyhow::Result<()> {
    until("a process to be gone", || Ok((!is_alive(pid)).then_some(())))
}

/// Whether a process runs, or could.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The letter that the kernel has for what a process is doing.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

fn children(pid: i32) -> anyhow::Result<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}
