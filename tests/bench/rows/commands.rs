//! A command inside, and its status.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use agent_protocol::message::Stdio;
use anyhow::ensure;

use super::{Setting, absolute, against};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{Container, find, micros, millis, quiet, timed},
};

/// Samples of each contender in a round.
const BATCH: usize = 10;

/// `agent-shim exec NAME -- true`, from the start of the client to its end.
pub(super) fn whole_client(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let workshop = setting.workshop;
    let ours = Ours::new(workshop)?;
    ours.start("box", &[], &["sleep", "100000"])?;
    let container = Container::start(workshop, "exec", ours.project(), &["sleep", "100000"]);
    let target = container.as_ref().ok().map(Container::pid).transpose()?;
    let nsenter = find("nsenter");
    let (_server, socket) = workshop.server()?;
    let socket = socket.to_string_lossy().into_owned();
    let once = |mut command: std::process::Command| Ok(millis(timed(&mut command)?));
    let mut contenders = vec![
        Contender::repeated("agent-shim exec", BATCH, || once(ours.exec("box", &["true"]))),
        Contender::if_there("crun exec", &container, |container| {
            Contender::repeated("crun exec", BATCH, move || once(container.exec(&[], &["true"])))
        }),
    ];
    contenders.push(match (&nsenter, &target) {
        (Ok(nsenter), Some(target)) => Contender::repeated("nsenter", BATCH, move || {
            let mut command = quiet(nsenter);
            command.args(["-t", target, "--mount", "--pid", "--ipc", "--uts", "--net", "--", "true"]);
            once(command)
        }),
        _ => Contender::absent("nsenter", "neither it nor a container to enter is here"),
    });
    contenders.push(Contender::repeated("floor", BATCH, || {
        once(workshop.floor_command(["call", &socket, "true"]))
    }));
    contenders.push(Contender::repeated("local fork and exec", BATCH, || once(quiet("true"))));
    Ok(vec![Row {
        name: "exec",
        what: "run `true` inside, the whole client process".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(8), contenders)?,
        targets: vec![
            against("agent-shim exec", "crun exec", 0.25),
            against("agent-shim exec", "floor", 2.0),
        ],
    }])
}

/// The same from a client that is there already.
pub(super) fn open_client(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let ours = Ours::new(setting.workshop)?;
    ours.start("box", &[], &["sleep", "100000"])?;
    let caller = ours.caller("box");
    let (_server, socket) = setting.workshop.server()?;
    let exec = |stdio| {
        let began = Instant::now();
        caller.exec(&["true"], stdio)?;
        Ok(millis(began.elapsed()))
    };
    let contenders = vec![
        Contender::repeated("ours, descriptors", BATCH, || exec(Stdio::Descriptors)),
        Contender::repeated("ours, frames", BATCH, || exec(Stdio::Frames)),
        Contender::repeated("floor", BATCH, || {
            let began = Instant::now();
            call_floor(&socket)?;
            Ok(millis(began.elapsed()))
        }),
    ];
    let exec = Row {
        name: "exec-open",
        what: "run `true` inside from an open client, connection to status".to_owned(),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(10), contenders)?,
        targets: vec![against("ours, descriptors", "floor", 1.3)],
    };
    let ping = Contender::repeated("ours", 50, || {
        let began = Instant::now();
        caller.ping()?;
        Ok(micros(began.elapsed()))
    });
    let ping = Row {
        name: "ping",
        what: "connect, shake hands, ask for a sign of life".to_owned(),
        unit: Unit::Microseconds,
        series: in_turn(setting.rounds(10), vec![ping])?,
        targets: vec![absolute("ours", 1000.0)],
    };
    Ok(vec![exec, ping])
}

fn call_floor(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"true")?;
    let mut status = [1];
    stream.read_exact(&mut status)?;
    ensure!(status == [0], "the floor's command failed");
    Ok(())
}
