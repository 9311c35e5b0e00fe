//! Commands run by a scripted init, good and bad.

use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Read, Seek, Write, pipe},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::Duration,
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    exit::How,
    frame::{Kind, MAX_DATA},
    handshake::Features,
    message::{ExecExited, INPUT_WINDOW_BYTES, TerminalSize},
};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use rustix::{
    fs::OFlags,
    pty::OpenptFlags,
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use super::*;
use crate::client::testing::{Peer, Said, connected, exited};

const EXEC: ExecId = ExecId(7);

fn started() -> ServerMessage {
    ServerMessage::ExecStarted(ExecStarted { exec: EXEC, pid: 3 })
}

fn ended(code: i32) -> ServerMessage {
    ServerMessage::ExecExited(ExecExited { exec: EXEC, exit: exited(code) })
}

fn options(streams: Streams<'_>, stdin: bool, terminal: bool) -> ExecOptions<'_> {
    let request = ExecRequest {
        argv: vec![b"true".to_vec()],
        env: vec![],
        directory: None,
        user: None,
        stdin,
        stdio: Stdio::Detached,
        timeout_ms: None,
    };
    ExecOptions { request, terminal, streams, start_patience: Duration::from_secs(20) }
}

/// The command's ends of its pipes.
struct Inside {
    stdin: PipeReader,
    stdout: PipeWriter,
    stderr: PipeWriter,
}

/// Answers the request with pipes.
fn start_with_pipes(peer: &mut Peer) -> Inside {
    let Request::Exec(request) = peer.request() else { panic!("no exec") };
    assert_eq!(request.stdio, Stdio::Descriptors);
    let (stdin, to_stdin) = pipe().unwrap();
    let (from_stdout, stdout) = pipe().unwrap();
    let (from_stderr, stderr) = pipe().unwrap();
    let theirs = [to_stdin.as_fd(), from_stdout.as_fd(), from_stderr.as_fd()];
    peer.hand_over(&started(), if request.stdin { &theirs } else { &theirs[1..] });
    Inside { stdin, stdout, stderr }
}

/// The caller's side: pipes, as a shell gives them.
struct Caller {
    stdin: (PipeReader, Option<PipeWriter>),
    stdout: (Option<PipeReader>, PipeWriter),
    stderr: (Option<PipeReader>, PipeWriter),
}

impl Caller {
    fn new() -> Self {
        let stdin = pipe().unwrap();
        let (stdout, stderr) = (pipe().unwrap(), pipe().unwrap());
        Self {
            stdin: (stdin.0, Some(stdin.1)),
            stdout: (Some(stdout.0), stdout.1),
            stderr: (Some(stderr.0), stderr.1),
        }
    }

    fn streams(&self) -> Streams<'_> {
        Streams { input: self.stdin.0.as_fd(), output: self.stdout.1.as_fd(), error: self.stderr.1.as_fd() }
    }

    /// What came out, once nobody writes any more.
    fn output(self) -> (String, String) {
        let Self { stdout, stderr, .. } = self;
        drop((stdout.1, stderr.1));
        let read = |reader: Option<PipeReader>| {
            let mut text = String::new();
            reader.unwrap().read_to_string(&mut text).unwrap();
            text
        };
        (read(stdout.0), read(stderr.0))
    }
}

fn run_with_pipes<T: Send + 'static>(
    caller: &Caller,
    stdin: bool,
    script: impl FnOnce(&mut Peer, Inside) -> T + Send + 'static,
) -> (Result<ExecOutcome, ExecError>, T) {
    let (connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        let inside = start_with_pipes(peer);
        script(peer, inside)
    });
    let result = run(connection, options(caller.streams(), stdin, false));
    (result, peer.join().unwrap())
}

#[test]
fn streams_go_through_pipes_both_ways() {
    let mut caller = Caller::new();
    caller.stdin.1.take().unwrap().write_all(b"input").unwrap();
    let (result, ()) = run_with_pipes(&caller, true, |peer, mut inside| {
        let mut input = String::new();
        inside.stdin.read_to_string(&mut input).unwrap();
        inside.stdout.write_all(format!("out of {input}").as_bytes()).unwrap();
        inside.stderr.write_all(b"complaint").unwrap();
        drop(inside);
        peer.say(&ended(3));
    });
    let outcome = result.unwrap();
    assert_eq!((outcome.exec, outcome.exit), (EXEC, exited(3)));
    assert!(outcome.input_error.is_none());
    for ours in [caller.streams().input, caller.streams().output, caller.streams().error] {
        assert!(!rustix::fs::fcntl_getfl(ours).unwrap().contains(OFlags::NONBLOCK));
    }
    assert_eq!(caller.output(), ("out of input".into(), "complaint".into()));
}

