//! Connections to an init that is well-behaved, and to some that are not.

use std::{
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    address::Address,
    codec::CodecError,
    failure::{Failure, FailureKind},
    frame::{FrameError, Kind, MAX_DATA},
    handshake::{Features, HandshakeError, Token, Verdict, Welcome},
};
use rustix::fs::{Mode, OFlags};

use super::{
    Connection, ConnectionError, Incoming, Target, operations,
    testing::{Peer, Said, connected, play, soon},
};

const NONE: Features = Features(0);

/// A folder that is removed with its value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("agent-shim-client-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

fn greet(script: impl FnOnce(&mut Peer) + Send + 'static, deadline: Instant) -> ConnectionError {
    let (socket, peer) = play(script);
    let error = Connection::shake_hands(socket, NONE, &Token::default(), deadline).unwrap_err();
    peer.join().unwrap();
    error
}

/// What a `Ping` ends with when init answers it by `script`.
fn ask(script: impl FnOnce(&mut Peer) + Send + 'static) -> ConnectionError {
    let (mut connection, peer) = connected(NONE, |peer| {
        peer.request();
        script(peer);
    });
    let error = operations::ping(&mut connection, soon()).unwrap_err();
    drop(connection);
    peer.join().unwrap();
    error
}

#[test]
fn a_socket_is_reached_through_its_folder_however_long_the_path() {
    let folder = Folder::new("deep");
    let deep = folder.0.join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let open = rustix::fs::open(&deep, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let bound = format!("/proc/self/fd/{}/control.sock", std::os::fd::AsRawFd::as_raw_fd(&open));
    let listener = UnixListener::bind(bound).unwrap();
    let peer = thread::spawn(move || {
        for _ in 0..2 {
            let mut peer = Peer::new(listener.accept().unwrap().0);
            peer.welcome(Features(u64::MAX));
            assert_eq!(peer.request(), Request::Ping);
            peer.say(&ServerMessage::Pong);
        }
    });
    let address = Address::Unix(deep.join("control.sock"));
    for target in [
        Target::InFolder { folder: open.as_fd(), name: Path::new("control.sock") },
        Target::Address(&address),
    ] {
        let mut connection = Connection::open(target, &Token::default(), soon()).unwrap();
        assert_eq!(connection.features(), Features::DESCRIPTORS.with(Features::INPUT_WINDOW));
        operations::ping(&mut connection, soon()).unwrap();
    }
    peer.join().unwrap();
}

#[test]
fn a_deadlistener_and_a_missing_socket_are_not_running() {
    let folder = Folder::new("dead");
    let path = folder.0.join("control.sock");
    let address = Address::Unix(path.clone());
    let call = || Connection::open(Target::Address(&address), &Token::default(), soon()).unwrap_err();
    assert!(matches!(call(), ConnectionError::NotRunning));
    drop(UnixListener::bind(path).unwrap());
    assert!(matches!(call(), ConnectionError::NotRunning));
    let long = Address::Unix(folder.0.join("x".repeat(150)).join("control.sock"));
    let error = Connection::open(Target::Address(&long), &Token::default(), soon()).unwrap_err();
    assert!(matches!(error, ConnectionError::NotRunning));
}

#[test]
fn alistener_that_nobody_serves_is_stuck_and_no_wait() {
    let folder = Folder::new("stuck");
    let path = folder.0.join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = Address::Unix(path);
    let call = || Connection::open(Target::Address(&address), &Token::default(), Instant::now()).unwrap_err();
    // The first one waits in the queue for its handshake, later ones find the queue full.
    let mut waiting = Vec::new();
    let full = loop {
        let socket = match Target::Address(&address).dial(Instant::now()) {
            Ok(socket) => socket,
            Err(error) => break error,
        };
        waiting.push(socket);
        assert!(waiting.len() < 10);
    };
    assert!(matches!(full, ConnectionError::Stuck("its queue of new connections is full")));
    waiting.pop();
    assert!(call().is_stuck());
}

#[test]
fn hybrid_devices_are_asked_for_the_port() {
    let folder = Folder::new("hybrid");
    let path = folder.0.join("vsock.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = thread::spawn(move || {
        let accept = || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut ask = [0; 13];
            stream.read_exact(&mut ask).unwrap();
            assert_eq!(&ask, b"CONNECT 5000\n");
            stream
        };
        let mut stream = accept();
        stream.write_all(b"OK 1073741824\n").unwrap();
        let mut peer = Peer::new(stream);
        peer.welcome(Features(u64::MAX));
        peer.request();
        peer.say(&ServerMessage::Pong);
        drop(accept());
        accept().write_all(b"NO\n").unwrap();
        accept().write_all(&[b'O'; 4096]).unwrap();
    });
    let address = Address::Hybrid { path, port: 5000 };
    let call = || Connection::open(Target::Address(&address), &Token::default(), soon());
    let mut connection = call().unwrap();
    assert_eq!(connection.features(), Features::INPUT_WINDOW, "descriptors cannot travel into a machine");
    operations::ping(&mut connection, soon()).unwrap();
    let closed = call().unwrap_err();
    assert!(closed.is_stuck(), "the machine is there, and nobody in it listens: {closed}");
    assert!(matches!(call().unwrap_err(), ConnectionError::Hybrid));
    assert!(matches!(call().unwrap_err(), ConnectionError::Hybrid));
    peer.join().unwrap();
}

