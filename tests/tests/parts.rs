//! Every process of the host's that carries a sandbox is stopped and killed while a command streams: who looks is told which one it
//! is, the command goes on or ends with an error, and the next start finds the work.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use agent_tests::{Home, Output, Sandbox, Who, is_alive, layer, state, until, until_gone};
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A command that says for ever what it finds in a file, which is below the sandbox's home on the host.
const STREAM: &str = "while :; do read -r mark < ~/mark; echo $mark; sleep 0.01; done";

/// A second is promised; a loaded machine gets more. The real times are printed.
const SOON: Duration = Duration::from_secs(3);

/// One process, by what it is called in the sandbox's own record.
#[derive(Debug)]
struct Carrier {
    name: String,
    /// The machine is one of its parts.
    part: Option<String>,
    pid: i32,
}

impl Carrier {
    /// How it is called where it is stuck.
    fn stuck(&self) -> String {
        match self.name.as_str() {
            "monitor" => "the monitor".to_owned(),
            "supervisor" => "the isolation layer".to_owned(),
            "init" if layer().shares_kernel => "init".to_owned(),
            "init" => "the machine".to_owned(),
            part => format!("the machine's {part}"),
        }
    }

    /// What is told of an end that it caused.
    fn ended(&self) -> String {
        match self.name.as_str() {
            // How is known to its parent, which a monitor that came later is not.
            "supervisor" => "the isolation layer ended".to_owned(),
            "init" if layer().shares_kernel => "init was killed".to_owned(),
            name => {
                format!("the machine's {} ended (killed by signal 9)", self.part.as_deref().unwrap_or(name))
            }
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("{signal} to {self:?}"))
    }

    /// Whether anything is left of it. The first process of a namespace sleeps without memory until all others are collected.
    fn is_left(&self) -> bool {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid));
        is_alive(self.pid)
            && !(state(self.pid) == Some('S') && command.is_ok_and(|command| command.is_empty()))
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        until("a process to be stopped", || Ok((state(self.pid) == Some('T')).then_some(())))
    }
}

#[test]
fn each_is_stopped_and_killed_while_a_command_streams() -> anyhow::Result<()> {
    each(one_is_stopped_and_killed)
}

#[test]
fn with_each_stopped_it_ends_by_force() -> anyhow::Result<()> {
    each(one_is_stopped_and_all_are_ended)
}

