use std::{io, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, context::Context, error::CliError};

/// Print the completions for a shell
///
/// For bash: `agent-shim completions bash > ~/.local/share/bash-completion/completions/agent-shim`
#[derive(clap::Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

pub(crate) fn run(_ctx: &Context, args: &CompletionsArgs) -> Result<ExitCode, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agent-shim", &mut text);
    io::Write::write_all(&mut io::stdout(), &text)?;
    Ok(ExitCode::SUCCESS)
}
