//! Spawning, reaping and signalling with real processes.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_init::children::{ChildId, Children, Exit, SignalError};
use agent_init::signals::{Signal, SignalState};
use agent_init::spawn::{Credentials, Limit, Placement, SpawnErrorKind, SpawnRequest, Stdio};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::process::{PidfdFlags, pidfd_open};

const DEADLINE_MS: u16 = 10_000;

/// `reap` waits for every child of the process, so these tests take turns, and none leaves a child to the next.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let end = Instant::now() + Duration::from_millis(DEADLINE_MS.into());
    // What was killed ends soon, and what it had started then is ours.
    while let Ok(left) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        assert!(Instant::now() < end, "an earlier test left a child that lives on: {left:?}");
        std::thread::yield_now();
    }
    turn
}

fn words(command: &[&str]) -> Vec<OsString> {
    command.iter().map(OsString::from).collect()
}

fn path() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/bin:/bin".into())]
}

fn null() -> File {
    File::options().read(true).write(true).open("/dev/null").expect("/dev/null")
}

fn request<'fd>(command: &[&str], stdio: &'fd File) -> SpawnRequest<'fd> {
    SpawnRequest::sandboxed(words(command), path(), Stdio::Descriptors([stdio.as_fd(); 3]))
}

/// Waits for a process to end without reaping it.
fn ended(child: ChildId) {
    let pid = rustix::process::Pid::from_raw(child.pid()).expect("a pid");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child of ours");
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(DEADLINE_MS)), Ok(1), "the child did not end in time");
}

fn exit_of(children: &mut Children, child: ChildId) -> Exit {
    ended(child);
    let reaped = children.reap().exits;
    reaped.iter().find(|reaped| reaped.child == child).expect("it ended").exit
}

/// Runs a command with its output in a pipe; returns what it wrote and how it ended.
fn output(change: impl FnOnce(&mut SpawnRequest), command: &[&str]) -> (String, Exit) {
    let mut children = Children::marked();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let null = null();
    let stdio = Stdio::Descriptors([null.as_fd(), write.as_fd(), write.as_fd()]);
    let mut request = SpawnRequest::sandboxed(words(command), path(), stdio);
    change(&mut request);
    let child = children.spawn(request).expect("spawned");
    drop(write);
    let text = read_all(read);
    (text, exit_of(&mut children, child))
}

fn read_all(read: OwnedFd) -> String {
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).expect("UTF-8 from a pipe");
    text
}

fn kind(change: impl FnOnce(&mut SpawnRequest), command: &[&str]) -> SpawnErrorKind {
    let mut children = Children::marked();
    let null = null();
    let mut request = request(command, &null);
    change(&mut request);
    let error = children.spawn(request).expect_err("must not start");
    // The failed child is reaped silently, whenever that may be.
    while !children.is_empty() {
        assert!(children.reap().exits.is_empty());
    }
    assert_eq!(children.orphans_reaped(), 0);
    error.kind
}

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn script(folder: &std::path::Path, name: &str, text: &str, mode: u32) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let _turn = turn();
    assert_eq!(output(|_| {}, &["sh", "-c", "echo hello; exit 7"]), ("hello\n".to_owned(), Exit::Code(7)));
    let killed = output(|_| {}, &["sh", "-c", "kill -9 $$"]).1;
    assert_eq!(killed, Exit::Signal { signal: Signal::KILL, core_dumped: false });
}

#[test]
fn errors_say_what_is_wrong() {
    let _turn = turn();
    let folder = folder("errors");
    let plain = script(&folder, "plain", "not executable", 0o644);
    let binary = script(&folder, "binary", "\u{7f}no known format", 0o755);
    let no_interpreter = script(&folder, "script", "#!/no/such/interpreter\n", 0o755);
    let below_a_file = format!("{plain}/x");
    for (command, expected) in [
        ("no-such-program", SpawnErrorKind::NotFound),
        ("/no/such/program", SpawnErrorKind::NotFound),
        ("", SpawnErrorKind::NotFound),
        (below_a_file.as_str(), SpawnErrorKind::NotFound),
        (no_interpreter.as_str(), SpawnErrorKind::NotFound),
        ("/tmp", SpawnErrorKind::NotExecutable),
        (plain.as_str(), SpawnErrorKind::NotExecutable),
        (binary.as_str(), SpawnErrorKind::NotExecutable),
        ("nul\0byte", SpawnErrorKind::BadRequest),
    ] {
        assert_eq!(kind(|_| {}, &[command]), expected, "{command:?}");
    }
    assert_eq!(kind(|_| {}, &[]), SpawnErrorKind::BadRequest);
    assert_eq!(kind(|r| r.dir = Some("/no/such/folder".into()), &["true"]), SpawnErrorKind::BadDirectory);
    assert_eq!(kind(|r| r.dir = Some(plain.into()), &["true"]), SpawnErrorKind::BadDirectory);
    let mut children = Children::marked();
    let null = null();
    let terminal = SpawnRequest::sandboxed(words(&["true"]), path(), Stdio::Terminal(null.as_fd()));
    assert_eq!(children.spawn(terminal).expect_err("no terminal").kind, SpawnErrorKind::Pty);
    while !children.is_empty() {
        children.reap();
    }
}