fn each(happens: impl Fn(&Sandbox, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for who in Home::everyone() {
        let (mut sandbox, names) = started(*who)?;
        for name in &names {
            happens(&sandbox, name).with_context(|| format!("{name} on {}", layer().name))?;
            // One that has lost a process and runs on is not what it was. A machine never does, and takes long to start.
            if layer().shares_kernel {
                sandbox = started(*who)?.0;
            }
        }
    }
    Ok(())
}

fn started(who: Who) -> anyhow::Result<(Sandbox, Vec<String>)> {
    let sandbox = Sandbox::builder().who(who).start()?;
    sandbox.sh("echo kept > /workspace/file; echo home > ~/file; echo > ~/mark; sync")?.success()?;
    let names: Vec<String> = carriers(&sandbox)?.into_iter().map(|carrier| carrier.name).collect();
    // A machine with all that it can have: a share, a device for calls and one for packets.
    let least = if layer().shares_kernel { 3 } else { 7 };
    ensure!(names.len() >= least, "{names:?}");
    Ok((sandbox, names))
}

fn one_is_stopped_and_killed(sandbox: &Sandbox, name: &str) -> anyhow::Result<()> {
    let carrier = carrier(sandbox, name)?;
    let mut stream = Stream::begin(sandbox)?;
    stream.goes_on("begun")?;
    carrier.stop()?;
    // On a loaded machine an emulated one may fail to answer by itself, and is told of first.
    until("it to be named", || {
        let list = soon(sandbox, name, &["list", "--json"])?.success()?.json()?;
        let status = soon(sandbox, name, &["status", "box", "--json"])?.success()?.json()?;
        Ok((is_named(&list[0], &carrier)? && is_named(&status, &carrier)?).then_some(()))
    })?;
    carrier.signal(Signal::SIGCONT)?;
    until("it to be stuck no more", || Ok(sandbox.status()?["stuck"].is_null().then_some(())))?;
    stream.goes_on("let-go")?;

    carrier.signal(Signal::SIGKILL)?;
    until_gone(carrier.pid)?;
    let state = until("its state to be one or the other", || {
        let state = sandbox.status()?["state"].as_str().unwrap_or_default().to_owned();
        Ok((state == "running" || state == "stopped").then_some(state))
    })?;
    if state == "running" {
        stream.goes_on("without-it")?;
        stream.client.kill()?;
        stream.client.wait()?;
        until("a monitor", || {
            let monitor = sandbox.status()?["monitor"]["pid"].as_i64();
            Ok(monitor.filter(|pid| *pid != i64::from(carrier.pid)))
        })?;
    } else {
        let status = until("the command to give up", || {
            // What is left in the pipe is read, or it would wait to write it.
            io::copy(&mut stream.lines, &mut io::sink())?;
            Ok(stream.client.try_wait()?)
        })?;
        ensure!(!status.success(), "{status}");
        let end = sandbox.status()?["ended"].clone();
        let reason = end["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(&carrier.ended()), "{name} died: {end:#}");
        sandbox.tell("start", &[])?.success()?;
    }
    the_work_is_there(sandbox)
}

fn one_is_stopped_and_all_are_ended(sandbox: &Sandbox, name: &str) -> anyhow::Result<()> {
    let all = carriers(sandbox)?;
    carrier(sandbox, name)?.stop()?;
    soon(sandbox, name, &["stop", "--force", "box"])?.success()?;
    // Not a moment later; but the monitor may have something to bring home.
    let left: Vec<&Carrier> =
        all.iter().filter(|carrier| carrier.name != "monitor" && carrier.is_left()).collect();
    ensure!(left.is_empty(), "{left:?}");
    let status = sandbox.status()?;
    ensure!(status["state"] == "stopped" && status["stuck"].is_null(), "{status:#}");
    sandbox.tell("start", &[])?.success()?;
    the_work_is_there(sandbox)
}

fn the_work_is_there(sandbox: &Sandbox) -> anyhow::Result<()> {
    let found = sandbox.sh("cat /workspace/file ~/file")?.success()?.text();
    ensure!(found == "kept\nhome", "{found}");
    Ok(())
}

/// A command that streams, and whoever reads it.
struct Stream<'a> {
    sandbox: &'a Sandbox,
    client: Child,
    lines: BufReader<ChildStdout>,
}

impl Stream<'_> {
    fn begin(sandbox: &Sandbox) -> anyhow::Result<Stream<'_>> {
        let mut exec = sandbox.shim(["exec", sandbox.name(), "--", "sh", "-c", STREAM]);
        let mut client = exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(client.stdout.take().context("the command's output")?);
        Ok(Stream { sandbox, client, lines })
    }

    /// Reads until it says something that nobody could have said before.
    fn goes_on(&mut self, mark: &str) -> anyhow::Result<()> {
        fs::write(self.sandbox.folder().join("home/mark"), format!("{mark}\n"))?;
        let mut line = String::new();
        while line.trim() != mark {
            line.clear();
            ensure!(self.lines.read_line(&mut line)? > 0, "the stream ended before it was {mark}");
        }
        Ok(())
    }
}

fn soon(sandbox: &Sandbox, stopped: &str, words: &[&str]) -> anyhow::Result<Output> {
    let begun = Instant::now();
    let output = sandbox.run(words)?;
    let took = begun.elapsed();
    println!("{stopped} stopped: {} took {} ms", words.join(" "), took.as_millis());
    ensure!(took < SOON, "{stopped} stopped: {output} took {took:?}");
    Ok(output)
}

fn is_named(view: &Value, carrier: &Carrier) -> anyhow::Result<bool> {
    ensure!(view["state"] == "running", "{view:#}");
    let (place, name) = (view["stuck"].as_str().unwrap_or_default(), carrier.stuck());
    let is_named = place.starts_with(&name) && place.contains("stopped by a signal");
    ensure!(is_named || !layer().shares_kernel, "not {name}: {view:#}");
    Ok(is_named)
}

fn carrier(sandbox: &Sandbox, name: &str) -> anyhow::Result<Carrier> {
    let all = carriers(sandbox)?;
    all.into_iter().find(|carrier| carrier.name == name).with_context(|| format!("there is no {name}"))
}

/// All of them. A monitor writes down a moment later which ones the layer has started.
fn carriers(sandbox: &Sandbox) -> anyhow::Result<Vec<Carrier>> {
    until("all of it to be recorded", || {
        let run: Value = serde_json::from_slice(&fs::read(sandbox.folder().join("run.json"))?)?;
        let pid = |id: &Value| id["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let mut carriers = Vec::new();
        for name in ["monitor", "supervisor", "init"] {
            let Some(pid) = pid(&run[name]) else { return Ok(None) };
            carriers.push(Carrier { name: name.to_owned(), part: None, pid });
        }
        for part in run["parts"].as_array().into_iter().flatten() {
            let name = part["name"].as_str().context("a part without a name")?.to_owned();
            let pid = pid(part).context("a part without a number")?;
            match carriers.iter_mut().find(|carrier| carrier.pid == pid) {
                Some(machine) => machine.part = Some(name),
                None => carriers.push(Carrier { name, part: None, pid }),
            }
        }
        Ok(Some(carriers))
    })
}
