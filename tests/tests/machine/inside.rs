//! Programs in a machine try what init keeps for the host.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use agent_protocol::{
    Request,
    handshake::{Token, Verdict},
    message::{ExecRequest, Stdio},
};
use agent_tests::{CID, Machine, PORT, copy_program, shell, until, until_within};
use serde_json::json;

const OFF: &str = r#"{ "nested_user_namespaces": true, "no_new_privileges": false, "seccomp": false,
                       "landlock_scope": false, "ignore_inside_signals": false }"#;

/// Puts the attacker's program into the machine.
fn bring_probe(machine: &Machine) -> anyhow::Result<()> {
    copy_program(&PathBuf::from(env!("CARGO_BIN_EXE_probe")), &machine.root().join("work/probe"))
}

pub(crate) fn init_cannot_be_dialled_from_inside(machine: &Machine) -> anyhow::Result<()> {
    bring_probe(machine)?;
    let said = machine.sh(&format!("/work/probe vsock {CID} {PORT}"))?;
    assert!(said.contains("vsock") && said.contains("closed"), "{said}");
    assert!(said.contains("not permitted"), "{said}");
    machine.sh("! reboot -f; ! date -s 2001-01-01; ! mount -t tmpfs none /tmp; ! chroot / true")?;
    Ok(())
}

/// With nothing closed but what the endpoint closes itself: who asks, and that they know the token.
#[test]
fn who_dials_it_all_the_same_gets_nothing_and_stops_nobody() -> anyhow::Result<()> {
    let hardening: serde_json::Value = serde_json::from_str(OFF)?;
    let spec = json!({ "test_modules": ["vsock_loopback"], "hardening": hardening });
    let Some(machine) = Machine::start(spec)? else { return Ok(()) };
    bring_probe(&machine)?;
    let said = machine.sh(&format!("/work/probe vsock {CID} {PORT}"))?;
    assert!(said.contains("hung up without a word") || said.contains("closed"), "{said}");
    assert!(!said.contains("init answered"), "{said}");

    let flood = format!("/work/probe vsock-flood {PORT} >/tmp/flood");
    let detached = ExecRequest { stdio: Stdio::Detached, ..shell(&flood) };
    let _flooding = machine.ask(&Request::Exec(detached))?.message()?;
    machine.sh("until grep -q flooding /tmp/flood; do sleep 0.1; done")?;
    // They can fill the kernel's queue for a moment, and the host tries again. Where anything is closed they do not get
    // as far: no program of a sandbox makes such a socket.
    for _ in 0..5 {
        let said = until_within(Duration::from_mins(1), "the host to get through", || {
            Ok(machine.sh("echo still there").ok())
        })?;
        assert_eq!(said, "still there\n");
        until_within(Duration::from_mins(1), "a status", || Ok(machine.status().ok()))?;
    }
    let refused = machine.console().matches("refused a connection from inside").count();
    assert_eq!(refused, 1, "said once: {}", machine.console());
    Ok(())
}

pub(crate) fn the_host_needs_the_token_and_half_a_greeting_keeps_nobody_out(
    machine: &Machine,
) -> anyhow::Result<()> {
    assert_eq!(machine.dial()?.greet()?, Verdict::Denied);
    assert_eq!(machine.dial()?.greet_with(Token([b'u'; 32]))?, Verdict::Denied);
    let mut halves = Vec::new();
    for _ in 0..64 {
        let mut half = machine.dial()?;
        half.stream.write_all(b"AG")?;
        halves.push(half);
    }
    machine.sh("true")?;
    // Each is let go of in time.
    until("init to hang up", || {
        let mut byte = [0];
        Ok(halves.iter_mut().all(|half| matches!(half.stream.read(&mut byte), Ok(0) | Err(_))).then_some(()))
    })
}
