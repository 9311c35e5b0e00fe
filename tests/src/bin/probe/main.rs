//! What an attacker runs inside a sandbox, for the escape tests: raw system calls, one line of outcome each.
//!
//! The same program makes the same attempts outside, or below a PID 1 in a plain bubblewrap, where they work:
//! an attempt that cannot succeed anywhere proves nothing.
#![allow(unsafe_code)] // An attacker has the system calls, not nix.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

mod containers;
mod descriptors;
mod files;
mod hunger;
mod init;
mod kernel;
mod outcome;
mod sockets;
mod spray;
mod vsock;

use std::process::ExitCode;

use outcome::{Attempt, run_all};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["table"] => run_all(&table()),
        ["containers"] => run_all(containers::ALL),
        // Some of them, where they are harmless.
        ["containers", ref names @ ..] => {
            let these = containers::ALL.iter().filter(|(name, ..)| names.contains(name));
            run_all(&these.copied().collect::<Vec<_>>());
        }
        // PID 1 of a plain bubblewrap: the target of the controls, with a secret in it to be found.
        ["as-init", "table"] => {
            outcome::in_child(|| run_all(&table()));
        }
        // The agent: attacks first, then stays.
        ["agent", report] => {
            outcome::to_file(report, || run_all(&table()));
            loop {
                unsafe { nix::libc::pause() };
            }
        }
        ["write-anywhere"] => files::write_anywhere(),
        ["write", ref paths @ ..] => files::write(paths),
        ["hunt", marker, ref roots @ ..] => files::hunt(marker, roots),
        ["plant-programs"] => files::plant_programs(),
        ["plant-capabilities"] => files::plant_capabilities(),
        ["read", ref paths @ ..] => files::read(paths),
        ["privileges"] => kernel::print_privileges(),
        ["shared-memory", key, what] => kernel::shared_memory(key, what),
        ["unix-names"] => sockets::all_unix_names(),
        ["connect", ref paths @ ..] => sockets::connect_paths(paths),
        ["abstract", name] => sockets::connect_abstract(name),
        ["loopback", port] => sockets::connect_loopback(port),
        ["descriptors"] => descriptors::list(),
        ["reopen", report] => descriptors::reopen(report),
        ["vsock", own, port] => vsock::dial(own, port),
        ["vsock-flood", port] => vsock::flood(port),
        ["landlock"] => sockets::print_landlock(),
        ["eat", mebibytes] => hunger::eat(mebibytes),
        ["family", own, times] => hunger::family(own, times),
        ["bomb"] => spray::bomb(),
        ["hostile-output"] => spray::hostile_output(),
        ["storm"] => spray::signals(),
        ["notify", socket] => spray::notifications(socket),
        ["young-children", report, seconds] => spray::young_children(report, seconds),
        ["not-an-exit"] => spray::not_an_exit(),
        ["process", pid] => init::another_process(pid),
        ["processes-with", word] => containers::processes_with(word),
        _ => {
            eprintln!("unknown attempt {args:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn table() -> Vec<Attempt> {
    [init::ALL, kernel::ALL, files::ALL].concat()
}