#[test]
fn a_handshake_tells_what_is_wrong() {
    let refuse = |verdict| {
        greet(
            move |peer| {
                peer.hello();
                peer.raw(&Welcome { generation: 7, verdict, features: NONE }.encode());
            },
            soon(),
        )
    };
    assert!(matches!(refuse(Verdict::Denied), ConnectionError::Denied));
    assert!(matches!(refuse(Verdict::Busy), ConnectionError::Busy));
    assert!(matches!(refuse(Verdict::NoCommonGeneration), ConnectionError::NoCommonGeneration(7)));
    assert!(matches!(refuse(Verdict::Welcome), ConnectionError::NoCommonGeneration(7)));
}

#[test]
fn a_verdict_is_heard_from_an_init_that_never_read_our_greeting() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer::new(theirs);
    peer.raw(&Welcome { generation: 1, verdict: Verdict::Busy, features: NONE }.encode());
    drop(peer);
    ours.set_nonblocking(true).unwrap();
    let error = Connection::shake_hands(ours.into(), NONE, &Token::default(), soon()).unwrap_err();
    assert!(matches!(error, ConnectionError::Busy));
}

#[test]
fn a_bad_handshake_ends_the_call() {
    let garbage = greet(|peer| peer.raw(&[b'x'; 64]), soon());
    assert!(matches!(garbage, ConnectionError::Handshake(HandshakeError::Magic)));
    let cut = greet(|peer| peer.raw(b"agntshim"), soon());
    assert!(matches!(cut, ConnectionError::Closed(_)));
    let stalled = greet(
        |peer| {
            peer.hello();
            peer.raw(b"agnt");
            peer.wait_hang_up();
        },
        Instant::now(),
    );
    assert!(matches!(stalled, ConnectionError::Stuck(_)));
}

#[test]
fn every_question_gets_its_answer() {
    let answer = |message: ServerMessage| {
        connected(NONE, move |peer| {
            let request = peer.request();
            peer.say(&message);
            request
        })
    };
    let (mut connection, peer) = answer(ServerMessage::Done);
    operations::stop(&mut connection, true, soon()).unwrap();
    operations::wait_end(&mut connection, soon()).unwrap();
    assert_eq!(peer.join().unwrap(), Request::Stop { force: true });

    let (mut connection, peer) = answer(ServerMessage::Done);
    operations::signal(&mut connection, 15, soon()).unwrap();
    assert_eq!(peer.join().unwrap(), Request::SignalAgent { signal: 15 });

    let (mut connection, peer) = answer(ServerMessage::Done);
    operations::restart(&mut connection, soon()).unwrap();
    assert_eq!(peer.join().unwrap(), Request::RestartAgent);

    let (mut connection, peer) = answer(ServerMessage::Done);
    operations::restart_unit(&mut connection, "db", soon()).unwrap();
    assert_eq!(peer.join().unwrap(), Request::RestartUnit { name: "db".to_owned() });

    let (mut connection, peer) = answer(ServerMessage::Done);
    operations::remove_agent(&mut connection, "fix", true, soon()).unwrap();
    assert_eq!(peer.join().unwrap(), Request::RemoveAgent { name: "fix".to_owned(), force: true });

    let refusal = Failure::new(FailureKind::WrongState, "the sandbox is stopping");
    let (mut connection, _peer) = answer(ServerMessage::Failed(refusal.clone()));
    let error = operations::restart(&mut connection, soon()).unwrap_err();
    assert!(matches!(error, ConnectionError::Refused(failure) if failure == refusal));
}

#[test]
fn hostile_answers_end_the_question() {
    assert!(matches!(ask(|_| ()), ConnectionError::Closed(_)));
    assert!(matches!(ask(|peer| peer.raw(&[1, 0, 0])), ConnectionError::Closed(_)));
    assert!(matches!(ask(|peer| peer.raw(&[1, 0, 0, 0, 1, 0, 0, 0])), ConnectionError::Closed(_)));
    assert!(matches!(
        ask(|peer| peer.raw(&[9, 0, 0, 0, 0, 0, 0, 0])),
        ConnectionError::Frame(FrameError::UnknownKind(9))
    ));
    assert!(matches!(ask(|peer| peer.raw(&[1, 1, 0, 0, 0, 0, 0, 0])), ConnectionError::Frame(_)));
    assert!(matches!(
        ask(|peer| peer.raw(&[1, 0, 0, 0, 255, 255, 255, 255])),
        ConnectionError::Frame(FrameError::TooLong(_))
    ));
    assert!(matches!(
        ask(|peer| peer.raw(&[1, 0, 0, 0, 2, 0, 0, 0, 200, 200])),
        ConnectionError::Codec(CodecError::Malformed(_))
    ));
    assert!(matches!(
        ask(|peer| peer.raw(&[1, 0, 0, 0, 2, 0, 0, 0, 0, 0])),
        ConnectionError::Codec(CodecError::Trailing(1))
    ));
    assert!(matches!(ask(|peer| peer.say(&ServerMessage::Done)), ConnectionError::Unexpected { .. }));
    assert!(matches!(ask(|peer| peer.data(Kind::Stdout, 0, b"x")), ConnectionError::Unexpected { .. }));
    assert!(matches!(
        ask(|peer| peer.raw(&[0, 0, 0, 0, 1, 0, 0, 0, 0])),
        ConnectionError::Unexpected { what: "request", .. }
    ));
}

