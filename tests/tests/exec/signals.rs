//! Signals to the client are meant for the command.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use agent_tests::{Sandbox, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Starts a command that says `up`, sends the client a signal; what the command wrote and how the client ended.
fn signalled(sandbox: &Sandbox, script: &str, signal: Signal) -> anyhow::Result<(String, Option<i32>)> {
    let mut client = sandbox
        .shim(["exec", "box", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line)?;
    assert_eq!(line, "up\n");
    kill(Pid::from_raw(i32::try_from(client.id())?), signal)?;
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    Ok((rest, until("the client to end", || Ok(client.try_wait()?))?.code()))
}

#[test]
fn they_reach_the_command_which_decides() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for (name, signal) in [
        ("TERM", Signal::SIGTERM),
        ("INT", Signal::SIGINT),
        ("HUP", Signal::SIGHUP),
        ("QUIT", Signal::SIGQUIT),
        ("USR1", Signal::SIGUSR1),
        ("USR2", Signal::SIGUSR2),
    ] {
        let script = format!("trap 'echo got {name}; exit 7' {name}; echo up; while :; do sleep 0.02; done");
        let (text, code) = signalled(&sandbox, &script, signal)?;
        assert_eq!((text.as_str(), code), (format!("got {name}\n").as_str(), Some(7)));
    }
    Ok(())
}

#[test]
fn what_kills_the_command_is_told_as_its_own() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGUSR1, 138)] {
        // Also for a whole pipeline.
        let (_, ended) = signalled(&sandbox, "echo up; sleep 1000 | cat", signal)?;
        assert_eq!(ended, Some(code));
    }
    let exit = sandbox.wait_for_event("exec-exited")?;
    assert_eq!((&exit["exit"]["killed_by"], &exit["exit"]["signal"]), (&"client".into(), &"SIGTERM".into()));
    Ok(())
}
