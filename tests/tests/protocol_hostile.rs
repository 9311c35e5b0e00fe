//! Clients that do not behave, against a real init: it goes on, its memory stays bounded, others notice nothing.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    exit::{How, KilledBy},
    failure::FailureKind,
    frame::Kind,
    handshake::{Features, Hello, Token, Verdict},
    message::{
        AttachFrom, AttachRequest, EventsRequest, ExecId, LeaseWish, LogFrom, LogRequest, Stdio,
        TerminalSize, What,
    },
};
use agent_tests::{Heard, Home, Init, Raw, Sandbox, Who, agent_shim, finish, shell, until};
use serde_json::json;

/// What init may grow by at most, whatever a client does.
const GROWTH_BYTES: u64 = 6 * 1024 * 1024;

fn init() -> anyhow::Result<Init> {
    Init::start(json!({ "agent": { "argv": ["cat"], "terminal": {} }, "log_level": "error" }))
}

fn pings(socket: &Path) -> anyhow::Result<()> {
    let answer = Raw::ask(socket, &Request::Ping)?.message()?;
    assert_eq!(answer, ServerMessage::Pong);
    Ok(())
}

fn hello() -> Vec<u8> {
    Hello::new(Features(0), Token::default()).encode().to_vec()
}

/// Sends bytes and waits for init to close; what it said before, Welcome included.
fn answer_to(socket: &Path, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut raw = Raw::dial(socket)?;
    // Init may have closed before it has read everything.
    let _ = raw.stream.write_all(bytes);
    let mut said = Vec::new();
    let _ = raw.stream.read_to_end(&mut said);
    Ok(said)
}

#[test]
fn garbage_ends_its_own_connection_only() -> anyhow::Result<()> {
    let init = init()?;
    let socket = init.socket();
    let mut noise = vec![0; 100_000];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    for garbage in
        [&noise[..], &[0; 56], b"GET / HTTP/1.1\r\n\r\nAccept: */*\r\nX: 0123456789012345678901234567"]
    {
        assert_eq!(answer_to(&socket, garbage)?, b"", "no answer to what is no handshake");
    }
    pings(&socket)
}

#[test]
fn every_frame_that_is_not_allowed_is_refused() -> anyhow::Result<()> {
    let init = init()?;
    let socket = init.socket();
    let header = |kind: u8, len: u32| {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend(len.to_le_bytes());
        bytes
    };
    let cases: [(&str, Vec<u8>); 9] = [
        ("an absurd length", header(0, u32::MAX)),
        ("a byte more than allowed", header(0, 262_145)),
        ("an unknown kind", header(8, 4)),
        ("another unknown kind", header(255, 0)),
        ("reserved bytes", vec![0, 1, 0, 0, 1, 0, 0, 0, 0]),
        ("data where a request belongs", [header(2, 8), vec![0; 8]].concat()),
        ("a data frame without an offset", header(2, 3)),
        ("an unknown request", [header(0, 1), vec![99]].concat()),
        ("bytes behind a request", [header(0, 2), vec![0, 0]].concat()),
    ];
    for (what, bytes) in cases {
        let said = answer_to(&socket, &[hello(), bytes].concat())?;
        // Welcome, and then Failed with BadRequest: variants 2 and 0.
        assert!(said.len() > 24 + 8, "{what}: {said:?}");
        assert_eq!((said[24], said[24 + 8], said[24 + 9]), (1, 2, 0), "{what}: {said:?}");
    }
    // A list of a thousand million arguments in a few bytes.
    let bomb = [header(0, 8), vec![2, 252, 0, 0, 0, 64, 0, 0]].concat();
    let before = init.rss_bytes()?;
    for _ in 0..50 {
        assert!(answer_to(&socket, &[hello(), bomb.clone()].concat())?.len() > 24);
    }
    assert!(init.rss_bytes()? < before + GROWTH_BYTES);
    pings(&socket)
}

#[test]
fn a_wrong_generation_is_told_which_one_is_right() -> anyhow::Result<()> {
    let init = init()?;
    let mut hello = Hello::new(Features(0), Token::default());
    (hello.newest, hello.oldest) = (9, 7);
    let said = answer_to(&init.socket(), &hello.encode())?;
    assert_eq!(said.len(), 24);
    assert_eq!((&said[8..12], said[12]), (&[1, 0, 0, 0][..], Verdict::NoCommonGeneration as u8));
    Ok(())
}

