//! Attempts on descriptors: what leaks in, and what reopening those that were passed gives.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::Instant;

use agent_tests::{deadline, finish, until};
use anyhow::{Context, bail, ensure};
use rustix::fs::{OFlags, fcntl_getfl};

use crate::board::each_person;
use crate::world::{PROBE, World};

#[test]
fn descriptors() {
    each_person("descriptors", |board, world| {
        world.as_person("echo $0 > leaked && chmod 600 leaked", &[&world.marker])?;
        world.start("box", &[], &["cat"])?;
        let leaking = "exec 5< leaked 7>> leaked 9< /etc; exec \"$@\"";
        let shim = agent_tests::agent_shim().display().to_string();
        for (how, flags) in [("a command", &[][..]), ("a command with input", &["-i"])] {
            let words =
                [&["-c", leaking, "sh", &shim, "exec", "box"], flags, &["--", PROBE, "descriptors"]].concat();
            let output = finish(world.home.command("/bin/sh", words), b"")?.success()?;
            board.attempt(
                &format!("leaking descriptors into {how}"),
                only_three(&output.text(), &["pipe:", "/dev/null"]),
            );
        }
        let line = format!("exec 5< leaked 7>> leaked; exec {shim} exec -it box -- {PROBE} descriptors");
        let output = world.on_a_terminal(&line)?;
        board.attempt(
            "leaking descriptors into a command on a terminal",
            only_three(&output.text(), &["/dev/pts/"]),
        );

        let project = world.home.project("project-agent")?;
        let agent = format!("{PROBE} descriptors > /workspace/part && mv part descriptors; exec cat");
        let start = world.start_command("agent", &project, &[], &["sh", "-c", &agent]);
        let words: Vec<_> = ["-c", leaking, "sh"].iter().map(Into::into).chain(shim_words(&start)).collect();
        finish(world.home.command("/bin/sh", words), b"")?.success()?;
        let told = project.join("descriptors");
        let told = until("the agent's descriptors", || Ok(fs::read_to_string(&told).ok()))?;
        board.attempt(
            "leaking descriptors into the agent",
            only_three(&told, &["/dev/pts/", "/workspace/part"]),
        );

        board.attempt("reopening the caller's files", callers_files(world));
        board.attempt("reopening the caller's pipes", callers_pipes(world));
        board.attempt("a killed client leaves the caller's pipes as they were", killed_client(world));
        Ok(())
    });
}

/// The words behind setpriv's, if there are any.
fn shim_words(start: &std::process::Command) -> Vec<std::ffi::OsString> {
    let all: Vec<_> =
        [start.get_program()].into_iter().chain(start.get_args()).map(ToOwned::to_owned).collect();
    let shim = all.iter().position(|word| word == agent_tests::agent_shim()).unwrap_or(0);
    all[shim..].to_vec()
}

fn only_three(told: &str, kinds: &[&str]) -> anyhow::Result<()> {
    let lines: Vec<&str> = told.lines().map(|line| line.trim_end_matches('\r')).collect();
    // The probe's own look at the folder is gone by the time it asks what it was.
    ensure!(lines.len() == 3, "{lines:?}");
    for (number, line) in lines.iter().enumerate() {
        let (at, target) = line.split_once(' ').with_context(|| told.to_owned())?;
        ensure!(at == number.to_string() && kinds.iter().any(|kind| target.starts_with(kind)), "{lines:?}");
    }
    Ok(())
}