#[test]
fn a_forbidden_program_lets_later_path_entries_try() {
    let _turn = turn();
    let (first, second) = (folder("path-first"), folder("path-second"));
    script(&first, "tool", "", 0o644);
    let set = |r: &mut SpawnRequest, path: String| r.env = vec![("PATH".into(), path.into())];
    let only = first.display().to_string();
    assert_eq!(kind(|r| set(r, only.clone()), &["tool"]), SpawnErrorKind::NotExecutable);
    script(&second, "tool", "#!/bin/sh\necho second\n", 0o755);
    let both = format!("/none:{only}:{}", second.display());
    assert_eq!(output(|r| set(r, both), &["tool"]).0, "second\n");
}

#[test]
fn a_relative_program_starts_from_the_childs_folder() {
    let _turn = turn();
    let folder = folder("relative");
    script(&folder, "here", "#!/bin/sh\npwd\n", 0o755);
    let (text, _) = output(|r| r.dir = Some(folder.clone()), &["./here"]);
    assert_eq!(text.trim(), folder.to_str().expect("UTF-8"));
}

#[test]
fn a_file_without_interpreter_line_runs_in_a_shell_only_if_asked() {
    let _turn = turn();
    let path = script(&folder("fallback"), "text", "echo \"$0 $1\"\n", 0o755);
    assert_eq!(kind(|_| {}, &[&path]), SpawnErrorKind::NotExecutable);
    let (text, exit) = output(|r| r.shell_fallback = true, &[&path, "argument"]);
    assert_eq!((text, exit), (format!("{path} argument\n"), Exit::Code(0)));
}

#[test]
fn the_child_has_only_what_it_was_promised() {
    let _turn = turn();
    // Not close-on-exec.
    let leak = nix::fcntl::fcntl(null(), nix::fcntl::FcntlArg::F_DUPFD(100)).expect("a descriptor");
    let (fds, _) = output(|_| {}, &["sh", "-c", "cd /proc/self/fd; echo *"]);
    assert_eq!(fds.trim(), "0 1 2 3", "3 is the folder that the shell lists");
    nix::unistd::close(leak).expect("it is open");
    let (env, _) = output(|_| {}, &["env"]);
    assert_eq!(env, "PATH=/usr/bin:/bin\n");
}

#[test]
fn the_child_gets_default_signals_although_rust_ignores_sigpipe() {
    let _turn = turn();
    let blocked = 1 << (libc::SIGUSR1 - 1);
    let ignored = 1 << (libc::SIGHUP - 1);
    for given in [SignalState::default(), SignalState { blocked, ignored }] {
        let (status, _) = output(|r| r.signals = given, &["cat", "/proc/self/status"]);
        let status: String =
            status.lines().filter(|l| l.starts_with("Sig") && !l.starts_with("SigQ")).collect();
        let SignalState { blocked, ignored } = given;
        let none = 0;
        let expected =
            format!("SigPnd:\t{none:016x}SigBlk:\t{blocked:016x}SigIgn:\t{ignored:016x}SigCgt:\t{none:016x}");
        assert_eq!(status, expected);
    }
}

#[test]
fn limits_umask_and_credentials_are_set() {
    let _turn = turn();
    let limit = |r: &mut SpawnRequest| r.limits = vec![Limit::fixed(7, 33)];
    assert_eq!(output(limit, &["sh", "-c", "ulimit -n"]).0, "33\n");
    assert_eq!(output(|r| r.umask = Some(0o27), &["sh", "-c", "umask"]).0, "0027\n");
    let user = Credentials { uid: 1234, gid: 2345, groups: vec![2345, 77] };
    if nix::unistd::geteuid().is_root() {
        let ids = output(|r| r.user = Some(user), &["sh", "-c", "id -u; id -g; id -G"]).0;
        assert_eq!(ids, "1234\n2345\n2345 77\n");
    } else {
        assert_eq!(kind(|r| r.user = Some(user), &["true"]), SpawnErrorKind::Credentials);
    }
}

