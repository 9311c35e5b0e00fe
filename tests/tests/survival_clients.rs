//! A client that is killed in the middle of anything takes nothing with it but what it asked for.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent_tests::{Home, Part, Sandbox, Traces, deadline, finish, is_alive, until};
use anyhow::{Context, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::openpty,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A client that is killed on drop.
struct Client(Child);

impl Client {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have been killed already, and then there is nothing to do.
        let _ = self.kill();
    }
}

/// The command goes with its client, and nothing else does.
#[test]
fn a_client_is_killed_while_output_streams() -> anyhow::Result<()> {
    // A pipe that nobody reads ends whoever writes to it, perhaps before init hears of the client: something stays.
    let script = "echo begun; (trap '' HUP; exec yes stream) & yes stream; sleep 1000";
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        let init = sandbox.pid(Part::Init)?;
        let mut shim = sandbox.shim(["exec", "box", "--", "sh", "-c", script]);
        let mut client = Client::start(shim.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut stdout = client.0.stdout.take().context("the client's output")?;
        stdout.read_exact(&mut vec![0; 1 << 20])?;
        client.kill()?;
        drop(stdout);

        let exited = sandbox.wait_for_event("exec-exited")?;
        ensure!(exited["exit"]["killed_by"] == "disconnect", "{exited:#}");
        no_process(&sandbox, "yes")?;
        no_process(&sandbox, "sleep")?;
        goes_on(&sandbox, init)?;
    }
    Ok(())
}

/// A client that nobody reads from is killed while it waits to write.
#[test]
fn a_client_is_killed_while_its_output_is_stuck() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let init = sandbox.pid(Part::Init)?;
    let mut shim = sandbox.shim(["exec", "box", "--", "yes"]);
    let mut client = Client::start(shim.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    sandbox.wait_for_event("exec-started")?;
    // As much as a pipe has room for (pipe(7)), and more behind it that nobody has read.
    let output = client.0.stdout.as_ref().context("the client's output")?;
    until("the output to be stuck", || Ok((rustix::io::ioctl_fionread(output)? >= 64 * 1024).then_some(())))?;
    // Others are served meanwhile.
    ensure!(sandbox.sh("echo served")?.success()?.text() == "served");
    client.kill()?;
    no_process(&sandbox, "yes")?;
    goes_on(&sandbox, init)
}

/// Killed while it feeds input: the command sees the end of it and its own.
#[test]
fn a_client_is_killed_while_input_streams() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let init = sandbox.pid(Part::Init)?;
    let mut shim = sandbox.shim(["exec", "-i", "box", "--", "sh", "-c", "cat > ~/input"]);
    let mut client = Client::start(shim.stdin(Stdio::piped()).stdout(Stdio::null()))?;
    let mut stdin = client.0.stdin.take().context("the client's input")?;
    stdin.write_all(&vec![b'x'; 1 << 20])?;
    until("input to arrive", || Ok((sandbox.sh("cat ~/input | wc -c")?.text() != "0").then_some(())))?;
    client.kill()?;
    sandbox
        .wait_for("the end of the command", |event| event["event"] == "exec-exited" && event["exec"] == 1)?;
    goes_on(&sandbox, init)
}

/// What was detached goes on without anybody.
#[test]
fn a_detached_command_needs_no_client() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "while ! [ -e ~/go ]; do sleep 0.02; done; touch ~/gone";
    sandbox.run(["exec", "--detach", "box", "--", "sh", "-c", script])?.success()?;
    sandbox.kill(Part::Monitor)?;
    sandbox.sh("touch ~/go")?.success()?;
    until("the detached command to do its work", || {
        Ok((sandbox.sh("[ -e ~/gone ]")?.code() == 0).then_some(()))
    })
}

/// A terminal that is gone hangs its command up.
#[test]
fn a_client_with_a_terminal_is_killed() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let init = sandbox.pid(Part::Init)?;
    let script = "trap 'echo hup > ~/why; exit' HUP; echo ready; while :; do sleep 0.05; done";
    let (mut client, mut terminal) =
        on_a_terminal(sandbox.shim(["exec", "-it", "box", "--", "sh", "-c", script]))?;
    read_until(&mut terminal, "ready")?;
    client.kill()?;
    drop(terminal);
    until("the command to be hung up", || Ok((sandbox.sh("cat ~/why")?.text() == "hup").then_some(())))?;
    goes_on(&sandbox, init)
}

