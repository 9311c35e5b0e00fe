//! Many commands at once, and one after the other.

use std::{process::Stdio, thread};

use agent_tests::{Part, Sandbox, layer, until};

/// Fewer in a machine, which has to start them all before the first client loses patience.
#[test]
fn fifty_at_once_do_not_mix() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let sandbox = &sandbox;
    thread::scope(|scope| {
        let started: Vec<_> = (0..50 / layer().patience)
            .map(|number| {
                scope.spawn(move || {
                    let script = format!("sed s/^/{number}-/; echo {number} >&2; exit {number}");
                    let input = format!("{}\n", "line\n".repeat(500));
                    let args = ["exec", "-i", "box", "--", "sh", "-c", &script];
                    let output =
                        sandbox.run_with_input(args, input.as_bytes())?.exits(i32::try_from(number)?)?;
                    let line = format!("{number}-line");
                    assert_eq!(output.text().lines().filter(|found| *found == line).count(), 500);
                    assert_eq!(output.errors(), format!("{number}\n"));
                    anyhow::Ok(())
                })
            })
            .collect();
        started.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

/// Nothing is left of a command: no descriptor, process or memory in init.
#[test]
fn three_hundred_in_a_row_leave_nothing_behind() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let pid = sandbox.pid(Part::Init)?;
    let state = || -> anyhow::Result<(usize, u64)> {
        // A machine's init cannot be looked into from here; what it says of itself can be compared.
        if !layer().shares_kernel {
            let connections =
                until("init's answer", || Ok(sandbox.status()?["init"]["connections"].as_u64()))?;
            return Ok((usize::try_from(connections)?, 0));
        }
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Ok((descriptors, agent_tests::rss_bytes(pid)?))
    };
    for _ in 0..layer().often(50) {
        sandbox.sh("exit 0")?.exits(0)?;
    }
    let (descriptors, memory) = state()?;
    for _ in 0..layer().often(300) {
        sandbox.sh("exit 0")?.exits(0)?;
    }
    // A connection is closed by init shortly after its client has gone.
    until("init to have no more descriptors than before", || {
        Ok((state()?.0 <= descriptors.max(1)).then_some(()))
    })?;
    let grown = state()?.1.saturating_sub(memory);
    assert!(grown < 1024 * 1024, "init grew by {grown} bytes");
    let status = sandbox.status()?;
    assert_eq!(status["init"]["execs"], 0);
    Ok(())
}

#[test]
fn the_limit_is_told_and_passes() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // 256 may run; all are started by one command inside the limit of connections.
    for _ in 0..256 {
        sandbox.run(["exec", "--detach", "box", "--", "sleep", "1000"])?.exits(0)?;
    }
    let refused = sandbox.sh("true")?;
    refused.exits(125)?.complains("256 commands run already")?;
    let mut status = sandbox.shim(["status", "box"]);
    assert!(status.stdout(Stdio::null()).status()?.success(), "status works at the limit");
    let kill = agent_protocol::Request::ExecSignal { exec: agent_protocol::message::ExecId(7), signal: 9 };
    let answer = sandbox.ask(&kill)?.message()?;
    assert_eq!(answer, agent_protocol::ServerMessage::Done);
    until("a place", || Ok((sandbox.sh("true")?.code() == 0).then_some(())))
}
