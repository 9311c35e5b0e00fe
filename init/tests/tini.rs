//! One table of promises, run against `agent-init` and, where it is installed, against tini itself.
//!
//! Most cases run with `-s`, which needs no namespace; the last one as a real PID 1.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const OURS: &str = env!("CARGO_BIN_EXE_agent-init");
const TINI: &str = "/usr/bin/tini";

/// The binaries to compare. A missing tini is said once per test, so that a log shows what was not compared.
fn inits() -> Vec<&'static str> {
    if Path::new(TINI).exists() {
        return vec![OURS, TINI];
    }
    eprintln!("SKIPPED comparison: {TINI} is not installed");
    vec![OURS]
}

fn command(init: &str, args: &[&str]) -> Command {
    let mut command = Command::new(init);
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

fn run(init: &str, args: &[&str]) -> Output {
    command(init, args).output().expect("init runs")
}

fn code(init: &str, args: &[&str]) -> i32 {
    let output = run(init, args);
    output.status.code().unwrap_or_else(|| panic!("{init} {args:?}: {output:?}"))
}

/// Starts an init whose command prints a line once it is set up, and returns when it did.
fn start(init: &str, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, String) {
    // Whoever runs the tests may ignore signals, as nohup does; a shell cannot trap what it was told to ignore.
    let mut child = command("env", &[&["--default-signal", init], args].concat())
        .stdout(Stdio::piped())
        .spawn()
        .expect("init starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("the command's first line");
    (child, output, line.trim().to_owned())
}

fn kill(child: &Child, signal: i32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // Also signals without a name.
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn exit_codes() {
    for init in inits() {
        for (args, expected) in [
            (["-s", "--", "sh", "-c", "exit 0"].as_slice(), 0),
            (&["-s", "--", "sh", "-c", "exit 7"], 7),
            (&["-s", "--", "sh", "-c", "exit 255"], 255),
            (&["-s", "--", "sh", "-c", "kill -9 $$"], 137),
            (&["-s", "--", "sh", "-c", "kill -TERM $$"], 143),
            (&["-s", "-e", "143", "--", "sh", "-c", "kill -TERM $$"], 0),
            (&["-s", "-e", "143", "-e", "7", "--", "sh", "-c", "exit 7"], 0),
            (&["-s", "-e", "143", "--", "sh", "-c", "exit 8"], 8),
            (&["-s", "-e7", "--", "sh", "-c", "exit 7"], 0),
            (&["-s", "--", "no-such-program"], 127),
            (&["-s", "--", "/no/such/program"], 127),
            (&["-s", "--", "/tmp"], 126),
            (&["-s", "--", "/etc/passwd"], 126),
            (&["-s"], 1),
            (&["-x", "--", "true"], 1),
            (&["-e", "256", "--", "true"], 1),
            (&["-e", "x", "--", "true"], 1),
            (&["-p", "SIGNOTHING", "--", "true"], 1),
            (&["-h"], 0),
            (&["--version"], 0),
            (&["-l"], 0),
        ] {
            assert_eq!(code(init, args), expected, "{init} {args:?}");
        }
    }
}

#[test]
fn a_file_without_interpreter_line_runs_in_a_shell() {
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tini-script");
    std::fs::write(&script, "exit 9\n").expect("written");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("executable");
    for init in inits() {
        assert_eq!(code(init, &["-s", "--", script.to_str().expect("UTF-8")]), 9, "{init}");
    }
}

/// Every signal that can be caught arrives at the command, real-time ones included.
#[test]
fn signals_are_forwarded() {
    let caught = "1 2 3 10 12 13 14 15 18 20 23 24 25 26 27 28 29 30 34 64";
    for init in inits() {
        for signal in caught.split(' ') {
            // A shell that waits in its builtin runs a trap at once.
            let script = format!("trap 'exit 42' {signal}; echo ready; while :; do sleep 10 & wait $!; done");
            let (mut child, _output, line) = start(init, &["-sg", "--", "bash", "-c", &script]);
            assert_eq!(line, "ready");
            kill(&child, signal.parse().expect("a number"));
            assert_eq!(child.wait().expect("it ends").code(), Some(42), "{init}, signal {signal}");
        }
    }
}

#[test]
fn without_g_the_command_alone_is_signalled() {
    for init in inits() {
        for (option, survivors) in [("-s", "child lived"), ("-sg", "")] {
            let script = "trap 'exit 3' TERM; (sleep 0.2; echo child lived) & echo ready; wait $!";
            let (mut child, mut output, _) = start(init, &[option, "--", "bash", "-c", script]);
            kill(&child, 15);
            assert_eq!(child.wait().expect("it ends").code(), Some(3), "{init} {option}");
            let mut rest = String::new();
            output.read_to_string(&mut rest).expect("UTF-8");
            assert_eq!(rest.trim(), survivors, "{init} {option}");
        }
    }
}

/// Blocked and ignored signals, SIGPIPE among them, are what init was given.
#[test]
fn the_command_gets_the_signal_state_init_was_given() {
    // The shell decides what is ignored, then becomes init, or for comparison the command itself.
    let state = |init: &str, setup: &str| {
        let script = format!("{setup} exec {init} cat /proc/self/status");
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let wanted = |line: &&str| line.starts_with("SigBlk") || line.starts_with("SigIgn");
        text.lines().filter(wanted).collect::<Vec<_>>().join("\n")
    };
    for init in inits() {
        for setup in ["", "trap '' PIPE HUP;", "trap '' TTIN TTOU;"] {
            assert_eq!(state(&format!("{init} -s --"), setup), state("", setup), "{init} {setup}");
        }
    }
    let ignored = "trap '' CHLD PIPE;";
    assert_eq!(state(&format!("{OURS} -s --"), ignored), state("", ignored));
}

#[test]
fn an_ignored_sigchld_does_not_lose_our_exit_code() {
    let script = format!("trap '' CHLD; exec {OURS} -s -- sh -c 'exit 5'");
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}

#[test]
fn the_command_leads_its_own_group() {
    for init in inits() {
        let output = run(init, &["-s", "--", "sh", "-c", "ps -o pid=,pgid= -p $$"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(numbers[0], numbers[1], "{init}");
    }
}

/// On a terminal, the command is in the foreground, and ctrl-c reaches it and not init.
#[test]
fn the_command_takes_the_foreground_of_a_terminal() {
    for init in inits() {
        let inner = format!("{init} -s -- sh -c 'ps -o pgid=,tpgid= -p $$'");
        let output = Command::new("script")
            .args(["-qec", &inner, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .expect("script runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<&str> = text.split_whitespace().collect();
        assert_eq!((numbers.len(), numbers[0]), (2, numbers[1]), "{init}: {text}");
    }
}

#[test]
fn orphans_are_reaped_and_told_with_w() {
    for init in inits() {
        // The orphan ends first, then the command looks for zombies of its parent.
        let script = "(sh -c 'exit 0' &); sleep 0.3; ps -o stat= --ppid $PPID | grep -c Z; exit 0";
        let output = run(init, &["-sw", "--", "sh", "-c", script]);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{init}");
        assert!(!output.stderr.is_empty(), "{init} -w says that it reaped an orphan");
        let quiet = run(init, &["-s", "--", "sh", "-c", script]);
        assert!(quiet.stderr.is_empty(), "{init} without -w: {quiet:?}");
    }
}

#[test]
fn not_being_a_reaper_is_worth_a_warning() {
    for init in inits() {
        assert!(!run(init, &["--", "true"]).stderr.is_empty(), "{init}");
        assert!(run(init, &["-s", "--", "true"]).stderr.is_empty(), "{init}");
        let by_environment = command(init, &["--", "true"]).env("TINI_SUBREAPER", "").output().expect("runs");
        assert!(by_environment.stderr.is_empty(), "{init}");
        let silenced = command(init, &["--", "true"]).env("TINI_VERBOSITY", "0").output().expect("runs");
        assert!(silenced.stderr.is_empty(), "{init}");
    }
}

/// With `-p`, the death of the parent arrives as a signal and is forwarded.
#[test]
fn the_parents_death_is_told() {
    for init in inits() {
        let command = "trap \"echo told; exit 0\" USR1; echo ready; while :; do sleep 10 & wait $!; done";
        let parent = format!("{init} -sg -p SIGUSR1 -- bash -c '{command}' & read _");
        let mut parent = Command::new("bash")
            .args(["-c", &parent])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("bash runs");
        let mut output = BufReader::new(parent.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("ready");
        parent.stdin.take().expect("a pipe").write_all(b"go\n").expect("written");
        parent.wait().expect("the parent ends");
        line.clear();
        output.read_line(&mut line).expect("told");
        assert_eq!(line, "told\n", "{init}");
    }
}

/// Descriptors that init inherited belong to the command: socket activation depends on it.
#[test]
fn inherited_descriptors_are_passed_on() {
    for init in inits() {
        let script = format!("exec 7</etc/hostname; exec {init} -s -- cat /dev/fd/7");
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
        assert_eq!(output.stdout, std::fs::read("/etc/hostname").expect("a file"), "{init}");
    }
}

#[test]
fn closed_standard_descriptors_are_no_obstacle() {
    let script = format!("exec {OURS} -s -- sh -c 'exit 6' <&- >&- 2>&-");
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    assert_eq!(output.status.code(), Some(6));
}

/// As PID 1: the command's end is the end of all, and what it left is killed by the kernel.
#[test]
fn as_pid_1() {
    let sandbox = ["--unshare-user", "--unshare-pid", "--as-pid-1", "--ro-bind", "/", "/", "--proc", "/proc"];
    let bwrap = || {
        let mut bwrap = Command::new("bwrap");
        bwrap.args(sandbox).args(["--dev", "/dev", "--"]);
        bwrap
    };
    if !bwrap().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED as_pid_1: bubblewrap cannot make a PID namespace here");
        return;
    }
    for init in inits() {
        let script = "test $PPID = 1 && (setsid sleep 1000 &) && exit 11";
        let output = bwrap().args([init, "--", "sh", "-c", script]).output().expect("bwrap runs");
        assert_eq!(output.status.code(), Some(11), "{init}: {output:?}");
        assert!(output.stderr.is_empty(), "{init}: {output:?}");

        // A signal from inside is forwarded as well: tini is transparent, and so are we.
        let script = "trap 'exit 12' USR1; kill -USR1 1; while :; do sleep 10 & wait $!; done";
        let output = bwrap().args([init, "--", "bash", "-c", script]).output().expect("bwrap runs");
        assert_eq!(output.status.code(), Some(12), "{init}: {output:?}");
        assert_eq!(output.status.signal(), None);
    }
}
