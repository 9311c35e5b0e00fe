//! What a machine of its own costs: its start beside that of one without us, init's part of that, and commands over vsock.

use std::{
    fs,
    io::Read,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use agent_protocol::message::Stdio as Streams;
use agent_tests::{Boot, Machine, copy_program, counting_qemu};
use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::{Setting, absolute, against};
use crate::{
    machine::Bare,
    ours::{Caller, Ours},
    rounds::{Contender, in_turn},
    stats::Samples,
    table::{Outcome, Row, Series, Unit},
    tools::{find, millis, quiet, timed},
};

const AGENT: [&str; 2] = ["sleep", "100000"];

/// From `start`, typed, to its return, beside qemu of the same kernel with an init that does nothing.
pub(super) fn start(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::with_machines(setting.workshop, None)?;
    let bare = Bare::new(&ours, setting.workshop);
    ours.start("again", &[], &AGENT)?;
    ours.stop("again")?;
    let contenders = vec![
        Contender::repeated("agent-shim start", 1, || {
            let took = ours.start("new", &[], &AGENT)?;
            ours.destroy("new")?;
            Ok(millis(took))
        }),
        Contender::repeated("agent-shim start, again", 1, || {
            let took = ours.start_again("again")?;
            ours.stop("again")?;
            Ok(millis(took))
        }),
        Contender::if_there("qemu, no modules, an init that says a byte", &bare, |bare| {
            Contender::repeated("qemu, no modules, an init that says a byte", 1, || bare.boot())
        }),
    ];
    Ok(vec![Row {
        name: "start-microvm",
        what: "start a machine: command typed to init ready".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(5), contenders)?,
        targets: vec![against("agent-shim start", "qemu, no modules, an init that says a byte", 1.5)],
    }])
}

/// What init does in a machine before it is ready, in the machine's own time; and where each instruction counts a nanosecond.
pub(super) fn init_share(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let counting = counting_qemu(setting.workshop.folder())?;
    let timed = Ours::with_machines(setting.workshop, None)?;
    let counted = Ours::with_machines(setting.workshop, Some(&counting))?;
    // Whoever counts has one processor, so that no other's instructions count.
    let emulated = ["--accel", "tcg", "--vcpus", "1"];
    let ways: [(&Ours, &[&str], [&str; 4]); 2] = [
        (&timed, &[], ["init", "its drivers", "its files", "the kernel before"]),
        (
            &counted,
            &emulated,
            [
                "init, 1 ns an instruction",
                "its drivers, the same",
                "its files, the same",
                "the kernel before, the same",
            ],
        ),
    ];
    let mut all = vec![Samples::default(); 8];
    for round in 0..=setting.rounds(5) {
        for (way, (ours, flags, _)) in ways.iter().enumerate() {
            ours.start("box", flags, &AGENT)?;
            let Boot { kernel, init, drivers, files } = Boot::of(&ours.folder("box"))?;
            ours.destroy("box")?;
            if round > 0 {
                for (part, took) in [init, drivers, files, kernel].into_iter().enumerate() {
                    all[4 * way + part].add_round(vec![took]);
                }
            }
        }
    }
    let names = ways.iter().flat_map(|(_, _, names)| names);
    let series = names.zip(all);
    let series = series
        .map(|(who, samples)| Series { who: (*who).to_owned(), outcome: Outcome::Measured(samples) })
        .collect();
    Ok(vec![Row {
        name: "init-guest",
        what: "init in a machine, first instruction to ready, drivers loaded and files mounted".to_owned(),
        unit: Unit::Milliseconds,
        series,
        targets: vec![absolute("init", 100.0), absolute("init, 1 ns an instruction", 100.0)],
    }])
}

/// How much is poured: a machine that is emulated moves it in a second.
const BYTES: u64 = 32 * 1024 * 1024;

/// Where socat listens in the machine, for each of the two rows.
const RUNS: u32 = 5000;
const POURS: u32 = 5001;

