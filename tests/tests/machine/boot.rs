//! What a machine is once it is up, and how it ends.

use std::{fs, time::Duration};

use crate::inside;
use agent_protocol::{
    failure::FailureKind,
    message::{ExecRequest, Stdio, TerminalSize},
};
use agent_tests::{Machine, Share, shell, until_within};
use anyhow::Context;
use serde_json::json;

/// As long as anything may take that a machine does first.
const BOOTED_WITHIN: Duration = Duration::from_mins(2);

/// Booting is what takes long, so one machine answers for all of this.
#[test]
fn a_machine_boots_and_is_what_was_asked_for() -> anyhow::Result<()> {
    for share in Share::all()? {
        boots_and_is_what_was_asked_for(share).with_context(|| format!("its files by {}", share.name()))?;
    }
    Ok(())
}

fn boots_and_is_what_was_asked_for(share: Share) -> anyhow::Result<()> {
    let agent = json!({ "argv": ["sh", "-c", "tty >/tmp/tty; test -w $(tty) && echo mine >/tmp/mine; sleep 1000"],
                        "terminal": {} });
    let spec = json!({ "name": "box", "agent": agent, "test_modules": ["vsock_loopback"], "test_share": share.name() });
    let Some(mut machine) = Machine::start(spec)? else { return Ok(()) };
    programs_run_as_the_user_and_may_nothing(&machine)?;
    it_is_mounted_as_asked_for_and_nothing_else_is(&machine)?;
    its_network_is_up_and_the_kernel_does_nothing_by_itself(&machine)?;
    commands_find_their_terminals_and_pipes_to_be_their_own(&machine)?;
    nobody_in_it_becomes_another(&machine)?;
    what_descends_from_a_command_ends_with_it(&machine)?;
    inside::init_cannot_be_dialled_from_inside(&machine)?;
    inside::the_host_needs_the_token_and_half_a_greeting_keeps_nobody_out(&machine)?;

    let ended = machine.stop()?;
    // The agent was told to end.
    assert_eq!(ended.report, "{\"ready\": true}\n{\"exit-code\": 143}\n", "{}", ended.console);
    assert!(ended.console.contains("the machine is up"), "{}", ended.console);
    assert!(!ended.console.contains("panic"), "{}", ended.console);
    Ok(())
}

/// What is looked at goes through the share: the device that connects us to init does not survive this kind of pause.
#[test]
fn the_clock_is_right_again_after_a_pause_and_the_agents_end_is_the_machines() -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_secs(5);
    let script = "while ! test -e go; do date +%s >new; mv -f new now; sleep 0.2; done; exit 7";
    let agent = json!({ "argv": ["sh", "-c", script], "restart": { "policy": "never" } });
    let spec = json!({ "agent": agent, "on_agent_exit": "end", "linger_ms": 0 });
    let Some(mut machine) = Machine::launch(spec, |_| {})? else { return Ok(()) };
    let work = machine.root().join("work");
    until_within(BOOTED_WITHIN, "the agent", || Ok(work.join("now").exists().then_some(())))?;
    let corrections = |machine: &Machine| machine.console().matches("set the clock").count();
    let before = corrections(&machine);
    machine.tell_qemu("stop")?;
    // What a person does by closing a laptop: only time has to pass.
    std::thread::sleep(PAUSE);
    machine.tell_qemu("cont")?;
    until_within(BOOTED_WITHIN, "the clock to be right", || {
        let inside: u64 = fs::read_to_string(work.join("now"))?.trim().parse().unwrap_or_default();
        let outside = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        Ok((inside.abs_diff(outside) <= 3 && corrections(&machine) > before).then_some(()))
    })
    .with_context(|| machine.console())?;

    fs::write(work.join("go"), "")?;
    let ended = machine.ended()?;
    assert_eq!(ended.report, "{\"ready\": true}\n{\"exit-code\": 7}\n", "{}", ended.console);
    Ok(())
}

fn programs_run_as_the_user_and_may_nothing(machine: &Machine) -> anyhow::Result<()> {
    assert_eq!(machine.sh("id -u; id -g; id -G; hostname; pwd")?, "1000\n1000\n1000\nbox\n/work\n");
    let none = "0000000000000000";
    for line in machine.sh("grep ^Cap /proc/self/status")?.lines() {
        assert!(line.ends_with(none), "{line}");
    }
    assert!(machine.sh("grep NoNewPrivs /proc/self/status")?.ends_with("\t1\n"));
    assert_eq!(machine.sh("cat /proc/1/comm")?, "init\n");
    Ok(())
}

