//! Asking a program something, without waiting for ever for one that hangs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// What is kept of what a program prints on each stream.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How long a program that was killed may take to be gone. One that the kernel holds is left behind.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// A command to be run to its end.
pub(crate) struct Question<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<OsString>,
    /// Its whole environment.
    pub(crate) variables: Vec<(&'a OsStr, &'a OsStr)>,
    /// The user and group to run it as, for root.
    pub(crate) user: Option<u32>,
    /// How long it may take.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It ended by itself.
    Ended { status: ExitStatus, stdout: String, stderr: String },
    /// It did not within the time it had, and was killed.
    Hangs,
    /// It cannot be executed.
    NotStarted(String),
}

impl Question<'_> {
    /// Asks, and waits.
    pub(crate) fn ask(&self) -> Answer {
        self.ask_over(Stdio::null())
    }

    /// The same with this as its standard input.
    pub(crate) fn ask_over(&self, stdin: Stdio) -> Answer {
        let mut command = Command::new(self.program);
        command.args(&self.args).env_clear().envs(self.variables.iter().copied()).current_dir("/");
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Killed with all that it started.
        command.process_group(0);
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        match command.spawn() {
            Ok(child) => {
                listen(child, self.patience).unwrap_or_else(|error| Answer::NotStarted(error.to_string()))
            }
            Err(error) => Answer::NotStarted(error.to_string()),
        }
    }
}

impl Answer {
    /// What went wrong, in words; `None` where it ended with 0.
    pub(crate) fn complaint(&self) -> Option<String> {
        match self {
            Answer::Ended { status, .. } if status.success() => None,
            Answer::Ended { status, stderr, .. } => {
                let how = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("it exited with status {code}"),
                    (None, signal) => format!("signal {} killed it", signal.unwrap_or(0)),
                };
                let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
                Some(last.map_or_else(|| how.clone(), |line| format!("{how}: {}", line.trim())))
            }
            Answer::Hangs => Some("it does not end".to_owned()),
            Answer::NotStarted(why) => Some(format!("it cannot be executed: {why}")),
        }
    }
}

/// One stream of the program, until its end.
struct Stream {
    file: Option<File>,
    kept: Vec<u8>,
}

impl Stream {
    fn new(file: impl Into<OwnedFd>) -> io::Result<Stream> {
        let file: OwnedFd = file.into();
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Stream { file: Some(file.into()), kept: Vec::new() })
    }

    /// Takes what is there. What is too much is read and forgotten, so that nobody waits to write it.
    fn take(&mut self) {
        let mut chunk = [0; 4096];
        while let Some(file) = &mut self.file {
            match file.read(&mut chunk) {
                Ok(count) if count > 0 => {
                    let room = MAX_ANSWER_BYTES.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&chunk[..count.min(room)]);
                    // One that never stops printing must not keep us from looking at the clock.
                    if room == 0 {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.file = None,
            }
        }
    }
}

fn listen(mut child: Child, patience: Duration) -> io::Result<Answer> {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("it has no output"));
    };
    let group = Pid::from_child(&child);
    let listened = (|| {
        let pidfd = pidfd_open(group, PidfdFlags::empty())?;
        let mut streams = [Stream::new(stdout)?, Stream::new(stderr)?];
        let end = Instant::now() + patience;
        while !ended(&pidfd, &mut streams, end)? {
            if Instant::now() >= end {
                return Ok(None);
            }
        }
        // What it started itself may hold the streams open; what it printed is there.
        streams.iter_mut().for_each(Stream::take);
        Ok(Some(streams.map(|stream| String::from_utf8_lossy(&stream.kept).into_owned())))
    })();
    if let Ok(Some([stdout, stderr])) = listened {
        return Ok(Answer::Ended { status: child.wait()?, stdout, stderr });
    }
    // One that is gone needs no killing.
    let _ = kill_process_group(group, Signal::KILL);
    let end = Instant::now() + KILLED_WITHIN;
    while child.try_wait()?.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    listened.map(|_| Answer::Hangs)
}

/// Waits for something to happen, and says whether it was the program's end.
fn ended(pidfd: &OwnedFd, streams: &mut [Stream; 2], end: Instant) -> io::Result<bool> {
    let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default();
    let open: Vec<BorrowedFd<'_>> =
        streams.iter().filter_map(|stream| Some(stream.file.as_ref()?.as_fd())).collect();
    let mut fds: Vec<PollFd<'_>> = std::iter::once(pidfd.as_fd())
        .chain(open.iter().copied())
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    match poll(&mut fds, Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ended = !fds[0].revents().is_empty();
    streams.iter_mut().for_each(Stream::take);
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, patience: Duration) -> Answer {
        let args = vec!["-c".into(), script.into()];
        let program = Path::new("/bin/sh");
        Question { program, args, variables: Vec::new(), user: None, patience }.ask()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_answer_has_both_streams_and_the_status() {
        let answer = sh("echo out; echo err >&2; exit 3", LONG);
        let Answer::Ended { status, stdout, stderr } = &answer else { panic!("{answer:?}") };
        assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(3), "out\n", "err\n"));
        assert_eq!(answer.complaint().unwrap(), "it exited with status 3: err");
        assert_eq!(sh("exit 0", LONG).complaint(), None);
        assert_eq!(sh("kill -SEGV $$", LONG).complaint().unwrap(), "signal 11 killed it");
    }

    #[test]
    fn one_that_hangs_or_never_stops_printing_is_killed_with_its_children() {
        let brief = Duration::from_millis(50);
        assert_eq!(sh("sleep 1000 & wait", brief), Answer::Hangs);
        assert_eq!(sh("while :; do echo yes; done", brief), Answer::Hangs);
        assert_eq!(sh("trap '' TERM HUP INT; exec sleep 1000", brief), Answer::Hangs);
        assert_eq!(Answer::Hangs.complaint().unwrap(), "it does not end");
    }

    #[test]
    fn one_that_leaves_a_child_with_its_output_has_answered() {
        let answer = sh("echo out; sleep 30 & exit 0", LONG);
        assert!(matches!(&answer, Answer::Ended { stdout, .. } if stdout == "out\n"), "{answer:?}");
    }

    #[test]
    fn what_is_printed_is_kept_up_to_a_bound() {
        let answer = sh("head -c 1000000 /dev/zero; echo end >&2", LONG);
        let Answer::Ended { stdout, stderr, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((stdout.len(), stderr.as_str()), (MAX_ANSWER_BYTES, "end\n"));
    }

    #[test]
    fn what_cannot_be_executed_is_said() {
        let question = |program: &str| {
            let program = Path::new(program);
            Question { program, args: Vec::new(), variables: Vec::new(), user: None, patience: LONG }.ask()
        };
        assert!(
            matches!(question("/no/such/program"), Answer::NotStarted(why) if why.contains("No such file"))
        );
        assert!(
            matches!(question("/etc/passwd"), Answer::NotStarted(why) if why.contains("Permission denied"))
        );
    }
}