#[test]
fn a_descendant_that_keeps_the_pipes_is_not_waited_for_and_nothing_written_before_is_lost() {
    let caller = Caller::new();
    let (result, _inside) = run_with_pipes(&caller, true, |peer, mut inside| {
        inside.stdout.write_all(&vec![b'x'; 60_000]).unwrap();
        peer.say(&ended(0));
        inside
    });
    assert_eq!(result.unwrap().exit, exited(0));
    assert_eq!(caller.output().0.len(), 60_000);
}

#[test]
fn much_data_arrives_whole_behind_a_slow_reader() {
    const BYTES: usize = 32 << 20;
    let mut caller = Caller::new();
    let mut reader = caller.stdout.0.take().unwrap();
    let counter = thread::spawn(move || {
        let (mut piece, mut total, mut sum) = (vec![0; 100_000], 0, 0u64);
        loop {
            match reader.read(&mut piece).unwrap() {
                0 => return (total, sum),
                count => {
                    total += count;
                    sum += piece[..count].iter().map(|byte| u64::from(*byte)).sum::<u64>();
                }
            }
        }
    });
    let (result, sent) = run_with_pipes(&caller, false, |peer, mut inside| {
        let piece: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        for _ in 0..BYTES >> 20 {
            inside.stdout.write_all(&piece).unwrap();
        }
        peer.say(&ended(0));
        (BYTES, (BYTES as u64 / 256) * (255 * 128))
    });
    result.unwrap();
    caller.stdout.0 = Some(pipe().unwrap().0);
    drop(caller);
    assert_eq!(counter.join().unwrap(), sent);
}

#[test]
fn files_are_read_and_written_in_append_mode_too() {
    let path = std::env::temp_dir().join(format!("agent-shim-exec-{}", std::process::id()));
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    let append = File::options().append(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(b"first ").unwrap();
    file.rewind().unwrap();
    let streams = Streams { input: file.as_fd(), output: append.as_fd(), error: append.as_fd() };
    let (connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        let mut inside = start_with_pipes(peer);
        let mut input = String::new();
        inside.stdin.read_to_string(&mut input).unwrap();
        inside.stdout.write_all(b"second").unwrap();
        drop(inside);
        peer.say(&ended(0));
        input
    });
    run(connection, options(streams, true, false)).unwrap();
    assert_eq!(peer.join().unwrap(), "first ");
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first second");
}

#[test]
fn a_closed_output_reaches_a_command_that_says_nothing() {
    let mut caller = Caller::new();
    caller.stdout.0 = None;
    let (result, error) = run_with_pipes(&caller, false, |peer, mut inside| {
        use rustix::event::{PollFd, PollFlags};
        let mut fds = [PollFd::new(&inside.stdout, PollFlags::empty())];
        crate::client::wait::wait_any(&mut fds, Some(crate::client::testing::soon())).unwrap();
        let error = inside.stdout.write(b"x").unwrap_err().kind();
        peer.say(&ended(141));
        error
    });
    assert_eq!(error, std::io::ErrorKind::BrokenPipe);
    assert_eq!(result.unwrap().exit, exited(141));
}

#[test]
fn output_that_cannot_be_written_is_told_with_the_exit() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let null = File::open("/dev/null").unwrap();
    let streams = Streams { input: null.as_fd(), output: full.as_fd(), error: full.as_fd() };
    let (connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        let mut inside = start_with_pipes(peer);
        inside.stdout.write_all(b"lost").unwrap();
        drop(inside);
        peer.say(&ended(4));
    });
    let error = run(connection, options(streams, false, false)).unwrap_err();
    peer.join().unwrap();
    assert_eq!(error.shell_code(), 125);
    let ExecError::Output { stream: "output", source, exit } = error else { panic!("{error}") };
    assert_eq!((source.kind(), *exit), (std::io::ErrorKind::StorageFull, exited(4)));
}

