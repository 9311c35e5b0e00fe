//! `agent-init --spec FILE` by itself, without anybody to ask it anything: as s6 or supervisord in a container.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use agent_tests::{Init, agent_init, finish, until};
use serde_json::json;

#[test]
fn what_units_write_goes_where_inits_own_output_goes() -> anyhow::Result<()> {
    let mut init = Init::start_alone(json!({
        "steps": [{ "name": "prepare", "argv": ["sh", "-c", "echo step out; echo step err >&2"] }],
        "services": [{
            "name": "db", "argv": ["sh", "-c", "echo service out; echo service err >&2; touch up; sleep 1000"],
            "readiness": { "command": { "argv": ["test", "-e", "up"], "interval_ms": 20 } },
        }],
        "agent": { "argv": ["sh", "-c", "echo agent out; echo agent err >&2; exit 4"], "restart": { "policy": "never" } },
        "on_agent_exit": "end", "linger_ms": 0, "log_level": "off",
    }))?;
    assert_eq!(init.ended()?, 4, "the exit code is the agent's");
    let (stdout, stderr) = init.printed();
    assert_eq!(stdout, "step out\nservice out\nagent out\n");
    assert_eq!(stderr, "step err\nservice err\nagent err\n");
    Ok(())
}

#[test]
fn the_log_level_is_the_specs() -> anyhow::Result<()> {
    let spec = |level: &str| {
        json!({
            "agent": { "argv": ["true"] }, "on_agent_exit": "end", "linger_ms": 0, "log_level": level,
        })
    };
    let mut quiet = Init::start_alone(spec("off"))?;
    quiet.ended()?;
    assert_eq!(quiet.printed().1, "");
    let mut loud = Init::start_alone(spec("info"))?;
    loud.ended()?;
    assert!(loud.printed().1.contains("UnitExited"), "{}", loud.printed().1);
    Ok(())
}

#[test]
fn restarts_and_services_need_nobody_either() -> anyhow::Result<()> {
    let mut init = Init::start_alone(json!({
        "agent": {
            "argv": ["sh", "-c", "echo run >>runs; test $(wc -l <runs) -ge 3"],
            "restart": { "policy": "on-failure", "backoff": { "initial_ms": 10 }, "fast_fail": { "count": 0 } },
        },
        "on_agent_exit": "end", "linger_ms": 0,
    }))?;
    assert_eq!(init.ended()?, 0);
    assert_eq!(init.read("runs"), "run\nrun\nrun\n");
    Ok(())
}

/// The engine that runs a container stops it by a signal to PID 1.
#[test]
fn sigterm_from_outside_is_the_ordered_end_and_others_are_passed_on() -> anyhow::Result<()> {
    let agent = "trap 'echo usr1 >>said' USR1; trap 'echo term >>said; exit 9' TERM; touch up; \
                 while :; do sleep 0.02; done";
    let mut init = Init::start_alone(json!({
        "services": [{ "name": "db", "argv": ["sh", "-c", "trap 'echo db >>said; exit' TERM; while :; do sleep 0.02; done"] }],
        "agent": { "argv": ["sh", "-c", agent] },
    }))?;
    init.wait_for_file("up", |_| true)?;
    let pid = nix::unistd::Pid::from_raw(init.host_pid()?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1)?;
    init.wait_for_file("said", |text| text == "usr1\n")?;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
    assert_eq!(init.ended()?, 9);
    assert_eq!(init.read("said"), "usr1\nterm\ndb\n");
    Ok(())
}

#[test]
fn the_same_signal_from_inside_is_ignored() -> anyhow::Result<()> {
    let agent = "kill -TERM 1; kill -INT 1; kill -KILL 1; kill -STOP 1; echo still here; exit 0";
    let mut init = Init::start_alone(json!({
        "agent": { "argv": ["sh", "-c", agent], "restart": { "policy": "never" } },
        "on_agent_exit": "end", "linger_ms": 0, "log_level": "off",
    }))?;
    assert_eq!(init.ended()?, 0);
    assert_eq!(init.printed().0, "still here\n");
    Ok(())
}

fn by_itself(args: &[&str], input: &[u8]) -> anyhow::Result<agent_tests::Output> {
    let mut command = Command::new(agent_init());
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin");
    finish(command, input)
}