/// Files as the caller's three streams: read only, and write only with something in them already.
fn callers_files(world: &World) -> anyhow::Result<()> {
    let marker = world.marker.as_str();
    let input = world.home.file("input", b"only to be read\n")?;
    let outputs = ["output", "errors"].map(|name| world.home.file(name, format!("{marker}\n").as_bytes()));
    let [output, errors] = [outputs[0].as_ref(), outputs[1].as_ref()].map(|path| path.expect("a file"));
    let append = |path| OpenOptions::new().append(true).open(path);
    let given = File::open(&input)?;
    let mut command = world.home.shim(["exec", "-i", "box", "--", PROBE, "reopen", "/tmp/report"]);
    command.stdin(given.try_clone()?).stdout(append(output)?).stderr(append(errors)?);
    let status = command.status()?;
    ensure!(status.success(), "{status}: {}", fs::read_to_string(errors)?);

    let report = world.sh("box", "cat /tmp/report")?.success()?;
    ensure!(!report.text().contains(marker), "what was only to be written to was read: {report}");
    for number in 0..3 {
        ensure!(report.text().contains(&format!("{number} is pipe:[")), "{report}");
    }
    ensure!(fs::read(&input)? == b"only to be read\n", "the input was written to");
    for path in [&input, output, errors] {
        ensure!(fs::metadata(path)?.permissions().mode() & 0o777 == 0o600, "its mode was changed");
        ensure!(fs::metadata(path)?.uid() == world.home.uid(), "its owner was changed");
    }
    for path in [output, errors] {
        ensure!(fs::read_to_string(path)?.starts_with(marker), "what was there is gone");
    }
    rustix::fs::flock(&given, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .context("it is locked")?;
    Ok(())
}

/// Pipes as the caller's three streams, with something in them that is not for the sandbox.
fn callers_pipes(world: &World) -> anyhow::Result<()> {
    let (input_end, mut input) = pipe()?;
    let (mut output, mut output_end) = pipe()?;
    let (mut errors, mut errors_end) = pipe()?;
    input.write_all(b"for the command\n")?;
    let before = [flags(&input_end)?, flags(&output_end)?, flags(&errors_end)?];
    for end in [&mut output_end, &mut errors_end] {
        end.write_all(b"for the host alone\n")?;
    }
    let mut command = world.home.shim(["exec", "-i", "box", "--", PROBE, "reopen", "/tmp/report"]);
    command.stdin(input_end.try_clone()?).stdout(output_end.try_clone()?).stderr(errors_end.try_clone()?);
    let mut child = command.spawn()?;
    drop(command);
    drop(input);
    let end = Instant::now() + deadline();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > end => {
                child.kill()?;
                child.wait()?;
                bail!("it did not end");
            }
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    ensure!(status.success(), "{status}");
    ensure!([flags(&input_end)?, flags(&output_end)?, flags(&errors_end)?] == before, "flags were changed");
    for end in [input_end.as_fd(), output_end.as_fd(), errors_end.as_fd()] {
        ensure!(rustix::pipe::fcntl_getpipe_size(end)? == 65536, "its size was changed");
    }
    let report = world.sh("box", "cat /tmp/report")?.success()?;
    ensure!(!report.text().contains("for the host alone"), "it was read inside: {report}");
    drop((output_end, errors_end));
    let seen = [rest(&mut PipeReader::try_clone(&input_end)?)?, rest(&mut output)?, rest(&mut errors)?];
    ensure!(!seen[0].contains("written from inside"), "the input was written to");
    ensure!(seen[1..].iter().all(|seen| seen.starts_with("for the host alone\n")), "{seen:?}");
    Ok(())
}

/// A client that sets O_NONBLOCK on what is not its own cannot put it back when it is killed.
fn killed_client(world: &World) -> anyhow::Result<()> {
    let (input_end, _input) = pipe()?;
    let (output, output_end) = pipe()?;
    let before = [flags(&input_end)?, flags(&output_end)?];
    let mut command = world.home.shim(["exec", "-i", "box", "--", "sh", "-c", "echo up; exec sleep 60"]);
    command.stdin(input_end.try_clone()?).stdout(output_end.try_clone()?).stderr(Stdio::null());
    let mut client = command.spawn()?;
    drop(command);
    let mut up = [0; 3];
    PipeReader::try_clone(&output)?.read_exact(&mut up)?;
    let during = [flags(&input_end)?, flags(&output_end)?];
    client.kill()?;
    client.wait()?;
    let after = [flags(&input_end)?, flags(&output_end)?];
    ensure!(during == before && after == before, "{before:?}, then {during:?}, then {after:?}");
    Ok(())
}

fn flags(of: impl AsFd) -> anyhow::Result<OFlags> {
    Ok(fcntl_getfl(of)?)
}

fn rest(of: &mut PipeReader) -> anyhow::Result<String> {
    let mut text = String::new();
    of.read_to_string(&mut text)?;
    Ok(text)
}