#[test]
fn a_terminal_becomes_the_controlling_one() {
    let _turn = turn();
    let mut children = Children::marked();
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
        .expect("a PTY");
    rustix::pty::grantpt(&master).expect("grantpt");
    rustix::pty::unlockpt(&master).expect("unlockpt");
    let slave = File::options()
        .read(true)
        .write(true)
        .open(rustix::pty::ptsname(&master, Vec::new()).expect("a name").to_str().expect("UTF-8"))
        .expect("the slave");
    let command = ["sh", "-c", "tty </dev/tty && test \"$(ps -o sid= -p $$ | tr -d ' ')\" = $$ && exit 5"];
    let request = SpawnRequest::sandboxed(words(&command), path(), Stdio::Terminal(slave.as_fd()));
    let child = children.spawn(request).expect("spawned");
    assert_eq!(exit_of(&mut children, child), Exit::Code(5));
}

#[test]
fn a_reaped_child_cannot_be_signalled_and_a_zombie_can() {
    let _turn = turn();
    let mut children = Children::marked();
    let null = null();
    let child = children.spawn(request(&["true"], &null)).expect("spawned");
    ended(child);
    assert_eq!(children.signal(child, Signal::TERM), Ok(()), "a zombie keeps its number");
    assert_eq!(exit_of(&mut children, child), Exit::Code(0));
    assert_eq!(children.signal(child, Signal::TERM), Err(SignalError::Gone));
    assert_eq!(children.signal_group(child, Signal::TERM), Err(SignalError::Gone));
}

#[test]
fn a_group_is_signalled_as_one() {
    let _turn = turn();
    let mut children = Children::marked();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let stdio = Stdio::Descriptors([write.as_fd(); 3]);
    let command = words(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    let mut request = SpawnRequest::sandboxed(command, path(), stdio);
    request.placement = Placement::NewSession;
    let child = children.spawn(request).expect("spawned");
    drop(write);
    children.signal_group(child, Signal::KILL).expect("signalled");
    // The pipe ends only when all three are gone.
    assert_eq!(read_all(read), "");
    assert!(matches!(exit_of(&mut children, child), Exit::Signal { signal: Signal::KILL, .. }));
}

/// A daemon forks twice, starts a session of its own and drops its environment; its parents are long gone.
#[test]
fn a_daemon_dies_with_its_tree_even_after_its_child_was_reaped() {
    let _turn = turn();
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).expect("subreaper");
    let mut children = Children::marked();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let null = null();
    let stdio = Stdio::Descriptors([null.as_fd(), write.as_fd(), null.as_fd()]);
    let daemon = "(setsid env -i /bin/sh -c '/bin/sleep 1000 & exec /bin/sleep 1000' &) ; exit 0";
    let request = SpawnRequest::sandboxed(words(&["sh", "-c", daemon]), path(), stdio);
    let child = children.spawn(request).expect("spawned");
    let bystander = children.spawn(self::request(&["sleep", "1000"], &null)).expect("spawned");
    drop(write);
    assert_eq!(exit_of(&mut children, child), Exit::Code(0));
    assert!(children.kill_tree(child, Signal::KILL).expect("/proc") >= 1);
    // Ends only when nobody of the tree holds the pipe any more.
    assert_eq!(read_all(read), "");
    assert_eq!(children.signal(bystander, Signal::KILL), Ok(()), "others live on");
    exit_of(&mut children, bystander);
    rustix::process::set_child_subreaper(None).expect("no subreaper");
}

/// Somebody stops every new process he can see before it executes. A true vfork would hang here.
#[test]
fn a_child_stopped_before_it_executes_does_not_hang_the_parent() {
    let _turn = turn();
    let mut children = Children::marked();
    let null = null();
    // The stopper is our own child and stops whatever our pid had as its newest child, all the time.
    let stopper = format!(
        "while :; do for p in $(cat /proc/{0}/task/*/children); do [ $p != $$ ] && kill -STOP $p; done; done",
        std::process::id()
    );
    let stopper = children.spawn(request(&["sh", "-c", &stopper], &null)).expect("spawned");
    for _ in 0..20 {
        let child = children.spawn(request(&["true"], &null)).expect("spawned");
        // Stopped after it executed is no concern of spawn's.
        children.signal(child, Signal::KILL).expect("signalled");
        ended(child);
        children.reap();
    }
    children.signal_group(stopper, Signal::KILL).expect("signalled");
    ended(stopper);
    while !children.is_empty() {
        children.reap();
    }
}
