//! What an attacker is in a machine, for the tests of that layer: the first process of its kernel, with all rights inside, or what
//! takes the place of qemu on the host, as if the machine had taken qemu over.
//!
//! It is called by the name of what it stands for.
#![allow(unsafe_code)] // An attacker has the system calls, not nix.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

mod files;
mod fuse;
mod guest;
mod part;
mod report;
mod vsock;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let name = words.first().map_or("", |path| path.rsplit('/').next().unwrap_or_default());
    match (name, &words[1..]) {
        ("init", _) if std::process::id() == 1 => guest::run(),
        (qemu, _) if qemu.starts_with("qemu-system-") => return part::run(&args),
        (_, ["files", folder]) => files::attempt_all(Path::new(folder), &mut report::Report::to_stdout()),
        (_, ["dial", addresses @ ..]) => part::dial(addresses, &mut report::Report::to_stdout()),
        (_, ["with-key", program, words @ ..]) => part::with_key(program, words),
        _ => {
            eprintln!("unknown attempt {args:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