/// A viewer is nothing to the agent, and the next one sees what went on meanwhile.
#[test]
fn a_viewer_is_killed() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder()
            .who(*who)
            .agent("i=0; while echo count $((i += 1)); do sleep 0.05; done")
            .start()?;
        let (init, agent) = (sandbox.pid(Part::Init)?, sandbox.status()?["agent"]["pid"].clone());
        let (mut client, mut terminal) = on_a_terminal(sandbox.shim(["attach", "box"]))?;
        read_until(&mut terminal, "count 5")?;
        client.kill()?;
        drop(terminal);
        until(
            "the viewer to be forgotten",
            || Ok((sandbox.status()?["init"]["viewers"] == 0).then_some(())),
        )?;
        ensure!(sandbox.status()?["agent"]["pid"] == agent);
        let (_second, mut terminal) = on_a_terminal(sandbox.shim(["attach", "box"]))?;
        read_until(&mut terminal, "count 3")?;
        goes_on(&sandbox, init)?;
    }
    Ok(())
}

/// Neither the monitor nor the layer's process is between a viewer and its agent.
#[test]
fn a_viewer_stays_when_the_monitor_and_the_layer_are_killed() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().agent("while read line; do echo got $line; done").start()?;
    let (client, mut terminal) = on_a_terminal(sandbox.shim(["attach", "box"]))?;
    terminal.0.write_all(b"one\n")?;
    read_until(&mut terminal, "got one")?;
    sandbox.kill(Part::Monitor)?;
    sandbox.kill(Part::Layer)?;
    terminal.0.write_all(b"two\n")?;
    read_until(&mut terminal, "got two")?;
    ensure!(is_alive(client.0.id().cast_signed()));
    Ok(())
}

/// A viewer sees why the agent ended, and the next session without a word of its own.
#[test]
fn a_viewer_stays_while_the_agent_is_started_again() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .flags(["--restart", "always"])
        .agent("echo session $$; while read line; do [ $line = die ] && exit 6; echo got $line; done")
        .start()?;
    let (client, mut terminal) = on_a_terminal(sandbox.shim(["attach", "box"]))?;
    read_until(&mut terminal, "session")?;
    terminal.0.write_all(b"die\n")?;
    read_until(&mut terminal, "exited with code 6")?;
    read_until(&mut terminal, "session")?;
    terminal.0.write_all(b"again\n")?;
    read_until(&mut terminal, "got again")?;
    ensure!(is_alive(client.0.id().cast_signed()));
    Ok(())
}

