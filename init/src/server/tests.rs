use std::{
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use agent_protocol::{
    codec,
    exit::{ExitRecord, How, KilledBy},
    frame::{self, Kind},
    handshake::WELCOME_BYTES,
    message::{
        AttachFrom, AttachRequest, ExecExited, ExecId, ExecRequest, LeaseWish, Stdio, TerminalSize, ViewerId,
        What,
    },
};
use tokio::{sync::watch, task::LocalSet, time::sleep};

use super::*;
use crate::{
    output::Outputs,
    sandbox::{Ends, StartedExec},
    session::{Session, pty},
};

/// A server, and the questions that its tasks ask of a loop that the test plays.
fn server() -> (Server, mpsc::Receiver<Ask>) {
    let main = Session::new(TerminalSize { columns: 80, rows: 24 });
    let shared = Rc::new(Shared::new(main, Outputs::new(std::iter::empty())));
    let (asks, asked) = mpsc::channel(1);
    (Server { shared, asks, token: Token::default(), admission: Admission::SameUser, clock: None }, asked)
}

fn inside<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, work())
}

#[test]
fn a_question_that_broke_the_loop_is_told_from_a_loop_that_has_ended() {
    inside(async || {
        let (server, mut asked) = server();
        let (answer, ()) = tokio::join!(server.ask(Ask::Status), async { drop(asked.recv().await) });
        assert_eq!(answer.unwrap_err().kind, FailureKind::Internal);
        drop(asked);
        assert_eq!(server.ask(Ask::Status).await.unwrap_err().kind, FailureKind::Stopping);
    });
}