/// 512 connections may be open, a few more are told so, and the rest are closed. Those who only opened one are sent
/// away after five seconds.
#[test]
fn half_open_handshakes_use_up_places_for_a_while() -> anyhow::Result<()> {
    let init = init()?;
    let socket = init.socket();
    let mut open = Vec::new();
    let (mut busy, mut closed) = (0, 0);
    for number in 0..600 {
        let mut raw = Raw::dial(&socket)?;
        // Half say half a Hello, half nothing.
        if number % 2 == 0 {
            // Where init has closed already, that is what is looked for below.
            let _ = raw.stream.write_all(&hello()[..20]);
        }
        open.push(raw);
        match number {
            515..540 => busy += usize::from(Raw::dial(&socket)?.greet()? == Verdict::Busy),
            560.. => closed += usize::from(Raw::dial(&socket)?.greet().is_err()),
            _ => {}
        }
    }
    assert_eq!((busy, closed), (25, 40));
    until("places to be free again", || Ok(pings(&socket).ok()))?;
    until("the idle ones to be closed", || {
        let gone = |raw: &mut Raw| {
            let patient = raw.stream.set_read_timeout(Some(Duration::from_millis(100)));
            // A reset where init had not read everything.
            patient.is_ok()
                && match raw.stream.read(&mut [0; 64]) {
                    Ok(read) => read == 0,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                }
        };
        Ok(open.iter_mut().all(gone).then_some(()))
    })
}

/// Streams may use up 448 places; the last 64 are for requests that end at once.
#[test]
fn status_and_stop_work_when_streams_use_up_the_rest() -> anyhow::Result<()> {
    let mut init = init()?;
    let socket = init.socket();
    let follow = Request::Events(EventsRequest { after: 0, follow: true });
    let mut streams = Vec::new();
    let refused = loop {
        let mut raw = Raw::ask(&socket, &follow)?;
        match raw.message()? {
            ServerMessage::Event(_) => streams.push(raw),
            ServerMessage::Failed(failure) => break failure,
            other => panic!("{other:?}"),
        }
        assert!(streams.len() <= 512, "there is no limit");
    };
    assert_eq!((refused.kind, streams.len()), (FailureKind::Busy, 448));
    assert_eq!(init.exec(&shell("true"))?.expect_err("no place for a command").kind, FailureKind::Busy);
    assert_eq!(init.status()?.counts.connections, 449);
    pings(&socket)?;
    let began = Instant::now();
    init.stop(false)?;
    assert!(began.elapsed() < Duration::from_secs(10));
    for mut stream in streams {
        stream.until_end()?;
    }
    Ok(())
}

#[test]
fn a_flood_of_pings_is_answered_and_forgotten() -> anyhow::Result<()> {
    let init = init()?;
    let socket = init.socket();
    let before = init.rss_bytes()?;
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..500).try_for_each(|_| pings(&socket)))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    // Also those that nobody waits for.
    for _ in 0..500 {
        drop(Raw::ask(&socket, &Request::Ping)?);
    }
    assert!(init.rss_bytes()? < before + GROWTH_BYTES);
    until("the connections to be closed", || Ok((init.status()?.counts.connections == 1).then_some(())))
}

/// The command is slowed down, as by any pipe; init keeps nothing for it.
#[test]
fn a_client_that_reads_nothing_slows_its_own_command_only() -> anyhow::Result<()> {
    let init = init()?;
    let before = init.rss_bytes()?;
    let mut deaf = Raw::ask(&init.socket(), &Request::Exec(shell("yes; touch never")))?;
    let mut terminal = shell("yes");
    terminal.stdio = Stdio::Terminal(TerminalSize { columns: 80, rows: 24 });
    let _deaf_too = Raw::ask(&init.socket(), &Request::Exec(terminal))?;
    // What others do takes many turns of init's loop, in which it would read on if nothing held it.
    for _ in 0..50 {
        init.sh("head -c 100000 /dev/zero")?;
    }
    assert!(init.rss_bytes()? < before + GROWTH_BYTES, "{} -> {}", before, init.rss_bytes()?);
    // It still gets everything from the beginning, without a gap.
    assert!(matches!(deaf.message()?, ServerMessage::ExecStarted(_)));
    let mut expected = 0;
    while expected < 1_000_000 {
        let Heard::Data { kind: Kind::Stdout, offset, bytes } = deaf.hear()? else { panic!("no output") };
        assert_eq!(offset, expected);
        expected += bytes.len() as u64;
    }
    Ok(())
}