#[test]
fn what_is_no_pipe_or_the_wrong_end_is_refused() {
    type Give = fn() -> Vec<OwnedFd>;
    let cases: [Give; 5] = [
        || vec![File::open("/dev/null").unwrap().into(), pipe().unwrap().0.into()],
        || vec![File::open("/proc/self/status").unwrap().into(), pipe().unwrap().0.into()],
        || vec![pipe().unwrap().1.into(), pipe().unwrap().0.into()],
        || vec![pipe().unwrap().0.into()],
        || (0..10).map(|_| pipe().unwrap().0.into()).collect(),
    ];
    for give in cases {
        let caller = Caller::new();
        let (connection, peer) = connected(Features::DESCRIPTORS, move |peer| {
            peer.request();
            let descriptors = give();
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            peer.hand_over(&started(), &borrowed);
            peer.wait_hang_up();
        });
        let error = run(connection, options(caller.streams(), false, false)).unwrap_err();
        assert!(matches!(error, ExecError::Connection(ConnectionError::Descriptors(_))), "{error}");
        peer.join().unwrap();
    }
}

#[test]
fn a_refusal_becomes_the_exit_code_of_a_shell() {
    for (kind, code) in
        [(FailureKind::NotFound, 127), (FailureKind::NotExecutable, 126), (FailureKind::BadDirectory, 125)]
    {
        let caller = Caller::new();
        let (connection, peer) = connected(Features::DESCRIPTORS, move |peer| {
            peer.request();
            peer.say(&ServerMessage::Failed(Failure::new(kind, "no")));
        });
        let error = run(connection, options(caller.streams(), false, false)).unwrap_err();
        assert_eq!(error.shell_code(), code);
        peer.join().unwrap();
    }
}

#[test]
fn a_lost_sandbox_is_told_after_its_last_output() {
    let caller = Caller::new();
    let (result, ()) = run_with_pipes(&caller, false, |_, mut inside| {
        inside.stdout.write_all(b"last words").unwrap();
    });
    let error = result.unwrap_err();
    assert!(matches!(error, ExecError::Lost(ConnectionError::Closed(_))), "{error}");
    assert_eq!(error.shell_code(), 125);
    assert_eq!(caller.output().0, "last words");
}

#[test]
fn nonsense_while_the_command_runs_ends_it_here() {
    let nonsense: [fn(&mut Peer); 4] = [
        |peer| peer.say(&ServerMessage::Pong),
        |peer| peer.data(Kind::Stdout, 0, b"x"),
        |peer| peer.raw(&[8; 100]),
        |peer| peer.say(&ServerMessage::ExecExited(ExecExited { exec: ExecId(99), exit: exited(0) })),
    ];
    for say in nonsense {
        let caller = Caller::new();
        let (result, ()) = run_with_pipes(&caller, false, move |peer, _inside| {
            say(peer);
            peer.wait_hang_up();
        });
        assert!(matches!(result, Err(ExecError::Connection(_))), "{result:?}");
    }
}

/// Sends a signal to the thread that runs the client, as one to the process would come.
fn signaller() -> impl Fn(Signal) + Send + 'static {
    let client: Pthread = pthread_self();
    move |signal| pthread_kill(client, signal).unwrap()
}

#[test]
fn signals_are_forwarded_and_insisting_ends_us() {
    let caller = Caller::new();
    let send = signaller();
    let (result, heard) = run_with_pipes(&caller, true, move |peer, mut inside| {
        // Output that arrives says that the client watches its signals by now.
        wait_until_carried(&mut inside);
        send(Signal::SIGUSR1);
        let heard = peer.hear();
        for _ in 0..3 {
            send(Signal::SIGTERM);
            peer.hear();
        }
        heard
    });
    assert_eq!(heard, Said::Message(ClientMessage::Signal(Signal::SIGUSR1 as i32)));
    let error = result.unwrap_err();
    assert!(matches!(error, ExecError::Interrupted(Signal::SIGTERM)), "{error}");
    assert_eq!(error.shell_code(), 143);
}

/// Waits until the client has taken a byte out of the command's output.
fn wait_until_carried(inside: &mut Inside) {
    inside.stdout.write_all(b"x").unwrap();
    while rustix::io::ioctl_fionread(&inside.stdout).unwrap() > 0 {
        thread::yield_now();
    }
}

