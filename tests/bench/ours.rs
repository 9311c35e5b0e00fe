//! A sandbox of ours, and our protocol without the command line in front of it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::{
    Request, ServerMessage,
    address::Address,
    exit::How,
    handshake::Token,
    message::{AttachFrom, AttachRequest, ExecRequest, LeaseWish, Next, Stdio as Streams, TerminalSize},
};
use agent_shim::client::{Connection, Incoming, Target};
use agent_tests::{Home, Layer, Machine, Nix, TOKEN, Who};
use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::tools::{Workshop, millis, timed};

const RESTARTING: &str = "waiting for a restart";

/// How long init may take for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where things of the person's are, and which sandboxes were started.
pub(crate) struct Ours {
    home: Home,
    project: PathBuf,
    nix: Option<Nix>,
    names: Mutex<Vec<String>>,
}

impl Ours {
    /// A new person with a project, and the floor's program in it.
    pub(crate) fn new(workshop: &Workshop) -> anyhow::Result<Self> {
        let home = Home::new(Who::Myself)?;
        let project = home.project("project")?;
        fs::copy(workshop.floor(), project.join("floor"))?;
        Ok(Self { home, project, nix: None, names: Mutex::default() })
    }

    /// The same, with a Nix, where there is one on the machine.
    pub(crate) fn with_nix(workshop: &Workshop) -> anyhow::Result<Option<Self>> {
        let mut ours = Self::new(workshop)?;
        ours.nix = ours.home.nix()?;
        Ok(ours.nix.is_some().then_some(ours))
    }

    /// The same, whose sandboxes are machines. Programs in `first` are found before all others.
    pub(crate) fn with_machines(workshop: &Workshop, first: Option<&Path>) -> anyhow::Result<Self> {
        let layer = Layer::named("microvm").context("there is no such layer")?;
        let missing = layer.missing();
        ensure!(missing.is_empty(), "machines need {}", missing.join(", "));
        let mut ours = Self::new(workshop)?;
        let path = layer.search_path(&ours.home.search_path());
        let first = first.map(|folder| format!("{}:", folder.display())).unwrap_or_default();
        ours.home.variable("PATH", first + &path);
        layer.variables().into_iter().for_each(|(name, value)| ours.home.variable(name, value));
        Ok(ours)
    }

    /// The packages that its Nix has.
    pub(crate) fn nixpkgs(&self) -> anyhow::Result<&Path> {
        Ok(self.nix.as_ref().context("there is no Nix")?.nixpkgs())
    }

    /// The project's folder, which is /workspace inside.
    pub(crate) fn project(&self) -> &Path {
        &self.project
    }

    /// Starts a sandbox with this agent; returns how long `start` took.
    pub(crate) fn start(&self, name: &str, flags: &[&str], agent: &[&str]) -> anyhow::Result<Duration> {
        self.start_with(name, &[&["--env", "host"], flags].concat(), agent)
    }

    /// The same, with tools of any kind.
    pub(crate) fn start_with(&self, name: &str, flags: &[&str], agent: &[&str]) -> anyhow::Result<Duration> {
        let mut command = silent(self.shim(&["start", "--name", name]));
        command.args(flags).arg(&self.project).arg("--").args(agent);
        self.names().push(name.to_owned());
        timed(&mut command)
    }

    /// Starts a sandbox that was started before.
    pub(crate) fn start_again(&self, name: &str) -> anyhow::Result<Duration> {
        timed(&mut silent(self.shim(&["start", name])))
    }

    /// Stops a sandbox at once.
    pub(crate) fn stop(&self, name: &str) -> anyhow::Result<()> {
        timed(&mut silent(self.shim(&["stop", "--force", name]))).map(drop)
    }

    /// Removes a sandbox.
    pub(crate) fn destroy(&self, name: &str) -> anyhow::Result<()> {
        self.names().retain(|known| known != name);
        timed(&mut silent(self.shim(&["destroy", "--force", name]))).map(drop)
    }

    /// The folder in which the shim keeps a sandbox.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.home.data().join("agents").join(name)
    }

    /// The shim with these arguments, its streams left to the caller.
    pub(crate) fn shim(&self, args: &[&str]) -> Command {
        self.home.shim(args)
    }

    /// `agent-shim exec`.
    pub(crate) fn exec(&self, name: &str, command: &[&str]) -> Command {
        let mut exec = silent(self.shim(&["exec", name, "--"]));
        exec.args(command);
        exec
    }

    /// Process ids on the host: of init, and of the monitor.
    pub(crate) fn pids(&self, name: &str) -> anyhow::Result<(i32, i32)> {
        let status: Value = self.home.run(["status", name, "--json"])?.success()?.json()?;
        let pid = |who: &str| {
            let pid = status[who]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            pid.with_context(|| format!("status knows no pid of {who}: {status}"))
        };
        Ok((pid("init")?, pid("monitor")?))
    }

    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller of its init.
    pub(crate) fn caller(&self, name: &str) -> Caller {
        Caller { address: Address::Unix(self.folder(name).join("control.sock")), token: Token::default() }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        for name in std::mem::take(&mut *self.names()) {
            // It may have failed to start.
            let _ = self.home.run(["destroy", "--force", &name]);
        }
    }
}

