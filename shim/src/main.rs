//! `agent-shim`: runs coding agents in sandboxes that outlive the terminal.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_shim::cli::main(std::env::args_os())
}