#[test]
fn a_wrong_spec_is_refused_by_name_before_anything_runs() -> anyhow::Result<()> {
    for (spec, about) in [
        ("{", "EOF"),
        ("[]", "not a JSON object"),
        (r#"{"version": 2}"#, "version"),
        (r#"{"agent": {"argv": []}}"#, "argv"),
        (r#"{"agent": {"argv": ["true"]}, "colour": 1}"#, "colour"),
        (r#"{"services": [{"name": "a", "argv": ["x"], "after": ["b"]}]}"#, "b"),
        (r#"{"services": [{"name": "a", "argv": ["x"], "after": ["a"]}]}"#, "a"),
        (r#"{"control": {"listen": {"fd": 77}}}"#, "77"),
        (r#"{"control": {"listen": {"fd": 1}}}"#, "standard descriptor"),
        (r#"{"control": {"listen": {"unix": "/tmp/x"}}}"#, "token"),
    ] {
        // From a pipe, which is descriptor 0.
        let output = by_itself(&["--spec-fd", "0"], spec.as_bytes())?;
        assert_eq!(output.text(), "", "{spec}");
        output.exits(125)?.complains(about)?;
    }
    by_itself(&["--spec", "/no/such/file"], b"")?.exits(125)?.complains("No such file")?;
    by_itself(&["--spec"], b"")?.exits(1)?.complains("--spec needs a value")?;
    Ok(())
}

/// Everybody has a pid there, so that nobody can be told to be inside.
#[test]
fn outside_a_namespace_a_signal_ends_it_too() -> anyhow::Result<()> {
    let spec = json!({
        "env": { "PATH": "/usr/bin:/bin" },
        "agent": { "argv": ["sh", "-c", "trap 'exit 8' TERM; echo up; while :; do sleep 0.02; done"] },
        "log_level": "off",
    });
    let mut child = Command::new(agent_init())
        .args(["--spec-fd", "0"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(spec.to_string().as_bytes())?;
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3])?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
    assert_eq!(until("init to end", || Ok(child.try_wait()?))?.code(), Some(8));
    Ok(())
}

/// Without a PID namespace of its own it minds its own descendants, and nothing else of the machine.
#[test]
fn outside_a_namespace_it_ends_what_it_started_and_nothing_else() -> anyhow::Result<()> {
    let mut bystander = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
    let spec = json!({
        "env": { "PATH": "/usr/bin:/bin" },
        "hardening": { "no_new_privileges": false, "seccomp": false, "landlock_scope": false, "ignore_inside_signals": false },
        "agent": { "argv": ["sh", "-c", "setsid sleep 6661 & sleep 6661 & exit 3"], "restart": { "policy": "never" } },
        "on_agent_exit": "end", "linger_ms": 0, "log_level": "off",
    });
    let output = by_itself(&["--spec-fd", "0"], spec.to_string().as_bytes());
    let alive = bystander.try_wait()?.is_none();
    bystander.kill()?;
    bystander.wait()?;
    output?.exits(3)?;
    assert!(alive, "a process of somebody else's was ended");
    until("its processes to be gone", || {
        let left = Command::new("pgrep").args(["-xf", "sleep 6661"]).output()?;
        Ok(left.stdout.is_empty().then_some(()))
    })
}

/// Nobody drains the pipe of its output for a while: init waits as any program would, and goes on.
#[test]
fn a_slow_reader_of_its_output_loses_nothing() -> anyhow::Result<()> {
    let spec = json!({
        "env": { "PATH": "/usr/bin:/bin" },
        "hardening": { "no_new_privileges": false, "seccomp": false, "landlock_scope": false, "ignore_inside_signals": false },
        "agent": { "argv": ["seq", "1", "100000"], "restart": { "policy": "never" } },
        "on_agent_exit": "end", "linger_ms": 0, "log_level": "off",
    });
    let mut child = Command::new(agent_init())
        .args(["--spec-fd", "0"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(spec.to_string().as_bytes())?;
    std::thread::sleep(Duration::from_millis(300));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text)?;
    assert_eq!(text.lines().count(), 100_000);
    assert!(until("init to end", || Ok(child.try_wait()?))?.success());
    Ok(())
}
