//! What a machine's programs may use, and what becomes of those that want more. The kernel's own: these tests are the only
//! ones that see it enforce anything, wherever they run.

use std::{fs, path::PathBuf, time::Duration};

use agent_protocol::{
    Request, ServerMessage,
    exit::{ExitRecord, How, KilledBy, LimitKind},
    message::{Resources, UnitState, UnitStatus},
};
use agent_tests::{Machine, copy_program, shell, until_within};
use anyhow::{Context, bail};
use serde_json::{Value, json};

const MEMORY_BYTES: u64 = 160 << 20;
const WITHIN: Duration = Duration::from_mins(2);

/// A machine whose agent does this as soon as it is let go.
fn start(agent: &str, restart: &Value) -> anyhow::Result<Option<Machine>> {
    let wait = format!("until test -e /work/go; do sleep 0.05; done; {agent}");
    let spec = json!({
        "limits": { "memory_bytes": MEMORY_BYTES, "cpus_milli": 900, "pids": 60 },
        "agent": { "argv": ["/bin/sh", "-c", wait], "restart": restart },
    });
    let Some(machine) = Machine::start(spec)? else { return Ok(None) };
    copy_program(&PathBuf::from(env!("CARGO_BIN_EXE_probe")), &machine.root().join("work/probe"))?;
    Ok(Some(machine))
}

fn let_go(machine: &Machine) -> anyhow::Result<()> {
    Ok(fs::write(machine.root().join("work/go"), "")?)
}

fn resources(machine: &Machine) -> anyhow::Result<Resources> {
    until_within(WITHIN, "what is used", || {
        match machine.ask(&Request::Resources).and_then(|mut raw| raw.message()) {
            Ok(ServerMessage::Resources(resources)) => Ok(Some(resources)),
            Ok(other) => bail!("expected what is used, not {other:?}"),
            // The device drops calls where the host is slow.
            Err(_) => Ok(None),
        }
    })
}

fn sh(machine: &Machine, script: &str) -> anyhow::Result<String> {
    until_within(WITHIN, "a command", || Ok(machine.sh(script).ok()))
}

fn agent(machine: &Machine) -> anyhow::Result<UnitStatus> {
    machine.status()?.units.into_iter().find(|unit| unit.name == "agent").context("no agent")
}

fn last_exit(machine: &Machine) -> anyhow::Result<ExitRecord> {
    // While memory is short, everything takes its time.
    until_within(WITHIN, "the agent to have ended", || {
        Ok(agent(machine).ok().and_then(|agent| agent.last_exit))
    })
    .with_context(|| machine.console())
}

fn is_out_of_memory(exit: &ExitRecord) -> bool {
    (exit.how, exit.killed_by, exit.limit) == (How::Signal(9), KilledBy::OutOfMemory, Some(LimitKind::Memory))
}

#[test]
fn what_is_used_is_told_with_what_may_be() -> anyhow::Result<()> {
    let Some(machine) = start("sleep 1000", &json!({ "policy": "never" }))? else { return Ok(()) };
    let group = sh(&machine, "cat /proc/self/cgroup")?;
    assert_eq!(group, "0::/inside\n", "init itself is in none");
    sh(&machine, "head -c 20000000 /dev/urandom >/tmp/file")?;
    let found = resources(&machine)?;
    assert_eq!(
        (found.memory_limit_bytes, found.cpu_limit_milli, found.pids_limit),
        (Some(MEMORY_BYTES), Some(900), Some(60)),
        "{found:?}"
    );
    assert!(found.memory_bytes.is_some_and(|used| (20_000_000..MEMORY_BYTES).contains(&used)), "{found:?}");
    assert!(found.memory_peak_bytes >= found.memory_bytes, "{found:?}");
    assert!(found.cpu_ms.is_some_and(|used| used > 0), "{found:?}");
    assert!(found.pids.is_some_and(|pids| (1..60).contains(&pids)), "{found:?}");
    assert_eq!(found.out_of_memory, Some(0), "{found:?}");

    // At the bound the shell may have to give up.
    let _ = machine.exec(&shell("for i in $(seq 100); do sleep 1000 >/dev/null 2>&1 & done"))?;
    let most = until_within(WITHIN, "the bound to be near", || {
        Ok(resources(&machine)?.pids.filter(|pids| *pids > 50))
    })?;
    assert!(most <= 60, "{most}");
    Ok(())
}

/// It is larger than each of them, so that the kernel by itself would take the agent.
#[test]
fn what_the_agent_has_started_goes_before_the_agent() -> anyhow::Result<()> {
    let Some(machine) = start("exec /work/probe family 90 2", &json!({ "policy": "never" }))? else {
        return Ok(());
    };
    let_go(&machine)?;
    let exit = last_exit(&machine)?;
    assert_eq!(
        (exit.how, exit.killed_by),
        (How::Code(2), KilledBy::Itself),
        "{exit:?}\n{}",
        machine.console()
    );
    until_within(WITHIN, "both to be told of", || {
        let warnings = machine.status()?.warnings;
        Ok(warnings.iter().any(|said| said.contains("has ended 2 processes")).then_some(()))
    })?;
    assert_eq!(resources(&machine)?.out_of_memory, Some(2));

    // A command is told of it as an agent is.
    let done =
        machine.exec(&shell("exec /work/probe eat 4096"))?.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    assert!(is_out_of_memory(&done.exit), "{:?}", done.exit);
    Ok(())
}

#[test]
fn an_agent_that_wants_too_much_ends_and_is_started_again() -> anyhow::Result<()> {
    let backoff =
        json!({ "policy": "on-failure", "backoff": { "initial_ms": 200 }, "fast_fail": { "count": 2 } });
    let Some(machine) = start("exec /work/probe eat 4096", &backoff)? else { return Ok(()) };
    let_go(&machine)?;
    let exit = last_exit(&machine)?;
    assert!(is_out_of_memory(&exit), "{exit:?}\n{}", machine.console());
    let parked = until_within(WITHIN, "the agent to have ended too often", || {
        Ok(agent(&machine).ok().filter(|agent| agent.state == UnitState::Parked))
    })?;
    let reason = parked.reason.unwrap_or_default();
    assert!(reason.contains("out of memory") && parked.restarts > 0, "{reason}");
    assert_eq!(sh(&machine, "echo init lives")?, "init lives\n");
    Ok(())
}
