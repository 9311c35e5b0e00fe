use std::process::ExitCode;

use agent_protocol::message::TerminalSize;

use super::{context::Context, error::CliError};
use crate::sandbox::{
    Sandbox, endpoint,
    monitor::{self, Order},
};

/// Watch a sandbox; other subcommands start it
#[derive(clap::Args, Debug)]
pub(crate) struct MonitorArgs {
    /// The sandbox
    name: String,
    /// Start it
    #[arg(long, required_unless_present_any = ["adopt", "endpoint"], conflicts_with_all = ["adopt", "endpoint"])]
    start: bool,
    /// Go on for a monitor that was killed
    #[arg(long)]
    adopt: bool,
    /// Keep a way into one that does not run
    #[arg(long, conflicts_with = "adopt")]
    endpoint: bool,
    /// Remove it if the start fails
    #[arg(long)]
    new: bool,
    /// Size of the terminal that it is started from
    #[arg(long, value_parser = size)]
    size: Option<TerminalSize>,
}

pub(crate) fn run(ctx: &Context, args: &MonitorArgs) -> Result<ExitCode, CliError> {
    let sandbox = Sandbox::find(&ctx.data, &args.name.parse()?)?;
    if args.endpoint {
        return Ok(endpoint::keep(&ctx.data, &sandbox));
    }
    let order = if args.adopt { Order::Adopt } else { Order::Start { is_new: args.new, size: args.size } };
    Ok(monitor::run(&ctx.data, &sandbox, order))
}

fn size(text: &str) -> Result<TerminalSize, String> {
    let (columns, rows) = text.split_once('x').ok_or("write COLUMNSxROWS")?;
    let number = |text: &str| text.parse().map_err(|_| "write COLUMNSxROWS".to_owned());
    Ok(TerminalSize { columns: number(columns)?, rows: number(rows)? })
}
