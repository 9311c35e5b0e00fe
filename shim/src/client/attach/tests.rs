//! A viewer against a scripted init, on a terminal and on pipes.

use std::{
    fs::File,
    io::{Read, Write, pipe},
    thread,
    time::Duration,
};

use agent_protocol::{
    failure::{Failure, FailureKind},
    handshake::Features,
    message::{Attached, SessionId, SessionStarted, ViewerId},
};
use nix::sys::pthread::{pthread_kill, pthread_self};
use rustix::{
    fs::OFlags,
    pty::OpenptFlags,
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use super::*;
use crate::client::testing::{Peer, Said, connected, exited};

const SIZE: TerminalSize = TerminalSize { columns: 100, rows: 40 };

fn attached(yours: bool) -> ServerMessage {
    ServerMessage::Attached(Attached {
        viewer: ViewerId(1),
        session: Some(SessionId(1)),
        lease: Lease { holder: Some(ViewerId(if yours { 1 } else { 9 })), yours },
        size: SIZE,
    })
}

fn ended(code: i32, next: Next) -> ServerMessage {
    let session = SessionId(1);
    ServerMessage::SessionEnded(Box::new(SessionEnded { session, exit: exited(code), next }))
}

fn options(streams: Streams<'_>) -> AttachOptions<'_> {
    AttachOptions {
        unit: None,
        lease: LeaseWish::IfFree,
        keys: DetachKeys::default(),
        from_start: false,
        forward_interrupts: false,
        streams,
        start_patience: Duration::from_secs(20),
    }
}

/// A terminal and the person in front of it.
struct Person {
    master: File,
    terminal: File,
}

impl Person {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        Self { master: master.into(), terminal: terminal.into() }
    }

    fn streams(terminal: &File) -> Streams<'_> {
        Streams { input: terminal.as_fd(), output: terminal.as_fd(), error: terminal.as_fd() }
    }
}

/// Reads the screen until it shows `what`; returns everything up to it.
fn see(master: &mut File, what: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(what.as_bytes()) {
        let mut byte = [0];
        master.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Views on a terminal while `script` plays init and the person; returns the outcome, what the script
/// returned, and what the terminal showed at the end.
fn view<T: Send + 'static>(
    yours: bool,
    script: impl FnOnce(&mut Peer, &mut File, &File) -> T + Send + 'static,
) -> (AttachOutcome, T, String) {
    let Person { mut master, terminal } = Person::new();
    let theirs = terminal.try_clone().unwrap();
    let (connection, peer) = connected(Features::DESCRIPTORS, move |peer| {
        let Request::Attach(request) = peer.request() else { panic!("no attach") };
        assert_eq!((request.size, request.from), (Some(SIZE), AttachFrom::Screen));
        peer.say(&attached(yours));
        peer.say(&ServerMessage::Screen { offset: 1000, bytes: 7, size: SIZE });
        peer.data(Kind::Screen, 0, b"pic");
        peer.data(Kind::Screen, 3, b"ture");
        see(&mut master, "picture");
        let result = script(peer, &mut master, &theirs);
        peer.wait_hang_up();
        drop(theirs);
        // Everything the client wrote is there once it has hung up and its terminal is closed.
        let mut rest = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut piece) {
            rest.extend_from_slice(&piece[..count]);
        }
        (result, String::from_utf8_lossy(&rest).into_owned())
    });
    let outcome = run(connection, options(Person::streams(&terminal))).unwrap();
    let modes = tcgetattr(&terminal).unwrap().local_modes;
    assert!(modes.contains(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON));
    assert!(!rustix::fs::fcntl_getfl(&terminal).unwrap().contains(OFlags::NONBLOCK));
    drop(terminal);
    let (result, rest) = peer.join().unwrap();
    (outcome, result, rest)
}

#[test]
fn a_picture_is_painted_keys_are_typed_and_the_terminal_is_put_back() {
    let (outcome, typed, rest) = view(true, |peer, master, terminal| {
        assert!(!tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO));
        peer.data(Kind::Terminal, 1000, b"\x1b[?1049h\x1b[?2004hvim");
        see(master, "vim");
        master.write_all(b"ix\x03").unwrap();
        let typed = peer.hear();
        master.write_all(b"\x1dd").unwrap();
        typed
    });
    assert!(matches!(outcome, AttachOutcome::Detached), "{outcome:?}");
    assert_eq!(typed, Said::Data(Kind::Terminal, 0, b"ix\x03".to_vec()));
    assert!(rest.ends_with("\x1b[?1049l\r\n\x1b[J") && rest.contains("\x1b[?2004l"), "{rest:?}");
}

