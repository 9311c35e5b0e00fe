//! Time limits, detached commands and clients that go away.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent_tests::{Sandbox, layer, until};
use serde_json::Value;

/// Whether any process inside has this word among its arguments.
fn runs(sandbox: &Sandbox, word: &str) -> anyhow::Result<bool> {
    // One letter in brackets, so that the search does not find itself.
    let (first, rest) = word.split_at(1);
    Ok(sandbox.sh(&format!("pgrep -f '[{first}]{rest}' >/dev/null"))?.code() == 0)
}

/// Starts a client whose command says `up` once it is set up.
fn start(mut command: Command) -> anyhow::Result<Child> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line)?;
    assert_eq!(line, "up\n");
    Ok(child)
}

/// A time limit that whoever is to be ended has been set up by: a machine may need seconds to start it.
fn limit(milliseconds: u32) -> Duration {
    Duration::from_millis((milliseconds * layer().patience.pow(2)).into())
}

fn exits(sandbox: &Sandbox) -> anyhow::Result<Vec<Value>> {
    Ok(sandbox.events()?.into_iter().filter(|event| event["event"] == "exec-exited").collect())
}

#[test]
fn out_of_time_means_all_of_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // A daemon as they are made: two forks, a session of its own, its parents gone, deaf to SIGTERM.
    let daemon = "(setsid sh -c \"trap '' TERM; sleep 7771; sleep 7772\" >/dev/null 2>&1 &)";
    let script = format!("{daemon}; (sleep 7773 &); trap '' TERM; sleep 7774; sleep 7775");
    let (began, limit) = (Instant::now(), limit(500));
    let words = format!("{}ms", limit.as_millis());
    let output = sandbox.run(["exec", "--timeout", &words, "box", "--", "sh", "-c", &script])?;
    assert!(began.elapsed() >= limit);
    output.exits(137)?;
    until("the whole tree to be gone", || Ok((!runs(&sandbox, "sleep 777")?).then_some(())))?;
    let exit = sandbox.wait_for_event("exec-exited")?;
    assert_eq!((&exit["exit"]["killed_by"], &exit["exit"]["signal"]), (&"timeout".into(), &"SIGKILL".into()));
    Ok(())
}

#[test]
fn who_ends_when_asked_keeps_its_own_exit_code() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "trap 'exit 9' TERM; while :; do sleep 0.05; done";
    let words = format!("{}ms", limit(200).as_millis());
    sandbox.run(["exec", "--timeout", &words, "box", "--", "sh", "-c", script])?.exits(9)?;
    let exit = sandbox.wait_for_event("exec-exited")?;
    assert_eq!(exit["exit"]["killed_by"], "timeout");
    // And in time means in time.
    sandbox.run(["exec", "--timeout", "1m", "box", "--", "true"])?.exits(0)?;
    Ok(())
}

#[test]
fn a_detached_command_needs_no_client() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "until test -e /tmp/go; do sleep 0.02; done; echo written >/tmp/result";
    let output = sandbox.run(["exec", "--detach", "box", "--", "sh", "-c", script])?.exits(0)?;
    assert!(output.text().parse::<u32>().is_ok(), "its process id inside: {output}");
    let execs = until("init's answer", || Ok(sandbox.status()?["init"]["execs"].as_u64()))?;
    assert_eq!(execs, 1);
    sandbox.sh("touch /tmp/go")?.exits(0)?;
    until("its result", || Ok((sandbox.sh("cat /tmp/result")?.text() == "written").then_some(())))?;
    until("its exit to be told", || {
        let exited = exits(&sandbox)?.into_iter().find(|event| event["exec"] == 1);
        Ok(exited.filter(|event| event["exit"]["code"] == 0))
    })?;
    Ok(())
}

#[test]
fn a_command_whose_client_is_killed_gets_sigterm_with_its_group() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // The shell would tell of the killed `sleep` on a stream that nobody reads any more.
    let script = "exec 2>/dev/null; sleep 8881 & trap 'echo told >/tmp/told; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let mut client = start(sandbox.shim(["exec", "box", "--", "sh", "-c", script]))?;
    client.kill()?;
    client.wait()?;
    let exit = sandbox.wait_for_event("exec-exited")?;
    let exit = &exit["exit"];
    assert_eq!((&exit["killed_by"], &exit["code"]), (&"disconnect".into(), &3.into()), "{exit}");
    assert_eq!(sandbox.sh("cat /tmp/told")?.text(), "told");
    assert!(!runs(&sandbox, "sleep 8881")?, "the rest of its group");
    Ok(())
}

#[test]
fn what_left_the_group_is_not_the_clients_any_more() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "setsid sh -c 'echo up; exec sleep 8882 >/dev/null 2>&1' & sleep 1000";
    let mut client = start(sandbox.shim(["exec", "box", "--", "sh", "-c", script]))?;
    client.kill()?;
    client.wait()?;
    sandbox.wait_for_event("exec-exited")?;
    assert!(runs(&sandbox, "sleep 8882")?, "as after nohup or setsid on any machine");
    Ok(())
}

#[test]
fn a_client_stopped_for_a_while_loses_nothing() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "echo up; seq 1 200000";
    let mut client = start(sandbox.shim(["exec", "box", "--", "sh", "-c", script]))?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP)?;
    // Others go on.
    assert_eq!(sandbox.sh("echo meanwhile")?.text(), "meanwhile");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT)?;
    let mut rest = String::new();
    std::io::Read::read_to_string(client.stdout.as_mut().unwrap(), &mut rest)?;
    assert!(rest.ends_with("\n199999\n200000\n"));
    assert!(until("the client to end", || Ok(client.try_wait()?))?.success());
    Ok(())
}

#[test]
fn commands_run_while_the_agent_is_parked_or_gone() -> anyhow::Result<()> {
    for (policy, state) in [("always", "parked"), ("never", "exited")] {
        let sandbox = Sandbox::builder().flags(["--restart", policy]).agent("exit 3").start()?;
        until("the agent to give up", || Ok((sandbox.status()?["agent"]["state"] == state).then_some(())))?;
        assert_eq!(sandbox.sh("echo here")?.exits(0)?.text(), "here");
        assert_eq!(sandbox.status()?["state"], "running");
    }
    Ok(())
}