/// Nor does a client that sends and sends, to a command that reads nothing.
#[test]
fn input_that_nobody_reads_waits_outside() -> anyhow::Result<()> {
    let init = init()?;
    let before = init.rss_bytes()?;
    let mut request = shell("echo up; until test -e go; do sleep 0.02; done");
    request.stdin = true;
    let mut raw = Raw::ask(&init.socket(), &Request::Exec(request))?;
    raw.message()?;
    raw.hear()?;
    raw.stream.set_write_timeout(Some(Duration::from_millis(300)))?;
    let (piece, mut sent) = (vec![7; 100_000], 0);
    while raw.send(Kind::Stdin, sent, &piece).is_ok() {
        sent += piece.len() as u64;
        assert!(sent < 20_000_000, "init takes whatever it is sent");
    }
    assert!(init.rss_bytes()? < before + GROWTH_BYTES);
    // The client goes in the middle of a frame; its command is asked to end.
    drop(raw);
    let exit = init.wait_for("the command's end", |what| match what {
        What::ExecExited { exit, .. } => Some(exit.clone()),
        _ => None,
    })?;
    assert_eq!((exit.how, exit.killed_by), (How::Signal(15), KilledBy::Disconnect));
    Ok(())
}

/// A hundred megabytes past a viewer, a log reader and a reader of events who never read.
#[test]
fn the_agent_does_not_wait_for_those_who_watch() -> anyhow::Result<()> {
    let script = "until test -e go; do sleep 0.02; done; head -c 100000000 /dev/zero | tr '\\0' x; touch done; sleep 1000";
    let init = Init::start(json!({ "agent": { "argv": ["sh", "-c", script], "terminal": {} } }))?;
    let attach = |from| Request::Attach(AttachRequest { lease: LeaseWish::Watch, size: None, from });
    let log = LogRequest { unit: "agent".to_owned(), from: LogFrom::Offset(0), follow: true };
    let deaf = [
        Raw::ask(&init.socket(), &attach(AttachFrom::Screen))?,
        Raw::ask(&init.socket(), &attach(AttachFrom::Offset(0)))?,
        Raw::ask(&init.socket(), &Request::Log(log))?,
        Raw::ask(&init.socket(), &Request::Events(EventsRequest { after: 0, follow: true }))?,
    ];
    init.sh("touch go")?;
    init.wait_for_file("done", |_| true)?;
    // The ring of a mebibyte, the screen, and what a viewer has in flight.
    let rss = init.rss_bytes()?;
    assert!(rss < 24 * 1024 * 1024, "{rss} bytes");
    let status = init.status()?;
    assert!(status.agent.output_bytes >= 100_000_000, "{status:?}");
    assert_eq!(status.counts.viewers, 2);
    // The one who reads again gets a picture of now, or is told what is missing.
    let [mut screen, mut bytes, ..] = deaf;
    let now = status.agent.output_bytes - 2 * 1024 * 1024;
    let catch_up = |raw: &mut Raw| -> anyhow::Result<()> {
        loop {
            match raw.hear()? {
                Heard::Message(ServerMessage::Screen { offset, .. } | ServerMessage::Skipped { offset })
                    if offset > now =>
                {
                    return Ok(());
                }
                Heard::End => anyhow::bail!("nothing was said about the gap"),
                _ => {}
            }
        }
    };
    catch_up(&mut screen)?;
    catch_up(&mut bytes)
}

/// Whoever leaves, at whatever point, leaves no command, viewer or connection behind.
#[test]
fn leaving_at_any_point_of_a_command_leaves_nothing() -> anyhow::Result<()> {
    let init = init()?;
    let socket = init.socket();
    let mut whole = hello();
    let mut request = shell("trap '' HUP; cat; echo x; sleep 1000");
    request.stdin = true;
    agent_protocol::codec::encode_frame(Kind::Request, &Request::Exec(request.clone()), &mut whole)?;
    agent_protocol::codec::encode_frame(Kind::Message, &ClientMessage::Signal(10), &mut whole)?;
    for cut in [0, 1, 55, 56, 57, 63, 64, 70, whole.len() - 11, whole.len() - 1, whole.len()] {
        let mut raw = Raw::dial(&socket)?;
        raw.stream.write_all(&whole[..cut])?;
    }
    for stdio in [Stdio::Frames, Stdio::Terminal(TerminalSize { columns: 0, rows: 0 })] {
        for heard in 0..3 {
            request.stdio = stdio;
            let mut raw = Raw::ask(&socket, &Request::Exec(request.clone()))?;
            for _ in 0..heard.min(1) {
                raw.message()?;
            }
            if heard == 2 {
                raw.send(
                    if stdio == Stdio::Frames { Kind::Stdin } else { Kind::Terminal },
                    0,
                    b"half a line",
                )?;
            }
        }
    }
    // Those on a terminal are hung up, and this one does not care: the rest is ended by hand.
    let status = init.status()?;
    assert!(status.counts.execs <= 20);
    until("all connections to be closed", || Ok((init.status()?.counts.connections == 1).then_some(())))?;
    until("no command to be left", || {
        init.sh("pkill -x sleep; pkill -x cat; true")?;
        Ok((init.status()?.counts.execs == 0).then_some(()))
    })
}

