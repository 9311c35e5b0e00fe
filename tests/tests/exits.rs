//! Exits told whole, and the same wherever they are told.

use agent_protocol::{
    Request, ServerMessage,
    message::{LogFrom, LogRequest},
};
use agent_tests::{Heard, Init, Raw, Sandbox, layer, until};
use serde_json::{Value, json};

/// What a run of the agent or of a command is expected to have ended like.
struct Expected {
    script: &'static str,
    status: i32,
    code: Value,
    signal: Value,
    killed_by: &'static str,
    limit: Value,
}

fn by_code(script: &'static str, code: i32) -> Expected {
    Expected {
        script,
        status: code,
        code: code.into(),
        signal: Value::Null,
        killed_by: "itself",
        limit: Value::Null,
    }
}

fn by_signal(script: &'static str, number: i32, name: &str, killed_by: &'static str) -> Expected {
    Expected {
        script,
        status: 128 + number,
        code: Value::Null,
        signal: name.into(),
        killed_by,
        limit: Value::Null,
    }
}

fn limited(script: &'static str, number: i32, name: &str, limit: &str) -> Expected {
    Expected { limit: limit.into(), ..by_signal(script, number, name, "limit") }
}

/// None of these dumps a core: that has a test of its own.
fn endings() -> Vec<Expected> {
    vec![
        by_code("exit 0", 0),
        by_code("exit 255", 255),
        by_signal("ulimit -c 0; kill -SEGV $$", 11, "SIGSEGV", "itself"),
        by_signal("ulimit -c 0; kill -ABRT $$", 6, "SIGABRT", "itself"),
        by_signal("kill -PIPE $$", 13, "SIGPIPE", "itself"),
        // Who sent these leaves no trace.
        by_signal("kill -KILL $$", 9, "SIGKILL", "unknown"),
        by_signal("kill -TERM $$", 15, "SIGTERM", "unknown"),
        limited("ulimit -c 0; ulimit -S -t 1; while :; do :; done", 24, "SIGXCPU", "cpu-time"),
        limited("ulimit -c 0; ulimit -f 1; exec cat /dev/zero >/tmp/large", 25, "SIGXFSZ", "file-size"),
    ]
}

impl Expected {
    fn check(&self, exit: &Value) {
        let script = self.script;
        assert_eq!(exit["status"], self.status, "{script}: {exit}");
        assert_eq!(exit["code"], self.code, "{script}: {exit}");
        assert_eq!(exit["signal"], self.signal, "{script}: {exit}");
        assert_eq!(exit["killed_by"], self.killed_by, "{script}: {exit}");
        assert_eq!(exit["limit"], self.limit, "{script}: {exit}");
        for never in ["core_dumped", "out_of_memory", "output_truncated"] {
            assert_eq!(exit[never], false, "{script}: {exit}");
        }
        assert!(exit["ran_ms"].is_u64() && exit["at"].is_string(), "{exit}");
    }
}

#[test]
fn of_commands_in_the_exit_code_and_in_events() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for expected in endings() {
        sandbox.sh(expected.script)?.exits(expected.status)?;
    }
    let last = endings().len();
    sandbox.wait_for("the last exit", |event| event["event"] == "exec-exited" && event["exec"] == last)?;
    let events = sandbox.events()?;
    let exits = events.iter().filter(|event| event["event"] == "exec-exited");
    for (expected, event) in endings().iter().zip(exits) {
        expected.check(&event["exit"]);
    }
    Ok(())
}

#[test]
fn of_the_agent_in_status_and_in_events() -> anyhow::Result<()> {
    for expected in endings() {
        let script = format!("until test -e /tmp/go; do sleep 0.02; done; {}", expected.script);
        let sandbox = Sandbox::builder().flags(["--restart", "never"]).agent(&script).start()?;
        sandbox.sh("touch /tmp/go")?.exits(0)?;
        let event = sandbox.wait_for_event("unit-exited")?;
        expected.check(&event["exit"]);
        let status = sandbox.status()?;
        assert_eq!(status["agent"]["state"], "exited");
        assert_eq!(status["agent"]["last_exit"], event["exit"], "{}", expected.script);
        // And after the sandbox has ended, from what was written down.
        sandbox.tell("stop", &[])?.success()?;
        let status = sandbox.status()?;
        assert_eq!(status["state"], "stopped");
        assert_eq!(status["agent"]["last_exit"], event["exit"], "{}", expected.script);
    }
    Ok(())
}

