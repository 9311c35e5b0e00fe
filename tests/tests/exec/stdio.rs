//! Whatever the caller's own streams are: they are used as they are, and left as they were.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
};

use agent_tests::{Sandbox, finish, until};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
};

const TRANSLATE: [&str; 6] = ["exec", "-i", "box", "--", "tr", "a-z A-Z"];

fn translate(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.shim(&TRANSLATE[..5]);
    command.args(TRANSLATE[5].split(' '));
    command
}

fn ends_with(mut child: Child, code: i32) -> anyhow::Result<()> {
    let status = until("the client to end", || Ok(child.try_wait()?))?;
    assert_eq!(status.code(), Some(code), "{status}");
    Ok(())
}

#[test]
fn files_are_read_from_where_they_stand_and_appended_to() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let input = sandbox.file("input", b"skip this, take that")?;
    let output = sandbox.file("output", b"there before\n")?;
    let mut from = File::open(&input)?;
    from.seek(SeekFrom::Start(11))?;
    let to = File::options().append(true).open(&output)?;
    let child = translate(&sandbox).stdin(from).stdout(to.try_clone()?).stderr(to).spawn()?;
    ends_with(child, 0)?;
    assert_eq!(std::fs::read_to_string(&output)?, "there before\nTAKE THAT");
    Ok(())
}

#[test]
fn sockets_do_as_well() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let (mut ours, theirs) = UnixStream::pair()?;
    let streams = || theirs.try_clone().map(OwnedFd::from).map(Stdio::from);
    let child = translate(&sandbox).stdin(streams()?).stdout(streams()?).spawn()?;
    drop(theirs);
    ours.write_all(b"over a socket")?;
    ours.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    ours.read_to_string(&mut text)?;
    assert_eq!(text, "OVER A SOCKET");
    ends_with(child, 0)
}

#[test]
fn dev_null_and_closed_streams_do_no_harm() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let null = || Stdio::null();
    ends_with(translate(&sandbox).stdin(null()).stdout(null()).stderr(null()).spawn()?, 0)?;
    let shim = agent_tests::agent_shim().display();
    for redirect in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let script = format!("{shim} exec -i box -- sh -c 'cat; exit 6' {redirect}");
        let output = finish(sandbox.command("sh", ["-c", &script]), b"")?.exits(6)?;
        assert_eq!(output.text(), "", "{redirect}");
    }
    Ok(())
}

/// What comes from inside reaches the caller although nobody reads its errors.
#[test]
fn a_closed_error_stream_does_not_swallow_the_output() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let shim = agent_tests::agent_shim().display();
    let script = format!("{shim} exec box -- sh -c 'echo kept; echo lost >&2; echo kept' 2>&-");
    let output = finish(sandbox.command("sh", ["-c", &script]), b"")?.exits(0)?;
    assert_eq!(output.text(), "kept\nkept");
    Ok(())
}

/// The mode belongs to the open file, which the caller shares with us, and maybe with others.
#[test]
fn the_callers_pipes_stay_blocking_or_not_as_they_were() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for nonblocking in [false, true] {
        let mode = if nonblocking { OFlags::NONBLOCK } else { OFlags::empty() };
        let (input, feed) = pipe_with(PipeFlags::CLOEXEC)?;
        let (drain, output) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&input, &output] {
            fcntl_setfl(end, mode)?;
        }
        let mut child = translate(&sandbox)
            .stdin(Stdio::from(input.try_clone()?))
            .stdout(Stdio::from(output.try_clone()?))
            .spawn()?;
        let (mut feed, mut drain) = (File::from(feed), File::from(drain));
        feed.write_all(b"while it runs")?;
        let mut echoed = [0; 13];
        // `tr` writes when its buffer is full or its input ends.
        drop(feed);
        drain.read_exact(&mut echoed)?;
        assert_eq!(&echoed, b"WHILE IT RUNS");
        for end in [&input, &output] {
            assert_eq!(fcntl_getfl(end)? & OFlags::NONBLOCK, mode);
        }
        assert!(until("the client to end", || Ok(child.try_wait()?))?.success());
    }
    Ok(())
}

/// Through /proc/self/fd whatever is passed can be reopened: what the command sets is not on our pipe.
#[test]
fn a_command_cannot_change_the_callers_pipes() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let (input, feed) = pipe_with(PipeFlags::CLOEXEC)?;
    let script = "use Fcntl; for my $fd (STDIN, STDOUT) { fcntl($fd, F_SETFL, O_NONBLOCK) or die $! } \
                  open(F, '>', '/proc/self/fd/0') and print F 'forged'; print 'done'";
    let (drain, output) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = sandbox
        .shim(["exec", "-i", "box", "--", "perl", "-e", script])
        .stdin(Stdio::from(input.try_clone()?))
        .stdout(Stdio::from(output.try_clone()?))
        .spawn()?;
    let mut said = [0; 4];
    File::from(drain).read_exact(&mut said)?;
    assert_eq!(&said, b"done");
    ends_with(child, 0)?;
    assert!(!fcntl_getfl(&input)?.contains(OFlags::NONBLOCK));
    assert!(!fcntl_getfl(&output)?.contains(OFlags::NONBLOCK));
    drop(feed);
    let mut left = Vec::new();
    File::from(input).read_to_end(&mut left)?;
    assert_eq!(left, b"", "something was written into the caller's input");
    Ok(())
}
