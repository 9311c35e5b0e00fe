//! Commands on a terminal.

use agent_tests::{Pty, Sandbox, until};

fn on_terminal(sandbox: &Sandbox, script: &str) -> anyhow::Result<Pty> {
    Pty::spawn(&sandbox.shim(["exec", "-it", "box", "--", "sh", "-c", script]))
}

#[test]
fn it_is_a_terminal_of_the_persons_size_and_kind() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM; exit 8";
    let mut pty = on_terminal(&sandbox, script)?;
    assert_eq!(pty.ended()?, 8);
    pty.wait_for("30 100\r\nxterm-256color\r\n")
}

#[test]
fn what_is_typed_arrives_and_keys_are_signals() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let before = Pty::spawn(&sandbox.command("sleep", ["1000"]))?.settings()?;
    let script = "trap 'echo interrupted' INT; echo up; read line; echo \"got $line\"; \
                  while :; do sleep 0.02; test -e /tmp/go && exit 0; done";
    let mut pty = on_terminal(&sandbox, script)?;
    pty.wait_for("up")?;
    pty.type_in("some text\r")?;
    pty.wait_for("got some text")?;
    pty.type_in("\x03")?;
    pty.wait_for("interrupted")?;
    sandbox.sh("touch /tmp/go")?.exits(0)?;
    assert_eq!(pty.ended()?, 0);
    assert_eq!(pty.settings()?, before, "the person's terminal is as it was");
    Ok(())
}

#[test]
fn the_size_follows_the_window() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "trap 'echo now $(stty size)' WINCH; echo up; while :; do sleep 0.02; done";
    let pty = on_terminal(&sandbox, script)?;
    pty.wait_for("up")?;
    pty.resize(77, 22)?;
    pty.wait_for("now 22 77")?;
    pty.resize(1, 1)?;
    pty.wait_for("now 1 1")
}

#[test]
fn whose_client_is_killed_is_hung_up() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "trap 'echo hung up >/tmp/hup; exit' HUP; echo up; while :; do sleep 0.02; done";
    let pty = on_terminal(&sandbox, script)?;
    pty.wait_for("up")?;
    // Run by the tests' own user, the client is the session's leader itself.
    let client = nix::unistd::Pid::from_raw(i32::try_from(pty.child.id())?);
    nix::sys::signal::kill(client, nix::sys::signal::Signal::SIGKILL)?;
    until("SIGHUP inside", || Ok((sandbox.sh("cat /tmp/hup")?.text() == "hung up").then_some(())))?;
    sandbox.wait_for_event("exec-exited")?;
    Ok(())
}

#[test]
fn whose_window_is_closed_is_hung_up_too() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let script = "trap 'echo hung up >/tmp/hup; exit' HUP; echo up; while :; do sleep 0.02; done";
    let mut pty = on_terminal(&sandbox, script)?;
    pty.wait_for("up")?;
    pty.close();
    until("SIGHUP inside", || Ok((sandbox.sh("cat /tmp/hup")?.text() == "hung up").then_some(())))
}

#[test]
fn what_stays_in_the_background_does_not_hold_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let mut pty = on_terminal(&sandbox, "trap '' HUP; sleep 1000 & yes & echo done; exit 5")?;
    assert_eq!(pty.ended()?, 5);
    Ok(())
}

#[test]
fn without_one_of_our_own_it_still_has_one_inside() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let output = sandbox.run(["exec", "-t", "box", "--", "sh", "-c", "tty && stty size"])?.exits(0)?;
    assert!(output.text().starts_with("/dev/pts/"), "{output}");
    Ok(())
}