/// A command, and a stream, over vsock; beside socat's over the same device.
///
/// No program in a sandbox of ours may have such sockets. So there is a machine of its own for both, where init forbids nothing.
pub(super) fn commands(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let bytes = BYTES.to_string();
    let everything = json!({ "nested_user_namespaces": true, "no_new_privileges": false, "seccomp": false,
        "landlock_scope": false, "ignore_inside_signals": false });
    let machine =
        Machine::start(json!({ "hardening": everything }))?.context("there can be no machine here")?;
    let bin = machine.root().join("bin");
    copy_program(&setting.workshop.floor(), &bin)?;
    let caller = Caller::of_machine(&machine);
    let socat = find("socat").and_then(|socat| {
        with_libraries(&socat, &machine.root())?;
        let listeners = format!(
            "socat VSOCK-LISTEN:{RUNS},fork 'EXEC:floor nothing' & \
             exec socat -b 65536 VSOCK-LISTEN:{POURS},fork 'EXEC:floor pour {bytes},pipes'"
        );
        caller.exec(&["sh", "-c", &listeners], Streams::Detached)?;
        until_it_listens(&caller)
    });
    let ours = Ours::with_machines(setting.workshop, None)?;
    ours.start("box", &[], &AGENT)?;
    let exec = |caller: &Caller| -> anyhow::Result<f64> {
        let began = Instant::now();
        caller.exec(&["floor", "nothing"], Streams::Frames)?;
        Ok(millis(began.elapsed()))
    };
    let latency = vec![
        Contender::repeated("ours, an open client", 10, || exec(&caller)),
        Contender::repeated("agent-shim exec", 10, || {
            Ok(millis(timed(&mut ours.exec("box", &["/workspace/floor", "nothing"]))?))
        }),
        Contender::if_there("socat EXEC", &socat, |()| {
            Contender::repeated("socat EXEC", 10, || {
                let began = Instant::now();
                drain(&caller, RUNS, 0)?;
                Ok(millis(began.elapsed()))
            })
        }),
        Contender::repeated("ours, a ping", 10, || {
            let began = Instant::now();
            caller.ping()?;
            Ok(millis(began.elapsed()))
        }),
    ];
    let latency = in_turn(setting.rounds(6), latency)?;
    let pour = ["floor", "pour", &bytes];
    let throughput = vec![
        Contender::repeated("ours, frames", 1, || {
            let began = Instant::now();
            let got = caller.exec(&pour, Streams::Frames)?;
            ensure!(got == BYTES, "{got} bytes came");
            Ok(speed(began))
        }),
        Contender::if_there("socat EXEC", &socat, |()| {
            Contender::repeated("socat EXEC", 1, || {
                let began = Instant::now();
                drain(&caller, POURS, BYTES)?;
                Ok(speed(began))
            })
        }),
    ];
    let throughput = in_turn(setting.rounds(6), throughput)?;
    Ok(vec![
        Row {
            name: "vsock-exec",
            what: "run a static program that does nothing in a machine, connection to status".to_owned(),
            unit: Unit::Milliseconds,
            series: latency,
            targets: vec![against("ours, an open client", "socat EXEC", 1.0)],
        },
        Row {
            name: "vsock-stdout",
            what: "32 MiB out of a command in a machine".to_owned(),
            unit: Unit::MegabytesPerSecond,
            series: throughput,
            targets: vec![against("ours, frames", "socat EXEC", 0.9)],
        },
    ])
}

/// Puts a program into a root folder, with all that it is linked with.
fn with_libraries(program: &Path, root: &Path) -> anyhow::Result<()> {
    let linked = quiet("ldd").arg(program).stdout(Stdio::piped()).output()?;
    let linked = String::from_utf8(linked.stdout)?;
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for library in libraries {
        let at = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(at.parent().context("a folder")?)?;
        fs::copy(library, at)?;
    }
    copy_program(program, &root.join("bin"))
}

/// Each of the two has to answer once.
fn until_it_listens(caller: &Caller) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_mins(1);
    for (port, bytes) in [(RUNS, 0), (POURS, BYTES)] {
        while let Err(error) = drain(caller, port, bytes) {
            if Instant::now() > end {
                bail!("socat does not answer in the machine: {error:#}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Reads what somebody says on a port, which must be so many bytes.
fn drain(caller: &Caller, port: u32, expected: u64) -> anyhow::Result<()> {
    let mut stream = caller.dial(port)?;
    let mut chunk = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            got => total += got as u64,
        }
    }
    ensure!(total == expected, "{total} bytes came");
    Ok(())
}

fn speed(began: Instant) -> f64 {
    #[allow(clippy::cast_precision_loss)] // A power of two.
    let megabytes = BYTES as f64 / 1e6;
    megabytes / began.elapsed().as_secs_f64()
}
