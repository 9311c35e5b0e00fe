//! What a program of the sandbox cannot do to init, tried for real.
//!
//! This binary plays three parts: the test, which starts bubblewrap; PID 1 in it, which hardens itself with
//! the code under test and starts the attacker as init starts any program; and the attacker, which tries
//! everything and prints one line for each attempt. The kernel is the judge, so each attempt is also made
//! against a PID 1 that did not harden itself: an attempt that fails there too proves nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use agent_init::children::{Children, Exit};
use agent_init::harden::{self, Policy};
use agent_init::signals::{self, BlockingSignals, Origin, Role, Signal};
use agent_init::spawn::{SpawnRequest, Stdio};

#[path = "harden/attempts.rs"]
mod attempts;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["as-init", measures] => as_init(measures),
        ["attack"] => {
            attempts::run();
            ExitCode::SUCCESS
        }
        // What cargo and people pass to a harness is of no use here.
        _ => test(),
    }
}

fn test() -> ExitCode {
    if !bwrap(&["/bin/true"], true).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED harden: bubblewrap cannot make namespaces here");
        return ExitCode::SUCCESS;
    }
    let mut failures = 0;
    let mut check = |name: &str, ok: bool, detail: &str| {
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            println!("{detail}");
            failures += 1;
        }
    };

    let (open, hardened) = (outcomes("nothing"), outcomes("everything"));
    for attempt in attempts::ALL {
        let result = |of: &BTreeMap<String, String>| of.get(attempt.name).cloned().unwrap_or_default();
        let (before, after) = (result(&open), result(&hardened));
        let detail = format!("  unhardened: {before}; hardened: {after}; expected: {}", attempt.expected);
        let proves = attempt.open_before == (before == "ok");
        check(attempt.name, after == attempt.expected && proves, &detail);
    }

    // nested: what a permission opens; the mount would fail if Landlock had any file rule.
    let nested = outcomes("nested-namespaces");
    check("nested namespaces only by permission", nested.get("unshare-user").is_some_and(|r| r == "ok"), "");
    check(
        "mount works below a Landlock domain of scopes",
        nested.get("mount-in-userns").is_some_and(|r| r == "ok"),
        &format!("{nested:?}"),
    );

    let output = bwrap_self(&["as-init", "everything"], false).output().expect("bwrap runs");
    let text = String::from_utf8_lossy(&output.stderr);
    let refused = output.status.code() == Some(125) && text.contains("CAP_");
    check("leftover capabilities are refused by name", refused, &format!("{output:?}"));

    let output = bwrap_self(&["as-init", "forged-signals"], true).output().expect("bwrap runs");
    check("a forged signal never counts as the host's", output.status.success(), &format!("{output:?}"));

    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the attacker below a PID 1 that takes these measures; what became of each attempt.
fn outcomes(measures: &str) -> BTreeMap<String, String> {
    let output = bwrap_self(&["as-init", measures], true).output().expect("bwrap runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{measures}: {output:?}");
    text.lines().filter_map(|line| line.split_once(": ")).map(|(n, r)| (n.to_owned(), r.to_owned())).collect()
}

fn bwrap_self(args: &[&str], drop_capabilities: bool) -> Command {
    let mut command = bwrap(&[SELF_INSIDE], drop_capabilities);
    command.args(args);
    command
}

/// A sandbox of an ordinary user, also when root runs the tests: to the kernel, global root owns what is
/// nobody's, /proc/1 of an init that is not dumpable included.
fn bwrap(program: &[&str], drop_capabilities: bool) -> Command {
    let mut command = Command::new("bwrap");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.args(["--unshare-user", "--unshare-pid", "--unshare-ipc", "--as-pid-1"]);
    command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    // By descriptor, because nobody may be unable to reach the path.
    let own = nix::fcntl::open("/proc/self/exe", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
    let own = own.expect("our own binary").into_raw_fd();
    command.args(["--perms", "0555", "--ro-bind-data", &own.to_string(), SELF_INSIDE, "--cap-drop", "ALL"]);
    if !drop_capabilities {
        command.args(["--cap-add", "CAP_NET_RAW"]);
    }
    command.arg("--").args(program);
    command
}

const NOBODY: u32 = 65_534;

/// Where this binary is in the sandbox.
const SELF_INSIDE: &str = "/tmp/self";

/// PID 1.
fn as_init(measures: &str) -> ExitCode {
    let set = signals::take_over(Role::Sandbox).expect("signals are blocked");
    if measures != "nothing" {
        let policy = Policy { nested_namespaces: measures == "nested-namespaces", ..Policy::default() };
        harden::forbid_inspection().expect("not dumpable");
        if let Err(error) = harden::enforce(&policy) {
            eprintln!("{error:#}");
            return ExitCode::from(125);
        }
    }
    let mut signals = BlockingSignals::new(&set).expect("a descriptor for signals");
    let mut children = Children::marked();
    let null = File::open("/dev/null").expect("/dev/null");
    let (output, errors) = (std::io::stdout(), std::io::stderr());
    let stdio = Stdio::Descriptors([null.as_fd(), output.as_fd(), errors.as_fd()]);
    let argv: Vec<OsString> = vec![SELF_INSIDE.into(), "attack".into()];
    let child = children.spawn(SpawnRequest::sandboxed(argv, Vec::new(), stdio)).expect("spawned");
    loop {
        let received = signals.wait().expect("a signal");
        if received.signal == Signal::TERM && received.origin != Origin::Inside {
            eprintln!("believed a forged signal: {received:?}");
            return ExitCode::FAILURE;
        }
        if let Some(reaped) = children.reap().exits.iter().find(|reaped| reaped.child == child) {
            return if reaped.exit == Exit::Code(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
}