fn all_that_came(mut client: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn nothing_follows_half_a_frame() {
    inside(async || {
        let (socket, client) = Socket::with_client();
        let (_, outgoing) = split(socket);
        let large = vec![b'x'; frame::MAX_DATA];
        let given_up = timeout(Duration::from_secs(1), async {
            while outgoing.data(Kind::Stdout, 0, &large).await.is_ok() {}
        });
        assert!(given_up.await.is_err(), "nobody reads");
        let error = timeout(Duration::from_secs(1), outgoing.message(&ServerMessage::Done)).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        drop(outgoing);
        assert!(all_that_came(client).ends_with(b"xxxx"));
    });
}

#[test]
fn a_stop_that_was_answered_keeps_nobody_waiting() {
    inside(async || {
        let (server, mut asked) = server();
        let (socket, _client) = Socket::with_client();
        let (mut incoming, outgoing) = split(socket);
        let closed = server.shared.connection_closed.notified();
        let the_loop = async {
            let Some(Ask::Stop { reply, .. }) = asked.recv().await else { panic!("not a stop") };
            reply.send(Ok(())).unwrap();
            closed.await;
        };
        tokio::select! {
            ended = dispatch(&server, Request::Stop { force: true }, Features(0), &mut incoming, &outgoing) => {
                panic!("the connection ended before init: {ended:?}");
            }
            told = timeout(Duration::from_secs(1), the_loop) => told.expect("to be told to count again"),
        }
    });
}

#[test]
fn the_exit_of_a_command_waits_for_a_client_that_still_reads_its_output() {
    inside(async || {
        let (server, mut asked) = server();
        let (socket, client) = Socket::with_client();
        let (mut incoming, outgoing) = split(socket);
        let request = ExecRequest {
            argv: vec![b"true".to_vec()],
            env: Vec::new(),
            directory: None,
            user: None,
            stdin: false,
            stdio: Stdio::Descriptors,
            timeout_ms: None,
        };
        let exit = ExitRecord {
            how: How::Code(3),
            core_dumped: false,
            killed_by: KilledBy::Itself,
            limit: None,
            output_truncated: false,
            ran_ms: 1,
            at_unix_ms: 1,
        };
        let (ends, told) = watch::channel(None);
        let the_rest = async {
            let Some(Ask::Exec { reply, .. }) = asked.recv().await else { panic!("not a command") };
            let end = || client.as_fd().try_clone_to_owned().unwrap();
            let ends_of_it = Ends::Handed { stdin: None, stdout: end(), stderr: end() };
            let started = StartedExec { id: ExecId(1), pid: 2, ends: ends_of_it, exit: told };
            assert!(reply.send(Ok(started)).is_ok());
            sleep(Duration::from_secs(1)).await;
            outgoing.fill();
            ends.send_replace(Some(exit.clone()));
            sleep(Duration::from_mins(1)).await;
            let mut there = vec![0; 1 << 20];
            // First alone what came with descriptors, then what it was filled with.
            let read = [(); 2].map(|()| (&client).read(&mut there).unwrap());
            assert!(read[1] > 1024, "{read:?}");
        };
        let run = exec::run(&server, (request, None), Features::DESCRIPTORS, &mut incoming, &outgoing);
        let (ran, ()) = tokio::join!(run, the_rest);
        ran.unwrap();
        let mut last = Vec::new();
        let message = ServerMessage::ExecExited(ExecExited { exec: ExecId(1), exit });
        codec::encode_frame(Kind::Message, &message, &mut last).unwrap();
        drop((incoming, outgoing));
        assert!(all_that_came(client).ends_with(&last));
    });
}

#[test]
fn a_viewer_that_types_at_a_program_that_is_gone_is_let_go() {
    inside(async || {
        let (server, _asked) = server();
        let (socket, client) = Socket::with_client();
        let (mut incoming, outgoing) = split(socket);
        let (master, _slave) = pty::open(TerminalSize { columns: 80, rows: 24 }).unwrap();
        let master = Rc::new(master);
        server.shared.main.set_master(Some(Rc::clone(&master)));
        let attach = AttachRequest { lease: LeaseWish::TakeOver, size: None, from: AttachFrom::Screen };
        let request = AttachTo { unit: AGENT.to_owned(), attach };
        let typing = async {
            let lines = b"\n".repeat(100_000);
            let mut frame = Vec::new();
            frame::encode_data(Kind::Terminal, 0, &lines, &mut frame);
            (&client).write_all(&frame).unwrap();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(Rc::strong_count(&master), 3, "typed at, by a viewer that waits");
            server.shared.main.set_master(None);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(Rc::strong_count(&master), 1);
        };
        tokio::select! {
            _ = attach::run(&server, &request, &mut incoming, &outgoing) => panic!("the viewer is gone"),
            () = typing => {}
        }
    });
}

#[test]
fn whoever_gets_the_lease_and_how_events_tell_it() {
    inside(async || {
        let (server, _asked) = server();
        let (socket, client) = Socket::with_client();
        let (mut incoming, outgoing) = split(socket);
        let attach = AttachRequest { lease: LeaseWish::IfFree, size: None, from: AttachFrom::Screen };
        let request = AttachTo { unit: AGENT.to_owned(), attach };
        drop(client);
        attach::run(&server, &request, &mut incoming, &outgoing).await.unwrap();
        let journal = server.shared.journal.borrow();
        let told: Vec<_> =
            (0..).map_while(|seq| journal.first_after(seq)).map(|event| event.what.clone()).collect();
        let viewer = ViewerId(1);
        assert_eq!(
            told,
            [
                What::LeaseChanged { holder: Some(viewer) },
                What::ViewerAttached { viewer },
                What::LeaseChanged { holder: None },
                What::ViewerDetached { viewer },
            ]
        );
    });
}

#[test]
fn connections_are_bounded_even_while_they_are_told_that_init_is_busy() {
    inside(async || {
        let (server, _asked) = server();
        let path = std::env::temp_dir().join(format!("agent-init-busy-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let shared = Rc::clone(&server.shared);
        let _accepting = crate::task::start(accept_all(server, Listener::new(listener.into()).unwrap()));
        let answer = async |open: u32| {
            shared.connections.set(open);
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(&Hello::new(Features(0), Token::default()).encode()).unwrap();
            sleep(Duration::from_secs(1)).await;
            client.set_nonblocking(true).unwrap();
            let mut welcome = [0; WELCOME_BYTES];
            let read = client.read_exact(&mut welcome).map_err(|error| error.kind());
            // Kept, so that its own end does not count one less.
            (client, read.map(|()| Welcome::decode(&welcome).unwrap().verdict))
        };
        let (_first, verdict) = answer(MAX_CONNECTIONS - 1).await;
        assert_eq!(verdict, Ok(Verdict::Welcome));
        let (_second, verdict) = answer(MAX_CONNECTIONS).await;
        assert_eq!(verdict, Ok(Verdict::Busy));
        let (_third, verdict) = answer(MAX_CONNECTIONS + TOLD_BUSY).await;
        assert_eq!(verdict, Err(std::io::ErrorKind::ConnectionReset));
        std::fs::remove_file(&path).unwrap();
    });
}
