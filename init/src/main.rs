//! `agent-init`: PID 1 of a sandbox, or the entrypoint of any container.
//!
//! A machine: `machine` does what comes before that, and never returns.
//! A sandbox: `boot` does what comes before the first process, `sandbox::event_loop` everything from then on.
//! A container: `entrypoint` runs one command and is otherwise invisible.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use agent_init::args::{self, Mode};
use agent_init::{boot, entrypoint, harden, machine, own_id};

/// Init itself failed, before there was anything whose exit could be told.
const INIT_FAILED: u8 = 125;
/// What tini exits with, for the same mistakes.
const WRONG_USAGE: u8 = 1;

fn main() -> ExitCode {
    if machine::is_here() {
        // Nobody else is there yet.
        let _ = harden::forbid_inspection();
        machine::run();
    }
    // First, because until then other processes of our user may look into this one.
    if let Err(errno) = harden::forbid_inspection() {
        return fail(INIT_FAILED, &format!("error: forbidding inspection: {errno}"));
    }
    let mode = match args::parse(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(mode) => mode,
        Err(error) => return fail(WRONG_USAGE, &format!("error: {error}\nhint: try --help")),
    };
    let result = match mode {
        Mode::Print(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Mode::OwnId(id, args) => own_id::begin_anew(id, &args),
        Mode::Entrypoint(options, command) => entrypoint::run(&options, command),
        Mode::Sandbox(source) => boot::run(&source),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(INIT_FAILED, &format!("error: {error:#}")),
    }
}

fn fail(code: u8, text: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "agent-init: {text}");
    ExitCode::from(code)
}