#[test]
fn of_the_agent_in_the_exit_code_of_run() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let project = sandbox.project().to_owned();
    for (number, expected) in endings().iter().enumerate() {
        let name = format!("run{number}");
        let mut command = sandbox.shim(["run", "--rm", "--env", "host", "--name", &name]);
        command.arg(&project).args(["--", "sh", "-c", expected.script]);
        agent_tests::finish(command, b"")?.exits(expected.status)?;
    }
    Ok(())
}

#[test]
fn who_kills_the_agent_from_inside_is_unknown_and_the_next_session_begins() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let pid = sandbox.status()?["agent"]["pid"].to_string();
    sandbox.sh(&format!("kill -9 {pid}"))?.exits(0)?;
    let event = sandbox.wait_for_event("unit-exited")?;
    assert_eq!(
        (&event["exit"]["killed_by"], &event["exit"]["signal"]),
        (&"unknown".into(), &"SIGKILL".into())
    );
    until("another agent", || {
        let agent = &sandbox.status()?["agent"];
        Ok((agent["restarts"] == 1 && agent["pid"].is_u64()).then_some(()))
    })
}

#[test]
fn stop_and_timeout_are_told() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.run(["exec", "--timeout", "100ms", "box", "--", "sleep", "1000"])?.exits(143)?;
    let exec = sandbox.wait_for_event("exec-exited")?;
    assert_eq!((&exec["exit"]["killed_by"], &exec["exit"]["signal"]), (&"timeout".into(), &"SIGTERM".into()));
    sandbox.run(["exec", "--detach", "box", "--", "sleep", "1000"])?.exits(0)?;
    sandbox.tell("stop", &[])?.success()?;
    let events = sandbox.events()?;
    let last = |name: &str| {
        events.iter().rfind(|event| event["event"] == name).map(|event| &event["exit"]["killed_by"])
    };
    assert_eq!(last("unit-exited"), Some(&"stop".into()));
    assert_eq!(last("exec-exited"), Some(&"stop".into()));
    assert_eq!(sandbox.status()?["agent"]["last_exit"]["killed_by"], "stop");
    Ok(())
}

/// Whether a core is written is decided by the machine: `core_pattern`, and what it names. Where it is, it is said.
#[test]
fn a_core_dump_is_told_where_the_kernel_makes_one() -> anyhow::Result<()> {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let sandbox = Sandbox::builder().start()?;
    let output = sandbox.sh("cd /tmp && ulimit -c unlimited && kill -SEGV $$")?.exits(139)?;
    let exit = sandbox.wait_for_event("exec-exited")?["exit"].clone();
    if pattern.trim().is_empty() {
        assert_eq!(exit["core_dumped"], false, "{output}");
    } else if pattern.starts_with('|') || !pattern.contains('/') {
        assert_eq!(exit["core_dumped"], true, "core_pattern is {pattern:?}; {output}");
    } else {
        agent_tests::skip(&format!("core_pattern names a folder, {}", pattern.trim()));
    }
    Ok(())
}

