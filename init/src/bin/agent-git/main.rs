//! Git for what runs beside the agent: what init and the host ask of the repository inside.
//!
//! It runs inside, as the agent's user, on a repository that the agent writes: whatever that repository can make it do, the
//! agent could have done itself. It has no rights of its own, and what it says is believed by nobody.

mod snapshot;

use std::{env, process::ExitCode};

/// As sysexits(3) has it.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let command = words.next().unwrap_or_default();
    match command.to_str() {
        Some("--version") => {
            println!(
                "agent-git {}, libgit2 {:?}",
                env!("CARGO_PKG_VERSION"),
                git2::Version::get().libgit2_version()
            );
            ExitCode::SUCCESS
        }
        Some("snapshot") => snapshot::main(words),
        _ => {
            eprintln!("agent-git: error: there is no command {}", command.display());
            ExitCode::from(USAGE)
        }
    }
}
