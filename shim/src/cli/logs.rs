use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    context::Context,
    error::{CliError, Kind},
    follow::{Growing, Wake},
    output::LogCleaner,
    resolve, worktree,
};
use crate::{
    sandbox::{StateError, log_paths},
    terminal::sanitize::SanitizingWriter,
};

/// Show what the agent wrote
///
/// Control sequences are left out, so that they cannot harm the terminal; `--raw` shows everything as it was written.
#[derive(clap::Args, Debug)]
pub(crate) struct LogsArgs {
    /// The sandbox; the project's if left out
    name: Option<String>,
    /// Wait for more, until the sandbox ends
    #[arg(short, long)]
    follow: bool,
    /// Begin so many lines before the end
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Show another unit: a step, a service, or `init`
    #[arg(short, long, default_value = "agent")]
    unit: String,
    /// Show what the session of this branch's worktree wrote
    #[arg(long, value_name = "BRANCH", conflicts_with = "unit")]
    worktree: Option<String>,
    /// Write the bytes as they are
    #[arg(long)]
    raw: bool,
}

pub(crate) fn run(ctx: &Context, args: &LogsArgs) -> Result<ExitCode, CliError> {
    let sandbox = resolve::sandbox(ctx, args.name.as_deref())?;
    sandbox.ensure_monitored();
    let branch = args.worktree.as_ref().map(|branch| worktree::named(ctx, &sandbox, branch)).transpose()?;
    let unit = branch.map_or_else(|| args.unit.clone(), |branch| branch.unit());
    let unit_is_a_name = unit.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let [old, new] = log_paths(sandbox.folder(), &unit);
    if !unit_is_a_name || (unit != "agent" && !new.exists()) {
        return Err(CliError::new(Kind::NotFound, format!("there is no log of a unit `{unit}`")));
    }
    let logs = new.parent().unwrap_or(sandbox.folder()).to_owned();
    let reading = || StateError::io("reading the log");
    // The watch comes before the first look, so that nothing falls in between.
    let wake = args.follow.then(|| Wake::on(&logs)).transpose().map_err(reading())?;
    let mut out = if args.raw {
        Output::Raw(io::stdout())
    } else {
        Output::Safe(LogCleaner::default(), SanitizingWriter::new(io::stdout()))
    };
    let mut piece = Vec::new();
    let mut growing = Growing::open(new, None).map_err(reading())?;
    if let Some(lines) = args.tail {
        let mut text = std::fs::read(&old).unwrap_or_default();
        read_all(&mut growing, &mut piece, |bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        out.write(last_lines(&text, lines))?;
    } else {
        let mut old = Growing::open(old, None).map_err(reading())?;
        read_all(&mut old, &mut piece, |bytes| out.write(bytes))?;
    }
    loop {
        read_all(&mut growing, &mut piece, |bytes| out.write(bytes))?;
        match &wake {
            Some(wake) if wake.wait(&sandbox) => {}
            _ => break,
        }
    }
    // The last words of a sandbox that ended meanwhile.
    read_all(&mut growing, &mut piece, |bytes| out.write(bytes))?;
    Ok(ExitCode::SUCCESS)
}

fn read_all(
    growing: &mut Growing,
    piece: &mut Vec<u8>,
    mut on: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    loop {
        growing.read(piece).map_err(StateError::io("reading the log"))?;
        if piece.is_empty() {
            return Ok(());
        }
        on(piece)?;
    }
}

/// The last lines of a text; one that is not finished counts.
fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines {
        0 => &[],
        _ => ends.map(|(at, _)| at + 1).nth(lines - 1).map_or(text, |at| &text[at..]),
    }
}

/// Standard output, with or without protection for the terminal.
enum Output {
    Raw(io::Stdout),
    Safe(LogCleaner, SanitizingWriter<io::Stdout>),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        match self {
            Self::Raw(out) => {
                out.write_all(bytes)?;
                Ok(out.flush()?)
            }
            Self::Safe(cleaner, out) => {
                out.write_all(&cleaner.clean(bytes))?;
                Ok(out.flush()?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        let cases = [(0, ""), (1, "c\n"), (2, "b\nc\n"), (3, "a\nb\nc\n"), (9, "a\nb\nc\n")];
        for (lines, expected) in cases {
            assert_eq!(last_lines(b"a\nb\nc\n", lines), expected.as_bytes(), "{lines}");
        }
        assert_eq!(last_lines(b"a\nunfinished", 1), b"unfinished");
        assert_eq!(last_lines(b"", 1), b"");
    }
}