fn it_is_mounted_as_asked_for_and_nothing_else_is(machine: &Machine) -> anyhow::Result<()> {
    let mounts = machine.sh("cut -d' ' -f2,4 /proc/mounts")?;
    let at: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(at, ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/run", "/etc"], "{mounts}");
    for line in mounts.lines() {
        assert!(line.contains("nosuid"), "{line}");
    }
    machine.sh("! touch /etc/x && touch /tmp/x /run/x /dev/shm/x /work/x && test -O /tmp/x")?;
    let devices =
        machine.sh("cd /dev && echo * && echo x >null && head -c3 zero | wc -c && test -r urandom")?;
    let names = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(devices, format!("{names}\n3\n"));
    assert!(machine.root().join("work/x").exists());
    Ok(())
}

fn its_network_is_up_and_the_kernel_does_nothing_by_itself(machine: &Machine) -> anyhow::Result<()> {
    assert!(machine.sh("ip addr show eth0")?.contains("inet 10.0.2.15/24"));
    assert!(machine.sh("ip addr show lo")?.contains("inet 127.0.0.1/8"));
    assert_eq!(machine.sh("route -n | grep ^0.0.0.0 | tr -s ' ' | cut -d' ' -f2")?, "10.0.2.2\n");
    assert_eq!(machine.sh("cat /proc/sys/kernel/modprobe /proc/sys/kernel/modules_disabled")?, "\n1\n");
    assert_eq!(machine.sh("ls /agent /modules /init 2>/dev/null; true")?, "");

    // Its own threads are the kernel's.
    assert!(machine.status()?.counts.processes < 8);
    assert!(machine.status()?.warnings.is_empty(), "{:?}", machine.status()?.warnings);
    Ok(())
}

fn commands_find_their_terminals_and_pipes_to_be_their_own(machine: &Machine) -> anyhow::Result<()> {
    let on_terminal = ExecRequest {
        stdio: Stdio::Terminal(TerminalSize { columns: 90, rows: 20 }),
        ..shell("stty size; test -w $(tty) && echo mine; echo again >$(tty)")
    };
    let done = machine.exec(&on_terminal)?.expect("started");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "20 90\r\nmine\r\nagain\r\n");
    // By their names, as scripts do it.
    assert_eq!(machine.sh("echo one >/dev/stdout; echo two >/proc/self/fd/1")?, "one\ntwo\n");
    assert_eq!(machine.sh("until test -e /tmp/mine; do sleep 0.1; done; cat /tmp/tty")?, "/dev/pts/0\n");
    Ok(())
}

fn nobody_in_it_becomes_another(machine: &Machine) -> anyhow::Result<()> {
    for user in ["0", "0:1000", "1001", "1000:0"] {
        let refused = machine.exec(&ExecRequest { user: Some(user.into()), ..shell("id") })?.expect_err(user);
        assert_eq!(refused.kind, FailureKind::Credentials, "{refused}");
    }
    let own = machine.exec(&ExecRequest { user: Some("1000".into()), ..shell("id -u") })?.expect("started");
    assert_eq!(own.stdout, b"1000\n");
    Ok(())
}

fn what_descends_from_a_command_ends_with_it(machine: &Machine) -> anyhow::Result<()> {
    let script = "(setsid sh -c 'sleep 1000 & echo $! >/tmp/pid; wait' &); sleep 1000";
    // On a busy host the machine may not come to it in the time that it is given.
    for timeout_ms in [2_000, 8_000, 32_000] {
        let request = ExecRequest { timeout_ms: Some(timeout_ms), ..shell(script) };
        let killed = machine.exec(&request)?.expect("started");
        assert_ne!(killed.exit.how.shell_code(), 0, "{:?}", killed.exit);
        if machine.sh("test -s /tmp/pid || echo not yet")?.is_empty() {
            break;
        }
    }
    machine.sh("pid=$(cat /tmp/pid); test $pid || exit 1; until ! test -e /proc/$pid; do sleep 0.1; done")?;
    Ok(())
}
