//! Git for what runs beside the agent: what init and the host ask of the repository inside.
//!
//! It runs inside, as the agent's user, on a repository that the agent writes: whatever that repository can make it do, the
//! agent could have done itself. It has no rights of its own, and what it says is believed by nobody.

mod keep;
mod serve;
mod snapshot;

use std::{env, path::Path, process::ExitCode};

use serve::Service;

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
        Some("keep") => keep::main(words),
        Some("upload-pack") => serve_one(Service::Upload, words),
        Some("receive-pack") => serve_one(Service::Receive, words),
        Some("snapshot") => snapshot::main(words),
        _ => {
            eprintln!("agent-git: error: there is no command {}", command.display());
            ExitCode::from(USAGE)
        }
    }
}

/// `upload-pack FOLDER` and `receive-pack FOLDER`.
fn serve_one(service: Service, mut words: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let (Some(folder), None) = (words.next(), words.next()) else {
        eprintln!("agent-git: error: one folder has to be named");
        return ExitCode::from(USAGE);
    };
    serve::main(service, Path::new(&folder))
}