#[test]
fn a_caller_that_reads_nothing_is_waited_for_until_somebody_says_so() {
    let mut caller = Caller::new();
    let full = rustix::pipe::fcntl_getpipe_size(&caller.stdout.1).unwrap();
    caller.stdout.1.write_all(&vec![b'x'; full]).unwrap();
    let send = signaller();
    let (result, ()) = run_with_pipes(&caller, true, move |peer, mut inside| {
        inside.stdout.write_all(b"more").unwrap();
        peer.say(&ended(5));
        // The end of its input is what the command sees first when its exit is known.
        inside.stdin.read_to_end(&mut Vec::new()).unwrap();
        send(Signal::SIGTERM);
    });
    let exit = result.unwrap().exit;
    assert_eq!((exit.how, exit.output_truncated), (How::Code(5), true));
}

fn run_with_frames<T: Send + 'static>(
    caller: &Caller,
    stdin: bool,
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (Result<ExecOutcome, ExecError>, T) {
    run_with(Features::default(), caller, stdin, script)
}

fn run_with<T: Send + 'static>(
    features: Features,
    caller: &Caller,
    stdin: bool,
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (Result<ExecOutcome, ExecError>, T) {
    let (connection, peer) = connected(features, |peer| {
        let Request::Exec(request) = peer.request() else { panic!("no exec") };
        assert_eq!(request.stdio, Stdio::Frames);
        peer.say(&started());
        script(peer)
    });
    let result = run(connection, options(caller.streams(), stdin, false));
    (result, peer.join().unwrap())
}

#[test]
fn streams_go_in_frames_where_no_pipe_can() {
    let mut caller = Caller::new();
    caller.stdin.1.take().unwrap().write_all(b"input").unwrap();
    let (result, heard) = run_with_frames(&caller, true, |peer| {
        let heard = [peer.hear(), peer.hear()];
        peer.data(Kind::Stdout, 0, b"one ");
        peer.data(Kind::Stderr, 0, b"complaint");
        peer.data(Kind::Stdout, 4, b"two");
        peer.say(&ended(0));
        heard
    });
    assert_eq!(
        heard,
        [Said::Data(Kind::Stdin, 0, b"input".to_vec()), Said::Message(ClientMessage::StdinEnd)]
    );
    assert_eq!(result.unwrap().exit, exited(0));
    assert_eq!(caller.output(), ("one two".into(), "complaint".into()));
}

/// What is sent beyond that waits in the machine, and keeps back what the command writes.
#[test]
fn no_more_input_goes_in_than_there_is_room_for() {
    let mut caller = Caller::new();
    let mut writer = caller.stdin.1.take().unwrap();
    thread::spawn(move || writer.write_all(&vec![7; 1 << 20]));
    let (result, ()) = run_with(Features::INPUT_WINDOW, &caller, true, |peer| {
        let mut sent = 0;
        let mut hear_until = |peer: &mut Peer, end: u64| {
            while sent < end {
                let Said::Data(Kind::Stdin, offset, bytes) = peer.hear() else { panic!("no input") };
                assert_eq!(offset, sent);
                sent += bytes.len() as u64;
            }
            assert_eq!(sent, end);
        };
        hear_until(peer, INPUT_WINDOW_BYTES);
        for taken in [1, 70_000] {
            peer.say(&ServerMessage::InputTaken(taken));
            hear_until(peer, INPUT_WINDOW_BYTES + taken);
        }
        peer.say(&ended(0));
    });
    assert_eq!(result.unwrap().exit, exited(0));
}

#[test]
fn frames_arrive_whole_behind_a_slow_reader() {
    let mut caller = Caller::new();
    let mut reader = caller.stdout.0.take().unwrap();
    let counter = thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap());
    let (result, ()) = run_with_frames(&caller, false, |peer| {
        for turn in 0..20 {
            peer.data(Kind::Stdout, turn * MAX_DATA as u64, &vec![1; MAX_DATA]);
        }
        peer.say(&ended(0));
    });
    result.unwrap();
    drop(caller);
    assert_eq!(counter.join().unwrap(), 20 * MAX_DATA as u64);
}