/// A `start` that is killed leaves a sandbox that runs, or none.
#[test]
fn a_start_is_killed() -> anyhow::Result<()> {
    for (n, delay_ms) in [0, 2, 4, 5, 6, 7, 8, 9, 10, 15].into_iter().enumerate() {
        let home = Home::new(someone(n))?;
        let project = home.project("project")?;
        let mut shim = home.shim(["start", "--name", "box", "--env", "host"]);
        shim.arg(&project).args(["--", "cat"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut client = Client::start(&mut shim)?;
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        client.kill()?;
        // A start that was called off may show as stopped or failed until it is undone.
        let state = until("the start to be undone or done", || {
            let list = home.run(["list", "--json"])?.success()?.json()?;
            let is_unfinished =
                list[0]["reason"].as_str().is_some_and(|reason| reason.contains("not complete"));
            Ok(match list[0]["state"].as_str() {
                None => Some("none"),
                Some("running") => Some("running"),
                // Killed before there was a monitor, it was never started; a new one takes its place.
                Some("created") => Some("created"),
                Some("error") if is_unfinished => Some("unfinished"),
                _ => None,
            })
        })?;
        if ["running", "created"].contains(&state) {
            // A monitor that had only just begun may undo it meanwhile.
            let output = home.run(["destroy", "--force", "box"])?;
            ensure!([0, 1].contains(&output.code()), "{output}");
        }
        let left = Traces::of(&home)?.processes;
        ensure!(left.is_empty(), "after {delay_ms} ms: {left:#?}");
        // The name is free again in every case.
        let mut shim = home.shim(["start", "--name", "box", "--env", "host"]);
        shim.arg(&project).args(["--", "cat"]);
        finish(shim, b"")?.success()?;
        home.run(["destroy", "--force", "box"])?.success()?;
    }
    Ok(())
}

fn goes_on(sandbox: &Sandbox, init: i32) -> anyhow::Result<()> {
    ensure!(is_alive(init));
    ensure!(sandbox.status()?["state"] == "running");
    ensure!(sandbox.sh("echo on")?.success()?.text() == "on");
    Ok(())
}

fn no_process(sandbox: &Sandbox, name: &str) -> anyhow::Result<()> {
    until("the command's processes to be gone", || {
        let names = sandbox.sh("cat /proc/[0-9]*/comm")?.text();
        Ok((!names.lines().any(|line| line == name)).then_some(()))
    })
}

/// Our end of a terminal.
struct Screen(File);

fn on_a_terminal(mut command: Command) -> anyhow::Result<(Client, Screen)> {
    let pty = openpty(None, None)?;
    let stdio = || -> anyhow::Result<OwnedFd> { Ok(pty.slave.try_clone()?) };
    command.env("TERM", "xterm").stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
    let client = Client(command.spawn()?);
    Ok((client, Screen(pty.master.into())))
}

/// Reads what the terminal is shown up to a text.
fn read_until(screen: &mut Screen, text: &str) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let end = Instant::now() + deadline();
    while !seen.ends_with(text.as_bytes()) {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()))?;
        let ready = poll(&mut [PollFd::new(screen.0.as_fd(), PollFlags::POLLIN)], left)?;
        let mut byte = [0];
        // One byte at a time: what comes behind the text is for the next call.
        let count = if ready == 0 { Ok(0) } else { screen.0.read(&mut byte) };
        let shown =
            || format!("waiting for `{text}`; the terminal shows {:?}", String::from_utf8_lossy(&seen));
        ensure!(count.with_context(shown)? == 1, shown());
        seen.extend(byte);
    }
    Ok(())
}

/// A monitor that is killed in the middle of a start: the command says so and leaves nothing.
#[test]
fn the_monitor_is_killed_while_it_starts() -> anyhow::Result<()> {
    let mut failures = 0;
    let table = [0, 1, 2, 2, 3, 3, 4, 4, 6, 6, 8, 8, 10, 15];
    // Where a start takes less time than it takes to look, one is hit by trying again.
    for (n, delay_ms) in table.into_iter().chain([0; 100]).enumerate() {
        if n >= table.len() && failures > 0 {
            break;
        }
        let home = Home::new(someone(n))?;
        let project = home.project("project")?;
        let mut shim = home.shim(["start", "--name", "box", "--env", "host"]);
        shim.arg(&project).args(["--", "cat"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut client = Client::start(&mut shim)?;
        let pid = client.0.id().cast_signed();
        // Without a pause between two looks: a start is over in a few milliseconds.
        let end = Instant::now() + deadline();
        let monitor = loop {
            if client.0.try_wait()?.is_some() || Instant::now() > end {
                break 0;
            }
            if let Some(monitor) = children(pid).first() {
                break *monitor;
            }
        };
        std::thread::sleep(Duration::from_millis(delay_ms));
        if client.0.try_wait()?.is_none() && monitor != 0 {
            kill(Pid::from_raw(monitor), Signal::SIGKILL)?;
        }
        let code = client.0.wait()?.code();
        if code == Some(0) {
            ensure!(home.run(["status", "box", "--json"])?.success()?.json()?["state"] == "running");
            home.run(["destroy", "--force", "box"])?.success()?;
        } else {
            failures += 1;
            ensure!(code == Some(3), "after {delay_ms} ms: {code:?}");
            ensure!(home.run(["list", "--json"])?.success()?.text() == "[]", "after {delay_ms} ms");
        }
        let left = Traces::of(&home)?.processes;
        ensure!(left.is_empty(), "after {delay_ms} ms: {left:#?}");
    }
    ensure!(failures > 0, "no start was hit");
    Ok(())
}

/// Each kind of person in turn.
fn someone(turn: usize) -> agent_tests::Who {
    Home::everyone()[turn % Home::everyone().len()]
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