#[test]
fn silence_ends_at_the_deadline() {
    let (mut connection, peer) = connected(NONE, Peer::wait_hang_up);
    assert!(matches!(
        operations::ping(&mut connection, Instant::now()).unwrap_err(),
        ConnectionError::Deadline(_)
    ));
    drop(connection);
    peer.join().unwrap();
}

#[test]
fn a_flood_costs_one_frame_of_memory() {
    let (mut connection, peer) = connected(NONE, |peer| {
        let mut flood = Vec::new();
        agent_protocol::frame::encode_data(Kind::Log, 0, &vec![7; MAX_DATA], &mut flood);
        for _ in 0..64 {
            peer.raw(&flood);
        }
        for _ in 0..10_000 {
            peer.say(&ServerMessage::LogCaughtUp);
        }
    });
    let mut bytes_seen = 0;
    loop {
        let largest = connection.input.capacity();
        assert!(largest <= agent_protocol::buffer::LARGEST_BYTES, "{largest}");
        match connection.recv("reading a flood", Some(soon())) {
            Ok(Incoming::Data { bytes, .. }) => bytes_seen += bytes.len(),
            Ok(Incoming::Message(message)) => assert_eq!(message, ServerMessage::LogCaughtUp),
            Err(error) => break assert!(matches!(error, ConnectionError::Closed(_)), "{error}"),
        }
    }
    assert_eq!(bytes_seen, 64 * MAX_DATA);
    peer.join().unwrap();
}

#[test]
fn a_peer_that_reads_nothing_ends_the_sending() {
    let (release, waits) = std::sync::mpsc::channel::<()>();
    let (mut connection, peer) = connected(NONE, move |_peer| waits.recv().ok());
    connection.set_write_patience(Duration::ZERO);
    let error = connection.send_data(Kind::Stdin, 0, &vec![0; 4 << 20]).unwrap_err();
    assert!(matches!(error, ConnectionError::Stuck("it reads nothing")));
    let error = loop {
        if let Err(error) = connection.queue(&ClientMessage::Signal(2)) {
            break error;
        }
    };
    assert!(matches!(error, ConnectionError::Stuck("it reads nothing")));
    drop(release);
    peer.join().unwrap();
}

#[test]
fn streams_are_cut_into_frames_with_their_offsets() {
    let (mut connection, peer) = connected(NONE, |peer| [peer.hear(), peer.hear(), peer.hear(), peer.hear()]);
    connection.send_data(Kind::Stdin, 5, &vec![1; MAX_DATA + 2]).unwrap();
    connection.send(&ClientMessage::StdinEnd).unwrap();
    drop(connection);
    assert_eq!(
        peer.join().unwrap(),
        [
            Said::Data(Kind::Stdin, 5, vec![1; MAX_DATA]),
            Said::Data(Kind::Stdin, 5 + MAX_DATA as u64, vec![1; 2]),
            Said::Message(ClientMessage::StdinEnd),
            Said::End,
        ]
    );
}

#[test]
fn descriptors_that_were_not_asked_for_are_closed() {
    for (expected, sent) in [(0, 1), (2, 3), (3, 4), (3, 10)] {
        let (mut connection, peer) = connected(Features::DESCRIPTORS, move |peer| {
            let (reader, writer) = std::io::pipe().unwrap();
            peer.hand_over(&ServerMessage::Done, &vec![reader.as_fd(); sent]);
            drop(reader);
            writer
        });
        connection.expect_descriptors(expected);
        let error = connection.recv("testing", Some(soon())).unwrap_err();
        assert!(matches!(error, ConnectionError::Descriptors(_)), "{error}");
        let mut writer = peer.join().unwrap();
        drop(connection);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn descriptors_arrive_with_their_message_and_close_on_exec() {
    let (mut connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"through the pipe").unwrap();
        peer.hand_over(&ServerMessage::Done, &[reader.as_fd()]);
    });
    connection.expect_descriptors(1);
    assert_eq!(connection.recv_message("testing", Some(soon())).unwrap(), ServerMessage::Done);
    let descriptor = connection.take_descriptors().remove(0);
    assert_eq!(rustix::io::fcntl_getfd(&descriptor).unwrap(), rustix::io::FdFlags::CLOEXEC);
    peer.join().unwrap();
    let mut text = String::new();
    std::fs::File::from(descriptor).read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the pipe");
}