fn silent(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Somebody who speaks the protocol all the time.
pub(crate) struct Caller {
    address: Address,
    token: Token,
}

impl Caller {
    /// Who speaks to the init of a machine of the tests' own.
    pub(crate) fn of_machine(machine: &Machine) -> Self {
        Self { address: machine.address(), token: TOKEN }
    }

    /// The same machine's stream of bytes from a port where something else listens.
    pub(crate) fn dial(&self, port: u32) -> anyhow::Result<UnixStream> {
        let Address::Hybrid { path, .. } = &self.address else {
            bail!("the host's own device has no socket to dial")
        };
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        // Byte by byte: what follows is not the device's.
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("the device hung up")?;
            answer.push(byte[0]);
        }
        ensure!(answer.starts_with(b"OK "), "the device answered {}", String::from_utf8_lossy(&answer));
        Ok(stream)
    }

    fn connect(&self) -> anyhow::Result<Connection> {
        let deadline = Instant::now() + PATIENCE;
        Ok(Connection::open(Target::Address(&self.address), &self.token, deadline)?)
    }

    /// Asks for a sign of life.
    pub(crate) fn ping(&self) -> anyhow::Result<()> {
        let mut connection = self.connect()?;
        Ok(agent_shim::client::ping(&mut connection, Instant::now() + PATIENCE)?)
    }

    /// Runs a command to its end, or, detached, to its start. Its output, if it comes in frames, is counted and thrown away.
    pub(crate) fn exec(&self, argv: &[&str], stdio: Streams) -> anyhow::Result<u64> {
        let mut connection = self.connect()?;
        if stdio == Streams::Descriptors {
            connection.expect_descriptors(2);
        }
        connection.request(&Request::Exec(ExecRequest {
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: Vec::new(),
            directory: None,
            user: None,
            stdin: false,
            stdio,
            timeout_ms: None,
        }))?;
        let mut bytes_seen = 0;
        loop {
            match connection.recv("running a command", Some(Instant::now() + PATIENCE))? {
                Incoming::Data { bytes, .. } => bytes_seen += bytes.len() as u64,
                Incoming::Message(ServerMessage::ExecStarted(_)) if stdio == Streams::Detached => {
                    return Ok(0);
                }
                Incoming::Message(ServerMessage::ExecStarted(_)) => {}
                Incoming::Message(ServerMessage::ExecExited(exited)) => {
                    ensure!(exited.exit.how == How::Code(0), "{argv:?}: {:?}", exited.exit);
                    return Ok(bytes_seen);
                }
                Incoming::Message(other) => bail!("init answered {other:?}"),
            }
        }
    }

    /// Lets the agent end, and tells how long its viewer waits for the next one, less the promised wait.
    pub(crate) fn time_restart(&self, key: &[u8]) -> anyhow::Result<f64> {
        let mut viewer = self.connect()?;
        viewer.request(&Request::Attach(AttachRequest {
            lease: LeaseWish::TakeOver,
            size: Some(TerminalSize { columns: 80, rows: 24 }),
            from: AttachFrom::Screen,
        }))?;
        let deadline = || Some(Instant::now() + PATIENCE);
        while !matches!(viewer.recv(RESTARTING, deadline())?, Incoming::Message(ServerMessage::Attached(_))) {
        }
        viewer.send_data(agent_protocol::frame::Kind::Terminal, 0, key)?;
        let mut ended = None;
        loop {
            match viewer.recv(RESTARTING, deadline())? {
                Incoming::Message(ServerMessage::SessionEnded(end)) => {
                    let Next::Restart { delay_ms } = end.next else { bail!("the agent is {:?}", end.next) };
                    ended = Some((Instant::now(), Duration::from_millis(delay_ms)));
                }
                Incoming::Message(ServerMessage::SessionStarted(_)) => {
                    let (at, backoff) = ended.context("a session started before one ended")?;
                    return Ok(millis(at.elapsed().saturating_sub(backoff)));
                }
                Incoming::Message(ServerMessage::Failed(failure)) => bail!("init refused: {failure:?}"),
                Incoming::Message(_) | Incoming::Data { .. } => {}
            }
        }
    }
}