#[test]
fn what_is_out_of_place_ends_the_operation_with_a_reason() -> anyhow::Result<()> {
    let init = init()?;
    let socket = init.socket();
    let bad = |mut raw: Raw| -> anyhow::Result<()> {
        loop {
            match raw.hear()? {
                Heard::Message(ServerMessage::Failed(failure)) => {
                    assert_eq!(failure.kind, FailureKind::BadRequest, "{failure}");
                    return Ok(());
                }
                Heard::End => anyhow::bail!("closed without a reason"),
                _ => {}
            }
        }
    };
    let mut request = shell("cat");
    request.stdin = true;
    let exec = || Raw::ask(&socket, &Request::Exec(request.clone()));
    // A gap in the input.
    let mut raw = exec()?;
    raw.send(Kind::Stdin, 5, b"x")?;
    bad(raw)?;
    // A stream that only init has.
    let mut raw = exec()?;
    raw.send(Kind::Stdout, 0, b"x")?;
    bad(raw)?;
    // A terminal where there is none.
    let mut raw = exec()?;
    raw.send(Kind::Terminal, 0, b"x")?;
    bad(raw)?;
    // Words of somebody who should only listen.
    let mut raw = Raw::ask(&socket, &Request::Events(EventsRequest { after: 0, follow: true }))?;
    raw.say(&ClientMessage::StdinEnd)?;
    bad(raw)?;
    // Descriptors over a connection that was to carry none.
    let mut descriptors = shell("true");
    descriptors.stdio = Stdio::Descriptors;
    assert_eq!(init.exec(&descriptors)?.unwrap_err().kind, FailureKind::Unsupported);
    // Signals that do not exist, commands that do not, units that do not.
    let kind = |request: &Request| match init.ask(request) {
        Ok(ServerMessage::Failed(failure)) => Some(failure.kind),
        _ => None,
    };
    for signal in [0, -1, 65, i32::MAX, i32::MIN] {
        assert_eq!(kind(&Request::SignalAgent { signal }), Some(FailureKind::BadRequest), "{signal}");
    }
    assert_eq!(kind(&Request::ExecSignal { exec: ExecId(u64::MAX), signal: 9 }), Some(FailureKind::Unknown));
    assert_eq!(kind(&Request::ExecWait(ExecId(0))), Some(FailureKind::Unknown));
    let log = LogRequest { unit: "../../etc".to_owned(), from: LogFrom::Offset(u64::MAX), follow: false };
    assert_eq!(kind(&Request::Log(log)), Some(FailureKind::Unknown));
    let mut empty = shell("true");
    empty.argv.clear();
    assert_eq!(init.exec(&empty)?.unwrap_err().kind, FailureKind::BadRequest);
    let mut nul = shell("true");
    nul.argv.push(b"a\0b".to_vec());
    assert_eq!(init.exec(&nul)?.unwrap_err().kind, FailureKind::BadRequest);
    pings(&socket)
}

/// What a command leaves running and writing does not hold the one who waits for the command.
#[test]
fn a_command_in_frames_ends_although_its_background_writes_on() -> anyhow::Result<()> {
    let init = init()?;
    let began = Instant::now();
    let done = init.sh("yes & sleep 0.1; exit 6")?;
    assert_eq!(done.exit.how, How::Code(6));
    assert!(done.stdout.starts_with(b"y\ny\n"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}

/// The folder of a sandbox is its owner's alone, and init does not listen to those inside.
#[test]
fn another_user_cannot_reach_the_socket() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().who(Who::Ordinary).start()?;
    let folder = sandbox.data().join("agents/box");
    let mode = std::fs::metadata(&folder)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    if !nix::unistd::geteuid().is_root() {
        agent_tests::skip("another user: the tests are not root and cannot become one");
        return Ok(());
    }
    let dial =
        "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or print $!";
    let socket = folder.join("control.sock");
    let mut other = std::process::Command::new("setpriv");
    other.args(["--reuid", "61235", "--regid", "61235", "--clear-groups", "perl", "-e", dial]).arg(&socket);
    assert_eq!(finish(other, b"")?.text(), "Permission denied");
    // Nor by the shim, which has another home to look into.
    let stranger = Home::new(Who::Ordinary)?;
    let mut other = std::process::Command::new("setpriv");
    other.args(["--reuid", "61235", "--regid", "61235", "--clear-groups"]).arg(agent_shim());
    other.args(["status", "box"]).env_clear().env("HOME", "/nowhere").env("XDG_DATA_HOME", stranger.path());
    assert_ne!(finish(other, b"")?.code(), 0);
    Ok(())
}