/// Needs a delegated cgroup v2; without one no limit of memory exists, and nothing is claimed.
#[test]
fn out_of_memory_is_told_where_memory_can_be_limited() -> anyhow::Result<()> {
    // A machine's kernel needs some of it for itself, and refuses at once what is more than all.
    let (memory, much) = if layer().shares_kernel { ("64M", 256) } else { ("512M", 1024) };
    let eat = format!(
        "until test -e /tmp/go; do sleep 0.02; done; exec perl -e 'push @x, \"x\" x (1 << 20) for 1..{much}; sleep 1000'"
    );
    let (sandbox, output) =
        Sandbox::builder().flags(["--memory", memory, "--restart", "never"]).agent(&eat).try_start()?;
    if output.code() != 0 {
        assert!(output.errors().contains("cgroup"), "{output}");
        agent_tests::skip(&format!(
            "no limit of memory here: {}",
            output.errors().lines().nth(1).unwrap_or_default()
        ));
        return Ok(());
    }
    sandbox.sh("touch /tmp/go")?;
    let exit = sandbox.wait_for_event("unit-exited")?["exit"].clone();
    assert_eq!((&exit["signal"], &exit["out_of_memory"]), (&"SIGKILL".into(), &true.into()), "{exit}");
    assert_eq!(exit["limit"], "memory");
    Ok(())
}

/// The ring keeps a mebibyte. What falls out of it before the monitor, which writes the log, had it, is lost.
#[test]
fn output_that_nobody_could_read_in_time_is_told() -> anyhow::Result<()> {
    let script = "until test -e /tmp/go; do sleep 0.02; done; \
                  if test -e /tmp/much; then head -c 4000000 /dev/zero | tr '\\0' x; fi; exit 3";
    for much in [false, true] {
        let sandbox = Sandbox::builder().flags(["--restart", "never"]).agent(script).start()?;
        let monitor = sandbox.status()?["monitor"]["pid"].as_i64().expect("a monitor");
        let monitor = nix::unistd::Pid::from_raw(i32::try_from(monitor)?);
        nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGSTOP)?;
        sandbox.sh(if much { "touch /tmp/much /tmp/go" } else { "touch /tmp/go" })?.exits(0)?;
        let exited = until("the agent to have exited", || {
            let status = sandbox.status()?;
            Ok((status["agent"]["state"] == "exited").then_some(status))
        });
        nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGCONT)?;
        let exit = exited?["agent"]["last_exit"].clone();
        assert_eq!((&exit["output_truncated"], &exit["code"]), (&much.into(), &3.into()), "{exit}");
        let event = sandbox.wait_for_event("unit-exited")?;
        assert_eq!(event["exit"], exit);
        let log = until("the log to be written", || {
            let log = sandbox.tell("logs", &["--raw"])?.text();
            // Before what got lost stands what was on its way already.
            let whole = log.contains("bytes were not recorded") && log.ends_with('x');
            Ok((!much || whole).then_some(log))
        })?;
        assert_eq!(log.contains("bytes were not recorded"), much);
    }
    Ok(())
}

/// A reader that keeps up loses nothing, however much there is: the ring of a service keeps 64 KiB.
#[test]
fn output_that_was_read_along_is_whole() -> anyhow::Result<()> {
    const PIECE: u64 = 8192;
    const PIECES: u64 = 40;
    let script = format!(
        "mkfifo pipe; exec 3<>pipe; touch up; n=0; \
         while test $n -lt {PIECES}; do read go <&3; head -c {PIECE} /dev/zero; n=$((n+1)); done"
    );
    for is_read in [true, false] {
        let init = Init::start(json!({
            "services": [{ "name": "talks", "argv": ["sh", "-c", script], "restart": { "policy": "never" } }],
        }))?;
        let request = LogRequest { unit: "talks".to_owned(), from: LogFrom::Offset(0), follow: true };
        let mut log = if is_read { Some(Raw::ask(&init.socket(), &Request::Log(request))?) } else { None };
        init.wait_for_file("up", |_| true)?;
        for piece in 1..=PIECES {
            init.sh("echo go >pipe")?;
            let mut have = (piece - 1) * PIECE;
            while let Some(log) = log.as_mut().filter(|_| have < piece * PIECE) {
                match log.hear()? {
                    Heard::Data { offset, bytes, .. } => {
                        assert_eq!(offset, have);
                        have += bytes.len() as u64;
                    }
                    Heard::Message(ServerMessage::LogCaughtUp) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        let (_, exit) = init.exit_of("talks", 0)?;
        assert_eq!(exit.output_truncated, !is_read);
        assert_eq!(init.unit("talks")?.last_exit, Some(exit));
    }
    Ok(())
}
