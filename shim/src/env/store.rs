//! Questions to the Nix store that need Nix: sizes, and its own garbage collector.

use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

use super::{
    build::CANCELLING,
    cache::Built,
    error::EnvError,
    nix_command::{self, Ended, Heard},
    nix_log::plain,
    problem::{Problem, classify},
    progress::Report,
};
use crate::client::signals::SignalWatch;

/// How long sizes may take; they are shown where they are known.
const SIZE_PATIENCE: Duration = Duration::from_secs(10);
/// Paths per question: the kernel bounds a command line at some 2 MB.
const PATHS_AT_ONCE: usize = 4000;
/// Most bytes of an answer that are kept.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What all store paths of an environment take together, unpacked. `None` where Nix does not say.
pub fn size(built: &Built) -> Option<u64> {
    let program = nix_command::find("nix-store", &nix_command::places())?;
    let signals = SignalWatch::new(&[]).ok()?;
    let deadline = Instant::now() + SIZE_PATIENCE;
    let mut total = 0_u64;
    for paths in built.closure.chunks(PATHS_AT_ONCE) {
        let mut args = vec![OsStr::new("-q"), OsStr::new("--size")];
        args.extend(paths.iter().map(|path| path.as_os_str()));
        let mut output = Vec::new();
        let ended = nix_command::run(&program, &args, &signals, Some(deadline), |heard| {
            if let Heard::Output(bytes) = heard {
                keep_beginning(&mut output, bytes);
            }
        });
        if ended.ok()? != Ended::Code(0) {
            return None;
        }
        for line in str::from_utf8(&output).ok()?.lines() {
            total = total.checked_add(line.trim().parse().ok()?)?;
        }
    }
    Some(total)
}

/// Runs the store's garbage collector. Returns what it says in the end.
pub fn collect(report: &mut dyn Report) -> Result<String, EnvError> {
    let program = nix_command::find("nix-store", &nix_command::places())
        .ok_or(EnvError::NoNix { program: "nix-store" })?;
    let signals =
        SignalWatch::new(&CANCELLING).map_err(|error| EnvError::io("blocking signals")(error.into()))?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    // A store of many gigabytes takes its time, and the person sees it, so there is no deadline.
    let ended = nix_command::run(&program, &[OsStr::new("--gc")], &signals, None, |heard| {
        match heard {
            // Every path that is deleted has a line; what matters is the last one.
            Heard::Output(bytes) => keep_end(&mut output, bytes),
            Heard::Error(bytes) => keep_end(&mut errors, bytes),
            Heard::Nothing => {}
        }
        report.show("collecting what nothing refers to", Instant::now());
    });
    report.done();
    let text = |bytes: &[u8]| plain(&String::from_utf8_lossy(bytes));
    match ended.map_err(EnvError::io(format!("running {}", program.display())))? {
        Ended::Code(0) => Ok(text(&output).lines().last().unwrap_or("nothing was deleted").to_owned()),
        Ended::Cancelled(signal) => Err(EnvError::Cancelled(signal)),
        Ended::Code(_) | Ended::Late => match classify(&text(&errors), &[]) {
            Problem::Other(why) => Err(EnvError::Collect(why)),
            problem => Err(EnvError::Collect(super::error::message(&problem))),
        },
    }
}

fn keep_beginning(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_ANSWER_BYTES.saturating_sub(buffer.len());
    buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn keep_end(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(bytes);
    if buffer.len() > MAX_ANSWER_BYTES {
        buffer.drain(..buffer.len() - MAX_ANSWER_BYTES / 2);
    }
}