#[test]
fn bytes_that_are_missing_or_told_twice_end_the_command() {
    for offset in [3, 5] {
        let caller = Caller::new();
        let (result, ()) = run_with_frames(&caller, false, move |peer| {
            peer.data(Kind::Stdout, 0, b"four");
            peer.data(Kind::Stdout, offset, b"x");
            peer.wait_hang_up();
        });
        let error = result.unwrap_err();
        assert!(matches!(error, ExecError::Connection(ConnectionError::Unexpected { .. })), "{error}");
    }
}

#[test]
fn a_closed_output_is_told_by_the_signal_it_would_bring() {
    let mut caller = Caller::new();
    caller.stdout.0 = None;
    let (result, heard) = run_with_frames(&caller, false, |peer| {
        peer.data(Kind::Stdout, 0, b"into the void");
        let heard = peer.hear();
        peer.data(Kind::Stdout, 13, b"more");
        peer.say(&ended(141));
        heard
    });
    assert_eq!(heard, Said::Message(ClientMessage::Signal(Signal::SIGPIPE as i32)));
    assert_eq!(result.unwrap().exit, exited(141));
}

/// A terminal as a person has one: the master is the screen and the keyboard.
fn terminal() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave =
        rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .unwrap();
    tcsetwinsize(&slave, Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (master.into(), slave.into())
}

#[test]
fn a_terminal_is_raw_while_the_command_runs_and_follows_its_size() {
    let (mut master, slave) = terminal();
    let send = signaller();
    let (connection, peer) = connected(Features::DESCRIPTORS, {
        let slave = slave.try_clone().unwrap();
        move |peer| {
            let Request::Exec(request) = peer.request() else { panic!("no exec") };
            assert_eq!(request.stdio, Stdio::Terminal(TerminalSize { columns: 100, rows: 40 }));
            peer.say(&started());
            peer.data(Kind::Terminal, 0, b"$ ");
            let mut prompt = [0; 2];
            master.read_exact(&mut prompt).unwrap();
            assert!(!tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ISIG));
            master.write_all(b"\x03").unwrap();
            let typed = peer.hear();
            tcsetwinsize(&slave, Winsize { ws_row: 1, ws_col: 2, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
            send(Signal::SIGWINCH);
            let resized = peer.hear();
            peer.say(&ended(0));
            (typed, resized, master)
        }
    });
    let streams = Streams { input: slave.as_fd(), output: slave.as_fd(), error: slave.as_fd() };
    assert_eq!(run(connection, options(streams, true, true)).unwrap().exit, exited(0));
    let (typed, resized, _master) = peer.join().unwrap();
    assert_eq!(typed, Said::Data(Kind::Terminal, 0, b"\x03".to_vec()));
    let size = TerminalSize { columns: 2, rows: 1 };
    assert_eq!(resized, Said::Message(ClientMessage::Resize(size)));
    let modes = tcgetattr(&slave).unwrap().local_modes;
    assert!(modes.contains(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON));
    assert!(!rustix::fs::fcntl_getfl(&slave).unwrap().contains(OFlags::NONBLOCK));
}

#[test]
fn a_terminal_that_hangs_up_ends_us_and_input_from_a_pipe_ends_with_its_key() {
    let (mut master, slave) = terminal();
    let (connection, peer) = connected(Features::DESCRIPTORS, move |peer| {
        peer.request();
        peer.say(&started());
        peer.data(Kind::Terminal, 0, b"$");
        master.read_exact(&mut [0]).unwrap();
        drop(master);
        peer.wait_hang_up();
    });
    let streams = Streams { input: slave.as_fd(), output: slave.as_fd(), error: slave.as_fd() };
    let result = run(connection, options(streams, true, true));
    assert!(matches!(result, Err(ExecError::Interrupted(Signal::SIGHUP))), "{result:?}");
    peer.join().unwrap();

    let mut caller = Caller::new();
    caller.stdin.1.take().unwrap().write_all(b"ls").unwrap();
    let (connection, peer) = connected(Features::DESCRIPTORS, |peer| {
        peer.request();
        peer.say(&started());
        let heard = [peer.hear(), peer.hear()];
        peer.say(&ended(0));
        heard
    });
    run(connection, options(caller.streams(), true, true)).unwrap();
    assert_eq!(
        peer.join().unwrap(),
        [Said::Data(Kind::Terminal, 0, b"ls".to_vec()), Said::Data(Kind::Terminal, 2, b"\x04\x04".to_vec())]
    );
}