#[test]
fn a_watcher_types_nothing_but_its_own_keys() {
    let (outcome, heard, _) = view(false, |peer, master, _| {
        master.write_all(b"nobody hears this\x1dtat once").unwrap();
        let asked = peer.hear();
        assert_eq!(peer.hear(), Said::Data(Kind::Terminal, 0, b"at once".to_vec()));
        peer.say(&ServerMessage::Lease(Lease { holder: Some(ViewerId(1)), yours: true }));
        let size = peer.hear();
        master.write_all(b"now\x1dh").unwrap();
        let heard = [asked, size, peer.hear(), peer.hear()];
        peer.say(&ServerMessage::Lease(Lease { holder: None, yours: false }));
        peer.data(Kind::Terminal, 1000, b"!");
        see(master, "!");
        master.write_all(b"lost\x1dd").unwrap();
        heard
    });
    assert!(matches!(outcome, AttachOutcome::Detached), "{outcome:?}");
    assert_eq!(
        heard,
        [
            Said::Message(ClientMessage::Lease(LeaseAction::TakeOver)),
            Said::Message(ClientMessage::Resize(SIZE)),
            Said::Data(Kind::Terminal, 7, b"now".to_vec()),
            Said::Message(ClientMessage::Lease(LeaseAction::HandOn)),
        ]
    );
}

#[test]
fn a_viewer_stays_over_a_restart_and_the_end_ends() {
    let (outcome, (), rest) = view(true, |peer, master, _| {
        peer.data(Kind::Terminal, 1000, b"\x1b[?1049h\x1b[31mfull screen");
        peer.say(&ended(1, Next::Restart { delay_ms: 100 }));
        // The picture says why.
        peer.say(&ServerMessage::Screen { offset: 1024, bytes: 3, size: SIZE });
        peer.data(Kind::Screen, 0, b"why");
        peer.say(&ServerMessage::SessionStarted(SessionStarted { session: SessionId(2), pid: 9 }));
        peer.data(Kind::Terminal, 1024, b"again");
        see(master, "whyagain");
        peer.say(&ended(2, Next::Parked { reason: "enough".into() }));
        peer.say(&ServerMessage::Screen { offset: 1029, bytes: 3, size: SIZE });
        peer.data(Kind::Screen, 0, b"why");
        see(master, "why\x1b7\x1b[40;1H\x1b[0;7m\x1b[2K[ctrl-],d leaves]\x1b[0m\x1b8");
        peer.say(&ended(4, Next::End));
    });
    assert!(matches!(&outcome, AttachOutcome::Ended(exit) if *exit == exited(4)), "{outcome:?}");
    assert!(rest.ends_with("\x1b[?25h\x1b[?1049l"), "{rest:?}");
}

