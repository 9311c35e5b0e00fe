//! A sandbox that is reached as a machine is: through a device that connects to a port inside, over which no descriptors
//! travel. The device is the test's own, in front of a sandbox's control socket, so that every command can be tried.

use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agent_tests::{Home, Part, Pty, Sandbox, Who, is_alive, until};
use anyhow::{Context, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use std::os::fd::AsFd;

/// More than any pipe, ring or frame holds.
const BULK_BYTES: usize = 4 * 1024 * 1024;

/// Connects whoever asks.
const CONNECTS: u8 = 0;
/// Takes calls and closes them, as while a machine boots.
const CLOSES: u8 = 1;
/// Takes calls and says nothing, as one that is stuck.
const SAYS_NOTHING: u8 = 2;

/// A device in front of a sandbox. It lives as long as the sandbox's init does.
struct Device {
    mood: Arc<AtomicU8>,
}

impl Device {
    fn before(sandbox: &Sandbox) -> anyhow::Result<Self> {
        let folder = sandbox.folder();
        let listener = UnixListener::bind(folder.join("vsock.sock"))?;
        listener.set_nonblocking(true)?;
        let init = sandbox.pid(Part::Init)?;
        let mood = Arc::new(AtomicU8::new(CONNECTS));
        let shown = mood.clone();
        let control = folder.join("control.sock");
        thread::spawn(move || serve(&listener, init, &control, &shown));
        fs::write(folder.join("address"), "hybrid:vsock.sock:1024\n")?;
        Ok(Self { mood })
    }

    fn feels(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }
}

fn serve(listener: &UnixListener, init: i32, control: &Path, mood: &AtomicU8) {
    let mut kept = Vec::new();
    while is_alive(init) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(10_u8));
        let Ok((call, _)) = listener.accept() else { continue };
        match mood.load(Ordering::SeqCst) {
            CONNECTS => {
                let control = control.to_owned();
                thread::spawn(move || connect(call, &control));
            }
            CLOSES => drop(call),
            _ => kept.push(call),
        }
    }
}

/// One call, from its first line to the end of both directions.
fn connect(mut call: UnixStream, control: &Path) -> io::Result<()> {
    call.set_nonblocking(false)?;
    let mut line = [0; 64];
    let count = call.read(&mut line)?;
    // What comes along with the line is lost, as real devices lose it.
    if &line[..count] != b"CONNECT 1024\n" {
        return Ok(());
    }
    let inside = UnixStream::connect(control)?;
    call.write_all(b"OK 1073741824\n")?;
    let (mut from, mut to) = (inside.try_clone()?, call.try_clone()?);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        to.shutdown(Shutdown::Write)
    });
    let (mut from, mut to) = (call, inside);
    let _ = io::copy(&mut from, &mut to);
    to.shutdown(Shutdown::Write)?;
    drop(back.join());
    Ok(())
}

fn sandbox() -> anyhow::Result<(Sandbox, Device)> {
    let sandbox = Sandbox::builder().agent("echo up; exec cat").start()?;
    let device = Device::before(&sandbox)?;
    Ok((sandbox, device))
}

#[test]
fn commands_run_with_their_streams_and_codes() -> anyhow::Result<()> {
    let (sandbox, _device) = sandbox()?;
    let mut bulk = vec![0; BULK_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bulk)?;
    let echoed =
        sandbox.run_with_input(["exec", "-i", "box", "--", "tee", "/proc/self/fd/2"], &bulk)?.success()?;
    ensure!(
        echoed.stdout == bulk && echoed.stderr == bulk,
        "{} and {}",
        echoed.stdout.len(),
        echoed.stderr.len()
    );
    let output = sandbox.sh("printf out; printf err >&2; exit 3")?.exits(3)?;
    ensure!((&output.stdout[..], &output.stderr[..]) == (&b"out"[..], &b"err"[..]));
    sandbox.run(["exec", "box", "--", "no-such-program"])?.exits(127)?;
    sandbox.run(["exec", "--timeout", "100ms", "box", "--", "sleep", "1000"])?.exits(143)?;
    Ok(())
}

#[test]
fn a_signal_reaches_the_command() -> anyhow::Result<()> {
    let (sandbox, _device) = sandbox()?;
    let script = "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.02; done";
    let mut exec = sandbox.shim(["exec", "box", "--", "sh", "-c", script]);
    let mut exec = exec.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = exec.stdout.take().context("its output")?;
    let mut first = [0; 3];
    stdout.read_exact(&mut first)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(exec.id().cast_signed()), Signal::SIGTERM)?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    ensure!(rest.contains("told") && exec.wait()?.code() == Some(7), "{rest}");
    Ok(())
}

