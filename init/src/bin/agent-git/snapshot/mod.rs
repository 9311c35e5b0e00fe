//! The work in progress, kept: everything in a worktree as a commit that no branch holds.
//!
//! Nothing of the agent's is touched: not its index, its HEAD, its refs, its files or their times. No hook and no filter
//! runs, since no git does. What is written are objects, a ref below `refs/agents/snapshots/`, and a folder of ours beside
//! the worktree's own index.

mod args;
mod files;
mod ignore;
mod index;
mod list;
mod lock;
mod message;
mod names;
mod pattern;
mod refs;
mod report;
mod store;
mod take;
mod walk;
mod worktrees;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use self::{
    args::{Args, Command},
    report::Answer,
};

/// As sysexits(3) has it.
const USAGE: u8 = 64;

/// `agent-git snapshot ...`: one line of JSON, whatever happens.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("agent-git: error: snapshot: {wrong}");
            return ExitCode::from(USAGE);
        }
    };
    let answer = match args.command {
        Command::Take => take::all(&args),
        Command::List => list::all(&args),
    };
    let answer = answer.unwrap_or_else(Answer::Error);
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    match (io::stdout().write_all(&line), &answer) {
        (Err(_), _) | (_, Answer::Error(_)) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