#[test]
fn a_viewer_that_was_left_behind_is_repainted() {
    let (outcome, (), _) = view(true, |peer, master, _| {
        peer.data(Kind::Terminal, 1000, b"slow");
        peer.say(&ServerMessage::Screen { offset: 5000, bytes: 3, size: SIZE });
        peer.data(Kind::Screen, 0, b"new");
        peer.data(Kind::Terminal, 5000, b"live");
        see(master, "newlive");
        peer.raw(&[]);
        peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert!(matches!(outcome, AttachOutcome::Lost(ConnectionError::Closed(_))), "{outcome:?}");
}

#[test]
fn help_is_shown_and_taken_away_by_the_next_key() {
    let (_, heard, _) = view(true, |peer, master, _| {
        master.write_all(b"\x1d?").unwrap();
        see(master, "you type]\x1b[0m\x1b8");
        master.write_all(b"x").unwrap();
        let heard = [peer.hear(), peer.hear()];
        master.write_all(b"\x1dd").unwrap();
        heard
    });
    assert_eq!(
        heard,
        [Said::Message(ClientMessage::Resize(SIZE)), Said::Data(Kind::Terminal, 0, b"x".to_vec())]
    );
}

#[test]
fn a_new_size_is_told_and_a_signal_ends_the_viewer() {
    let client = pthread_self();
    let (outcome, heard, rest) = view(true, move |peer, _, terminal| {
        tcsetwinsize(terminal, Winsize { ws_row: 1, ws_col: 1, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        pthread_kill(client, Signal::SIGWINCH).unwrap();
        let heard = peer.hear();
        pthread_kill(client, Signal::SIGTERM).unwrap();
        heard
    });
    assert!(matches!(outcome, AttachOutcome::Interrupted(Signal::SIGTERM)), "{outcome:?}");
    let size = TerminalSize { columns: 1, rows: 1 };
    assert_eq!(heard, Said::Message(ClientMessage::Resize(size)));
    assert!(rest.ends_with("\x1b[?25h\r\n\x1b[J"), "{rest:?}");
}

#[test]
fn nonsense_ends_the_viewer_and_puts_the_terminal_back() {
    let nonsense: [fn(&mut Peer); 8] = [
        |peer| peer.data(Kind::Terminal, 999, b"x"),
        |peer| peer.data(Kind::Terminal, 1001, b"x"),
        |peer| peer.data(Kind::Screen, 0, b"x"),
        |peer| peer.data(Kind::Stdout, 0, b"x"),
        |peer| {
            peer.say(&ServerMessage::Screen { offset: 2000, bytes: 2, size: SIZE });
            peer.data(Kind::Terminal, 2000, b"x");
        },
        |peer| {
            peer.say(&ServerMessage::Screen { offset: 2000, bytes: 2, size: SIZE });
            peer.data(Kind::Screen, 0, b"too long");
        },
        |peer| peer.say(&ServerMessage::Screen { offset: 3, bytes: 0, size: SIZE }),
        |peer| peer.say(&ServerMessage::Skipped { offset: 2000 }),
    ];
    for say in nonsense {
        let (outcome, (), rest) = view(true, move |peer, _, _| say(peer));
        assert!(matches!(outcome, AttachOutcome::Lost(ConnectionError::Unexpected { .. })), "{outcome:?}");
        assert!(rest.contains("\x1b[?25h"));
    }
}

/// Attaches with pipes; returns the outcome, what the script heard, and the output.
fn pass<T: Send + 'static>(
    input: &[u8],
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (AttachOutcome, T, Vec<u8>) {
    let (stdin, mut to_stdin) = pipe().unwrap();
    let (mut from_stdout, stdout) = pipe().unwrap();
    to_stdin.write_all(input).unwrap();
    drop(to_stdin);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        from_stdout.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let (connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        let Request::Attach(request) = peer.request() else { panic!("no attach") };
        assert_eq!((request.size, request.from), (None, AttachFrom::Offset(0)));
        script(peer)
    });
    let streams = Streams { input: stdin.as_fd(), output: stdout.as_fd(), error: stdout.as_fd() };
    let outcome = run(connection, options(streams)).unwrap();
    drop(stdout);
    (outcome, peer.join().unwrap(), reader.join().unwrap())
}

#[test]
fn pipes_get_every_byte_and_the_exit() {
    let (outcome, heard, output) = pass(b"date\n\x1dd", |peer| {
        peer.say(&attached(true));
        let heard = [peer.hear(), peer.hear()];
        peer.data(Kind::Terminal, 0, &vec![b'x'; 200_000]);
        peer.say(&ServerMessage::Skipped { offset: 300_000 });
        peer.data(Kind::Terminal, 300_000, b"\x1b[31mraw");
        peer.say(&ended(2, Next::Restart { delay_ms: 1 }));
        peer.data(Kind::Terminal, 300_008, b".");
        peer.say(&ended(3, Next::Exited));
        heard
    });
    assert!(matches!(&outcome, AttachOutcome::Ended(exit) if *exit == exited(3)), "{outcome:?}");
    assert_eq!(
        heard,
        [
            // No terminal, no keys that mean us; the end of the file is typed.
            Said::Data(Kind::Terminal, 0, b"date\n\x1dd".to_vec()),
            Said::Data(Kind::Terminal, 7, b"\x04\x04".to_vec()),
        ]
    );
    assert_eq!(output.len(), 200_000 + 8 + 1);
}

#[test]
fn a_file_waits_until_it_may_be_typed() {
    let (_, heard, _) = pass(b"ls\n", |peer| {
        peer.say(&attached(false));
        peer.data(Kind::Terminal, 0, b"somebody else types");
        peer.say(&ServerMessage::Lease(Lease { holder: Some(ViewerId(1)), yours: true }));
        let heard = peer.hear();
        peer.say(&ended(0, Next::End));
        heard
    });
    assert_eq!(heard, Said::Data(Kind::Terminal, 0, b"ls\n".to_vec()));
}

#[test]
fn a_refusal_is_told() {
    let (connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        peer.request();
        peer.say(&ServerMessage::Failed(Failure::new(FailureKind::Busy, "too many viewers")));
    });
    let null = File::open("/dev/null").unwrap();
    let error = run(connection, options(Person::streams(&null))).unwrap_err();
    assert!(matches!(error, AttachError::Connection(ConnectionError::Refused(_))), "{error}");
    peer.join().unwrap();
}

/// Views from the first byte on, as `run` does.
fn view_from_start(
    script: impl FnOnce(&mut Peer, &mut File, &File) + Send + 'static,
) -> (AttachOutcome, String) {
    let Person { mut master, terminal } = Person::new();
    let theirs = terminal.try_clone().unwrap();
    let (connection, peer) = connected(Features::DESCRIPTORS, move |peer| {
        let Request::Attach(request) = peer.request() else { panic!("no attach") };
        assert_eq!((request.size, request.from), (Some(SIZE), AttachFrom::Offset(0)));
        peer.say(&attached(true));
        script(peer, &mut master, &theirs);
        peer.wait_hang_up();
        drop(theirs);
        let mut shown = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut piece) {
            shown.extend_from_slice(&piece[..count]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    });
    let options = AttachOptions { from_start: true, ..options(Person::streams(&terminal)) };
    let outcome = run(connection, options).unwrap();
    drop(terminal);
    (outcome, peer.join().unwrap())
}

#[test]
fn the_first_viewer_shows_bytes_and_leaves_the_cursor_where_they_did() {
    let (outcome, shown) = view_from_start(|peer, _, _| {
        peer.data(Kind::Terminal, 0, b"hi\r\n");
        peer.say(&ended(0, Next::End));
    });
    assert!(matches!(outcome, AttachOutcome::Ended(_)), "{outcome:?}");
    assert!(shown.starts_with("hi\r\n\x1b[0m") && shown.ends_with("\x1b[?25h"), "{shown:?}");
}

#[test]
fn a_crash_is_said_below_the_bytes() {
    let (_, shown) = view_from_start(|peer, _, _| {
        peer.data(Kind::Terminal, 0, b"hi");
        peer.say(&ended(1, Next::Restart { delay_ms: 7 }));
        peer.data(Kind::Terminal, 2, b"again\r\n");
        peer.say(&ended(0, Next::End));
    });
    assert!(
        shown.contains("\r\n\x1b[J[agent exited with code 1; restarts in 7 ms]\r\nagain\r\n"),
        "{shown:?}"
    );
}

#[test]
fn bytes_that_were_missed_are_made_up_for_by_a_picture_below_what_the_person_had() {
    let (_, shown) = view_from_start(|peer, master, _| {
        peer.data(Kind::Terminal, 0, b"\x1b[?1049hslow");
        peer.say(&ServerMessage::Skipped { offset: 5000 });
        assert_eq!(peer.hear(), Said::Message(ClientMessage::Resize(SIZE)));
        peer.data(Kind::Terminal, 5000, b"noise");
        peer.say(&ServerMessage::Screen { offset: 6000, bytes: 3, size: SIZE });
        peer.data(Kind::Screen, 0, b"new");
        peer.data(Kind::Terminal, 6000, b"live");
        let seen = see(master, "newlive");
        assert!(!seen.contains("noise") && seen.contains("\x1b[?1049l\x1b[40;1H\n"), "{seen:?}");
        master.write_all(b"\x1dd").unwrap();
    });
    assert!(shown.ends_with("\r\n\x1b[J"), "{shown:?}");
}
