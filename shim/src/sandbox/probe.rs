//! Asks many sandboxes for their state at once; one that is stuck delays no other.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_protocol::{Request, ServerMessage, message::Status};
use nix::poll::{PollFd, PollTimeout, poll};
use std::os::fd::AsFd;

use super::channel::{Channel, Flow, OpenError, Received};

/// How long an init may take to answer. One that lives takes microseconds, on a busy host milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_millis(400);

/// The same of an init in a machine, which the host may have to compute step by step.
const MACHINE_PATIENCE: Duration = Duration::from_millis(700);

/// Connections open at once: far below the usual limit of 1,024 descriptors.
const BATCH: usize = 256;

/// What an init had to say.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Its state.
    Status(Box<Status>),
    /// Nobody listens.
    Dead,
    /// It lives, and said nothing in time.
    Silent,
    /// It said something that is no answer.
    Broken(String),
}

/// Asks the init of each folder. Takes [`PATIENCE`] for each batch of 256 at most, and [`MACHINE_PATIENCE`] where there are
/// machines.
pub(crate) fn ask_all(folders: &[PathBuf]) -> Vec<Answer> {
    folders.chunks(BATCH).flat_map(|batch| ask_batch(batch, Instant::now())).collect()
}

/// Asks one.
pub(crate) fn ask(folder: &Path) -> Answer {
    ask_batch(&[folder.to_owned()], Instant::now()).pop().unwrap_or(Answer::Silent)
}

enum Asked {
    Open(Channel),
    Answered(Answer),
}

fn ask_batch(folders: &[PathBuf], begun: Instant) -> Vec<Answer> {
    let mut asked: Vec<Asked> = folders.iter().map(|folder| begin(folder)).collect();
    loop {
        let mut waiting: Vec<&mut Asked> =
            asked.iter_mut().filter(|one| matches!(one, Asked::Open(_))).collect();
        let machines =
            waiting.iter().any(|one| matches!(&**one, Asked::Open(channel) if channel.is_to_machine()));
        let patience = if machines { MACHINE_PATIENCE } else { PATIENCE };
        let left = (begun + patience).saturating_duration_since(Instant::now());
        if waiting.is_empty() || left.is_zero() {
            break;
        }
        let ready: Vec<bool> = {
            let mut fds: Vec<PollFd<'_>> = waiting
                .iter()
                .filter_map(|one| match &**one {
                    Asked::Open(channel) => Some(PollFd::new(channel.as_fd(), channel.wants())),
                    Asked::Answered(_) => None,
                })
                .collect();
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout).is_err() {
                continue;
            }
            fds.iter().map(|fd| fd.any().unwrap_or(true)).collect()
        };
        for (one, _) in waiting.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if let Asked::Open(channel) = &mut **one
                && let Some(answer) = listen(channel)
            {
                **one = Asked::Answered(answer);
            }
        }
    }
    let silent = |one| match one {
        Asked::Open(_) => Answer::Silent,
        Asked::Answered(answer) => answer,
    };
    asked.into_iter().map(silent).collect()
}

fn begin(folder: &Path) -> Asked {
    match Channel::open(folder, &Request::Status) {
        Ok(channel) => Asked::Open(channel),
        Err(OpenError::Dead) => Asked::Answered(Answer::Dead),
        Err(OpenError::Full) => Asked::Answered(Answer::Silent),
        Err(OpenError::Io(error)) => Asked::Answered(Answer::Broken(error.to_string())),
    }
}

fn listen(channel: &mut Channel) -> Option<Answer> {
    let mut answer = None;
    let flow = channel.pump(|received| match received {
        Received::Message(ServerMessage::Status(status)) => answer = Some(Answer::Status(status)),
        Received::Message(ServerMessage::Failed(failure)) => answer = Some(Answer::Broken(failure.message)),
        Received::Welcome | Received::Message(_) | Received::Data(..) => {}
    });
    match (answer, flow) {
        (Some(answer), _) => Some(answer),
        (None, Ok(Flow::Blocked | Flow::More)) => None,
        // Nobody in the machine listens yet, or no more.
        (None, Ok(Flow::Closed)) if channel.is_unheard() => Some(Answer::Silent),
        // It ended while we asked.
        (None, Ok(Flow::Closed)) => Some(Answer::Dead),
        (None, Err(error)) => Some(Answer::Broken(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{channel::listen_in, testing::TempDir};

    #[test]
    fn the_dead_the_silent_and_the_closing_are_told_apart() {
        let (dead, silent) = (TempDir::new(), TempDir::new());
        let _listener = listen_in(silent.path()).unwrap();
        let folders = [dead.path().to_owned(), silent.path().to_owned()];
        let answers = ask_batch(&folders, Instant::now());
        assert!(matches!(answers[..], [Answer::Dead, Answer::Silent]), "{answers:?}");
    }
}
