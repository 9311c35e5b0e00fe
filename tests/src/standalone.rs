//! `agent-init` by itself in a bare sandbox, told what to do by a spec of the test's: no shim in between.

use std::{
    fs::{self, File},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Instant,
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    exit::ExitRecord,
    failure::Failure,
    frame::Kind,
    message::{self, Event, EventsRequest, ExecRequest, Status, UnitStatus, What},
    spec::InitSpec,
};
use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{Heard, Home, Raw, Who, agent_init, deadline, until};

/// An init that runs as PID 1 of an ordinary person's sandbox. Killed on drop.
pub struct Init {
    home: Home,
    child: Child,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub exit: ExitRecord,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Init {
    /// Starts an init whom the test reaches through its socket.
    pub fn start(spec: Value) -> anyhow::Result<Self> {
        let mut spec = spec;
        spec["control"] = json!({ "listen": { "fd": 3 } });
        let init = Self::launch(spec)?;
        until("init to answer", || Ok(init.status().ok()))?;
        Ok(init)
    }

    /// Starts an init that nobody can reach: like s6 or supervisord in a container.
    pub fn start_alone(spec: Value) -> anyhow::Result<Self> {
        Self::launch(spec)
    }

    fn launch(mut spec: Value) -> anyhow::Result<Self> {
        let home = Home::new(Who::Ordinary)?;
        let work = home.project("work")?;
        if spec.get("env").is_none() {
            spec["env"] = json!({ "PATH": "/usr/bin:/bin", "HOME": "/tmp/work", "LANG": "C.UTF-8" });
        }
        if spec.get("workdir").is_none() {
            spec["workdir"] = json!("/tmp/work");
        }
        let text = serde_json::to_vec(&spec)?;
        InitSpec::from_json(&text).context("the test's own spec")?;
        let spec = home.file("spec.json", &text)?;
        let listener = UnixListener::bind(home.path().join("control.sock"))?;
        // The listener comes in as standard input and becomes descriptor 3 of nobody else's.
        let mut command = home.command("sh", ["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh", "bwrap"]);
        command.args(["--unshare-user", "--unshare-pid", "--unshare-ipc", "--as-pid-1", "--die-with-parent"]);
        command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]);
        command.args(["--tmpfs", "/tmp", "--tmpfs", "/run", "--cap-drop", "ALL"]);
        command.arg("--ro-bind").arg(agent_init()).arg("/run/agent-init");
        command.arg("--ro-bind").arg(&spec).arg("/run/spec.json");
        command.arg("--bind").arg(&work).arg("/tmp/work");
        command.args(["--chdir", "/", "--", "/run/agent-init", "--spec", "/run/spec.json"]);
        let child = command
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stdout(File::create(home.path().join("stdout"))?)
            .stderr(File::create(home.path().join("stderr"))?)
            .spawn()
            .context("starting bwrap")?;
        Ok(Self { home, child })
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("control.sock")
    }

    /// The folder on the host that is `/tmp/work` inside, where everything starts.
    pub fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    /// What is in a file of the working folder; empty where there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work().join(name)).unwrap_or_default()
    }

    /// Waits until a file of the working folder is there and satisfies the test.
    pub fn wait_for_file(&self, name: &str, is_it: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let wait = until(&format!("the right content of `{name}`"), || {
            let path = self.work().join(name);
            Ok(path.exists().then(|| self.read(name)).filter(|text| is_it(text)))
        });
        wait.with_context(|| format!("`{name}` holds {:?}; {}", self.read(name), self.describe()))
    }

    /// What init and its units wrote to init's own standard output and error.
    pub fn printed(&self) -> (String, String) {
        let read = |name: &str| {
            let bytes = fs::read(self.home.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (read("stdout"), read("stderr"))
    }

    /// Asks for one thing that is answered at once.
    pub fn ask(&self, request: &Request) -> anyhow::Result<ServerMessage> {
        Raw::ask(&self.socket(), request)?.message()
    }

    /// Everything at this moment.
    pub fn status(&self) -> anyhow::Result<Status> {
        match self.ask(&Request::Status)? {
            ServerMessage::Status(status) => Ok(*status),
            other => bail!("expected a status, not {other:?}"),
        }
    }

    /// One unit at this moment.
    pub fn unit(&self, name: &str) -> anyhow::Result<UnitStatus> {
        let status = self.status()?;
        status.units.into_iter().find(|unit| unit.name == name).with_context(|| format!("no unit `{name}`"))
    }

    /// All events that are kept.
    pub fn events(&self) -> anyhow::Result<Vec<Event>> {
        let request = Request::Events(EventsRequest { after: 0, follow: false });
        let mut raw = Raw::ask(&self.socket(), &request)?;
        let mut events = Vec::new();
        loop {
            match raw.message()? {
                ServerMessage::Event(event) => events.push(*event),
                ServerMessage::EventsCaughtUp => return Ok(events),
                other => bail!("expected an event, not {other:?}"),
            }
        }
    }

    /// Waits for the first event, old or new, that `find` makes something of.
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&What) -> Option<T>) -> anyhow::Result<T> {
        self.wait_after(0, what, find).map(|(_, found)| found)
    }

    /// Waits for the first such event behind the one with this number; returns its own number too.
    pub fn wait_after<T>(
        &self,
        after: u64,
        what: &str,
        find: impl Fn(&What) -> Option<T>,
    ) -> anyhow::Result<(u64, T)> {
        let mut raw = Raw::ask(&self.socket(), &Request::Events(EventsRequest { after, follow: true }))?;
        let end = Instant::now() + deadline();
        loop {
            match raw.hear() {
                Ok(Heard::Message(ServerMessage::Event(event))) => {
                    if let Some(found) = find(&event.what) {
                        return Ok((event.seq, found));
                    }
                }
                Ok(Heard::Message(ServerMessage::EventsCaughtUp)) => {}
                Ok(_) | Err(_) => break,
            }
            if Instant::now() > end {
                break;
            }
        }
        bail!("gave up waiting for {what}; {}", self.describe())
    }

    /// The next exit of this unit behind an event's number.
    pub fn exit_of(&self, unit: &str, after: u64) -> anyhow::Result<(u64, ExitRecord)> {
        self.wait_after(after, &format!("the end of `{unit}`"), |what| match what {
            What::UnitExited { unit: ended, exit } if ended == unit => Some(exit.clone()),
            _ => None,
        })
    }

    /// Runs a shell command to its end.
    pub fn sh(&self, script: &str) -> anyhow::Result<Done> {
        self.exec(&shell(script))?.map_err(|failure| anyhow::anyhow!("{failure}"))
    }

    /// Runs a command to its end; the inner error is init's refusal.
    pub fn exec(&self, request: &ExecRequest) -> anyhow::Result<Result<Done, Failure>> {
        exec(&self.socket(), request).with_context(|| self.describe())
    }

    /// Asks for the end, and waits for it; returns init's exit code.
    pub fn stop(&mut self, force: bool) -> anyhow::Result<i32> {
        let mut raw = Raw::ask(&self.socket(), &Request::Stop { force })?;
        match raw.message()? {
            ServerMessage::Done => {}
            other => bail!("stop was answered with {other:?}"),
        }
        raw.until_end()?;
        self.ended()
    }

    /// Waits for init's end; returns its exit code.
    pub fn ended(&mut self) -> anyhow::Result<i32> {
        let ended = until("init to end", || Ok(self.child.try_wait()?));
        ended.with_context(|| self.describe())?.code().context("init's exit code")
    }

    /// Init's process id on the host.
    pub fn host_pid(&self) -> anyhow::Result<i32> {
        let of = self.child.id();
        until("bwrap to have a child", || {
            let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
            Ok(children.split_whitespace().next().and_then(|pid| pid.parse().ok()))
        })
    }

    /// Init's resident memory.
    pub fn rss_bytes(&self) -> anyhow::Result<u64> {
        rss_bytes(self.host_pid()?)
    }

    fn describe(&self) -> String {
        let (stdout, stderr) = self.printed();
        let events = self.events().map(|events| {
            events.iter().map(|event| format!("{:?}", event.what)).collect::<Vec<_>>().join("\n")
        });
        format!("--- events\n{events:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // With bwrap dies init, and with init everything.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command of the init behind this socket to its end; the inner error is init's refusal.
pub fn exec(socket: &Path, request: &ExecRequest) -> anyhow::Result<Result<Done, Failure>> {
    follow(Raw::ask(socket, &Request::Exec(request.clone()))?, request.stdin)
}

/// Follows a command that was just asked for to its end; the inner error is init's refusal.
pub(crate) fn follow(mut raw: Raw, stdin: bool) -> anyhow::Result<Result<Done, Failure>> {
    match raw.message()? {
        ServerMessage::ExecStarted(_) => {}
        ServerMessage::Failed(failure) => return Ok(Err(failure)),
        other => bail!("expected a started command, not {other:?}"),
    }
    if stdin {
        raw.say(&ClientMessage::StdinEnd)?;
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match raw.hear()? {
            Heard::Data { kind: Kind::Stdout | Kind::Terminal, bytes, .. } => stdout.extend(bytes),
            Heard::Data { kind: Kind::Stderr, bytes, .. } => stderr.extend(bytes),
            Heard::Message(ServerMessage::ExecExited(exited)) => {
                return Ok(Ok(Done { exit: exited.exit, stdout, stderr }));
            }
            other => bail!("expected output or an exit, not {other:?}"),
        }
    }
}

/// A shell command with its streams in frames and no input.
pub fn shell(script: &str) -> ExecRequest {
    ExecRequest {
        argv: ["sh", "-c", script].map(|word| word.as_bytes().to_vec()).to_vec(),
        env: Vec::new(),
        directory: None,
        user: None,
        stdin: false,
        stdio: message::Stdio::Frames,
        timeout_ms: None,
    }
}

/// The resident memory of a process of the host's.
pub fn rss_bytes(pid: i32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A command of shell that says this on the notification socket, as sd_notify(3) does.
///
/// The speaker stays in the background: of one that is gone, nobody can tell any more which unit it was of.
pub fn notify(text: &str) -> String {
    format!("{{ {} & }}", speak(&[text], "sleep 1000"))
}

/// A command of shell that says all of these, does this in perl, and ends.
pub fn speak(texts: &[&str], then: &str) -> String {
    let words: Vec<_> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    format!(
        "perl -MSocket -e 'socket(S,AF_UNIX,SOCK_DGRAM,0); \
         for my $text ({}) {{ send(S,$text,0,sockaddr_un($ENV{{NOTIFY_SOCKET}})) or die $! }} {then}'",
        words.join(",")
    )
}