#[test]
fn terminals_are_typed_on() -> anyhow::Result<()> {
    let (sandbox, _device) = sandbox()?;
    let script = "trap 'echo now $(stty size)' WINCH; stty size; read line; echo \"got $line\"; \
                  while :; do sleep 0.02; test -e /tmp/go && exit 8; done";
    let mut pty = Pty::spawn(&sandbox.shim(["exec", "-it", "box", "--", "sh", "-c", script]))?;
    pty.wait_for("30 100")?;
    pty.type_in("some text\r")?;
    pty.wait_for("got some text")?;
    pty.resize(77, 22)?;
    pty.wait_for("now 22 77")?;
    sandbox.sh("touch /tmp/go")?.success()?;
    ensure!(pty.ended()? == 8);

    let mut pty = Pty::spawn(&sandbox.shim(["attach", "box"]))?;
    pty.wait_for("up")?;
    pty.type_in("to the agent\r")?;
    pty.wait_for("to the agent\r\nto the agent")?;
    // Detached by the person's keys.
    pty.type_in("\x1dd")?;
    ensure!(pty.ended()? == 0);
    Ok(())
}

#[test]
fn what_happens_is_told() -> anyhow::Result<()> {
    let (sandbox, _device) = sandbox()?;
    sandbox.sh("exit 9")?.exits(9)?;
    sandbox.wait_for("the end of the command", |event| {
        event["event"] == "exec-exited" && event["exit"]["code"] == 9
    })?;
    ensure!(sandbox.tell("logs", &[])?.success()?.text().contains("up"));
    let status = sandbox.status()?;
    ensure!(status["state"] == "running" && status["stuck"].is_null(), "{status:#}");
    let list = sandbox.run(["list", "--json"])?.success()?.json()?;
    ensure!(list[0]["state"] == "running", "{list:#}");
    Ok(())
}

#[test]
fn work_comes_home() -> anyhow::Result<()> {
    let home = Home::new(Who::Myself)?;
    let project = home.project("project")?;
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=Me", "-c", "user.email=me@example.org"];
        let mut command = home.command("git", who.iter().chain(args));
        command.current_dir(&project);
        agent_tests::finish(command, b"")?.success()
    };
    git(&["init", "-q", "-b", "main"])?;
    git(&["commit", "-q", "--allow-empty", "-m", "one"])?;
    let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()?;
    let _device = Device::before(&sandbox)?;
    let work = "cd /workspace && head -c 3000000 /dev/urandom > f && git add f && \
                git -c user.name=A -c user.email=a@example.org commit -qm two && git rev-parse HEAD";
    let made = sandbox.sh(work)?.success()?.text();
    sandbox.tell("pull", &[])?.success()?;
    let mut command = sandbox.command("git", ["rev-parse", "refs/agents/box/heads/main"]);
    command.current_dir(sandbox.project());
    ensure!(agent_tests::finish(command, b"")?.success()?.text() == made);
    Ok(())
}

#[test]
fn it_is_stopped_and_started() -> anyhow::Result<()> {
    for force in [&[][..], &["--force"]] {
        let (sandbox, _device) = sandbox()?;
        sandbox.tell("stop", force)?.success()?;
        ensure!(sandbox.status()?["state"] == "stopped");
        for left in ["address", "token", "control.sock"] {
            ensure!(!sandbox.folder().join(left).exists(), "{left}");
        }
        sandbox.tell("start", &[])?.success()?;
        sandbox.sh("true")?.success()?;
    }
    Ok(())
}

/// While a machine boots, or when its device is stuck, there is an answer in bounded time.
#[test]
fn a_device_without_an_init_behind_it_is_told() -> anyhow::Result<()> {
    for mood in [CLOSES, SAYS_NOTHING] {
        let (sandbox, device) = sandbox()?;
        device.feels(mood);
        let begun = Instant::now();
        let status = sandbox.status()?;
        ensure!(status["state"] == "running" && !status["stuck"].is_null(), "{status:#}");
        ensure!(begun.elapsed() < Duration::from_secs(5), "status took {:?}", begun.elapsed());
        let output = sandbox.sh("true")?.exits(125)?;
        ensure!(output.errors().contains("does not answer"), "{output}");
        // Nobody behind it was harmed.
        device.feels(CONNECTS);
        sandbox.sh("true")?.success()?;
        device.feels(mood);
        sandbox.tell("stop", &["--force"])?.success()?;
        ensure!(sandbox.status()?["state"] == "stopped");
    }
    Ok(())
}

/// Whoever does not have the token gets nothing.
#[test]
fn another_token_opens_nothing() -> anyhow::Result<()> {
    let (sandbox, _device) = sandbox()?;
    let token: PathBuf = sandbox.folder().join("token");
    fs::write(&token, [7; 32])?;
    sandbox.sh("true")?.exits(125)?.complains("token")?;
    fs::remove_file(&token)?;
    until("it to be let in", || Ok((sandbox.sh("true")?.code() == 0).then_some(())))?;
    Ok(())
}
