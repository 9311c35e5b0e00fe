//! Asking a person whether a project's file may do what it wants to.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::SystemTime,
};

use rustix::termios::{QueueSelector, tcflush};

use super::{
    context::Context,
    error::{CliError, Kind},
    output::{clean, tell},
};
use crate::{
    config::{
        consent::{Ask, Request},
        load::{Layers, ProjectFile},
        trust::Consents,
    },
    terminal::quote::quoted,
};

/// Most questions that are put at once: what scrolls by is not read.
const MAX_ASKS: usize = 40;

/// Longest text of one of them.
const MAX_ASK_CHARS: usize = 300;

/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 1024;

/// Sees to it that a person agreed to what the project's file wants to do, and holds its paths to that.
pub(crate) fn ensure(ctx: &Context, layers: &mut Layers) -> Result<(), CliError> {
    let Some(request) = layers.request()? else { return Ok(()) };
    let Some(project) = &layers.project else { return Ok(()) };
    let consents = Consents::of(&ctx.data);
    if !consents.holds(project, &request) {
        if ctx.global.dry_run {
            // Looking comes before agreeing, and nothing is started here.
            tell(&question(project, &request));
            tell("nobody has agreed to this yet; a start would ask");
        } else {
            ask(project, &request)?;
            consents.give(project, &request, SystemTime::now())?;
        }
    }
    layers.pin(&request.paths);
    Ok(())
}

fn ask(project: &ProjectFile, request: &Request) -> Result<(), CliError> {
    let command = format!("agent-shim config trust {}", quoted(folder(project)));
    let refused = |why: &str| {
        let message = format!("{} asks for more than a project may have by itself", project.path.display());
        let asks = request.asks.iter().take(MAX_ASKS).map(|ask| format!("{}: {}", ask.origin, ask.words));
        CliError::new(Kind::Failed, message)
            .because(&io::Error::other(why.to_owned()))
            .lines(asks)
            .hint(format!("`{command}` agrees to it; `--no-project-config` passes over the file"))
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(refused("there is nobody to be asked"));
    }
    let is_long = request.asks.iter().any(|ask| ask.words.chars().count() > MAX_ASK_CHARS);
    if is_long || request.asks.len() > MAX_ASKS {
        return Err(refused("it is too much to be asked here; read the file first"));
    }
    tell(&question(project, request));
    if answer("Allow this, until the file changes? [y/N] ")? {
        return Ok(());
    }
    Err(CliError::new(Kind::Cancelled, format!("you did not agree to {}", project.path.display()))
        .hint("`--no-project-config` passes over the file"))
}

/// What is asked, in plain words. Nothing in it controls the terminal, and each line is one of ours.
pub(crate) fn question(project: &ProjectFile, request: &Request) -> String {
    let line =
        |ask: &Ask| ask.origin.place().map_or(String::new(), |place| format!(" (line {})", place.line));
    let asks = request.asks.iter().map(|ask| format!("\n  - {}{}", clean(&ask.words), line(ask)));
    format!("{} wants to{}", clean(&project.path.display().to_string()), asks.collect::<String>())
}

/// The folder of a project's file.
fn folder(project: &ProjectFile) -> &[u8] {
    project.path.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes()
}

/// Waits as long as the person takes.
fn answer(question: &str) -> Result<bool, CliError> {
    // What was typed before the question was there is no answer to it. Without this it would be one, which no error is worth.
    tcflush(io::stdin(), QueueSelector::IFlush).map_err(|error| {
        CliError::new(Kind::Failed, "the terminal cannot be used").because(&io::Error::from(error))
    })?;
    drop(write!(io::stderr(), "{question}"));
    let mut line = String::new();
    // Anything unreadable is no yes.
    drop(io::stdin().lock().take(MAX_ANSWER_BYTES).read_line(&mut line));
    if !line.ends_with('\n') {
        tell("");
    }
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}
