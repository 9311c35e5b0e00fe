//! A gigabyte out of a command.

use std::{
    io::{self, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    time::Instant,
};

use agent_protocol::message::Stdio as Streams;
use anyhow::ensure;

use super::{Setting, against};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{Container, Guard},
};

const BYTES: u64 = 1 << 30;

/// Through a pipe that the client was given, and in frames where none can be given.
pub(super) fn stdout(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let workshop = setting.workshop;
    let bytes = BYTES.to_string();
    let ours = Ours::new(workshop)?;
    ours.start("box", &[], &["sleep", "100000"])?;
    let container = Container::start(workshop, "stdout", ours.project(), &["sleep", "100000"]);
    let pour = ["/workspace/floor", "pour", &bytes];
    let pipes = vec![
        Contender::repeated("agent-shim exec", 1, || through_pipe(ours.exec("box", &pour))),
        Contender::repeated("local pipe", 1, || through_pipe(workshop.floor_command(["pour", &bytes]))),
        Contender::if_there("crun exec", &container, |container| {
            Contender::repeated("crun exec", 1, move || through_pipe(container.exec(&[], &pour)))
        }),
    ];
    let caller = ours.caller("box");
    let frames = vec![
        Contender::repeated("ours, frames", 1, || {
            let began = Instant::now();
            let got = caller.exec(&pour, Streams::Frames)?;
            ensure!(got == BYTES, "{got} bytes came");
            Ok(speed(began))
        }),
        Contender::repeated("socket as the command's stdout", 1, || {
            through_socket(workshop.floor_command(["pour", &bytes]), None)
        }),
        Contender::repeated("pipe, copy loop, socket", 1, || {
            through_socket(workshop.floor_command(["relay"]), Some(workshop.floor_command(["pour", &bytes])))
        }),
    ];
    Ok(vec![
        Row {
            name: "stdout-pipe",
            what: "1 GiB out of a command into a pipe of the caller's".to_owned(),
            unit: Unit::MegabytesPerSecond,
            series: in_turn(setting.rounds(3), pipes)?,
            targets: vec![against("agent-shim exec", "local pipe", 0.9)],
        },
        Row {
            name: "stdout-frames",
            what: "1 GiB out of a command where no descriptor can be passed".to_owned(),
            unit: Unit::MegabytesPerSecond,
            series: in_turn(setting.rounds(3), frames)?,
            targets: vec![against("ours, frames", "socket as the command's stdout", 0.9)],
        },
    ])
}

fn speed(began: Instant) -> f64 {
    #[allow(clippy::cast_precision_loss)] // A power of two.
    let megabytes = BYTES as f64 / 1e6;
    megabytes / began.elapsed().as_secs_f64()
}

fn through_pipe(mut command: Command) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut child = Guard(command.stdout(Stdio::piped()).spawn()?);
    drain(child.0.stdout.take().expect("piped"))?;
    ensure!(child.0.wait()?.success(), "{command:?} failed");
    Ok(speed(began))
}

fn through_socket(mut command: Command, behind: Option<Command>) -> anyhow::Result<f64> {
    let began = Instant::now();
    let (ours, theirs) = UnixStream::pair()?;
    let source = behind.map(|mut behind| behind.stdout(Stdio::piped()).spawn().map(Guard)).transpose()?;
    if let Some(mut source) = source {
        command.stdin(source.0.stdout.take().expect("piped"));
        let child = Guard(command.stdout(OwnedFd::from(theirs)).spawn()?);
        drop(command);
        drain(ours)?;
        drop((source, child));
        return Ok(speed(began));
    }
    let child = Guard(command.stdout(OwnedFd::from(theirs)).spawn()?);
    // It holds the other end.
    drop(command);
    drain(ours)?;
    drop(child);
    Ok(speed(began))
}

fn drain(mut from: impl Read) -> anyhow::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => total += got as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(total == BYTES, "{total} bytes came");
    Ok(())
}
