//! A command of our own that does a job, watched without waiting for it.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
};

use crate::isolation::Process;

/// What is kept of a job's standard output, bytes: what it reports. More is thrown away, and its exit code is all that counts.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

/// What is kept of its standard error, bytes.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// Taken of a stream at once, bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// A job under way. It is not ended with us: what it began, it may bring to its end.
#[derive(Debug)]
pub(super) struct Job {
    child: Child,
    process: Process,
    stdout: Stream,
    stderr: Stream,
    deadline: Instant,
    timed_out: bool,
}

/// How a job ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: Option<ExitStatus>,
    pub(super) timed_out: bool,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Job {
    /// Starts it in a process group of its own.
    pub(super) fn start(mut command: Command, within: Duration) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let watched = Process::now(child.id().cast_signed()).and_then(|process| {
            let process = process.ok_or(io::ErrorKind::NotFound)?;
            let stdout = Stream::new(child.stdout.take().map(OwnedFd::from), MAX_REPORT_BYTES)?;
            Ok((process, stdout, Stream::new(child.stderr.take().map(OwnedFd::from), MAX_ERROR_BYTES)?))
        });
        match watched {
            Ok((process, stdout, stderr)) => {
                let deadline = Instant::now() + within;
                Ok(Self { child, process, stdout, stderr, deadline, timed_out: false })
            }
            Err(error) => {
                // Without a way to watch it, it would be nobody's.
                drop(child.kill().and_then(|()| child.wait()));
                Err(error)
            }
        }
    }

    /// When it has to be looked at, whatever it does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.timed_out).then_some(self.deadline)
    }

    /// What can be waited on.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let streams = [&self.stdout, &self.stderr].into_iter().filter_map(|stream| stream.fd.as_ref());
        streams.map(AsFd::as_fd).chain([self.process.as_fd()])
    }

    /// Takes what it has written. Returns how it ended, once it has.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Done> {
        self.stdout.take();
        self.stderr.take();
        if now >= self.deadline && !self.timed_out {
            self.timed_out = true;
            self.kill();
        }
        if self.process.alive().unwrap_or(true) {
            return None;
        }
        // It had its last word before it ended. Whoever it left behind may hold the streams, and is not waited for.
        self.stdout.take();
        self.stderr.take();
        Some(Done {
            status: self.child.wait().ok(),
            timed_out: self.timed_out,
            stdout: std::mem::take(&mut self.stdout.kept),
            stderr: std::mem::take(&mut self.stderr.kept),
        })
    }

    /// Waits for its end, and ends it at the deadline.
    pub(super) fn finish(mut self, within: Duration) -> Done {
        self.deadline = self.deadline.min(Instant::now() + within);
        loop {
            let left = self.deadline().map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            let mut fds: Vec<_> = self.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // Interrupted or not, it is looked at.
            let _ = poll(&mut fds, timeout);
            drop(fds);
            if let Some(done) = self.turn(Instant::now()) {
                return done;
            }
        }
    }

    fn kill(&self) {
        // Its group has its number, which is its own until it was waited for.
        let _ = killpg(nix::unistd::Pid::from_raw(self.process.id().pid), Signal::SIGKILL);
    }
}

/// One of its streams, of which so much is kept.
#[derive(Debug)]
struct Stream {
    fd: Option<OwnedFd>,
    kept: Vec<u8>,
    most: usize,
}

impl Stream {
    fn new(fd: Option<OwnedFd>, most: usize) -> io::Result<Self> {
        if let Some(fd) = &fd {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(Self { fd, kept: Vec::new(), most })
    }

    fn take(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        let mut file = std::fs::File::from(fd);
        let mut piece = vec![0; PIECE_BYTES];
        // As much as a pipe holds: then others get their turn.
        match file.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => {
                let room = self.most - self.kept.len();
                self.kept.extend_from_slice(&piece[..read.min(room)]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
        self.fd = Some(file.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn job(script: &str, within: Duration) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job::start(command, within).unwrap()
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_kept() {
        let done = job("echo out; echo err >&2; exit 3", PATIENCE).finish(PATIENCE);
        assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((done.status.unwrap().code(), done.timed_out), (Some(3), false));
    }

    #[test]
    fn what_it_says_is_bounded_and_it_is_not_held_up() {
        let done = job("head -c 3000000 /dev/zero; head -c 100000 /dev/zero >&2", PATIENCE).finish(PATIENCE);
        assert_eq!((done.stdout.len(), done.stderr.len()), (MAX_REPORT_BYTES, MAX_ERROR_BYTES));
        assert!(done.status.unwrap().success());
    }

    #[test]
    fn one_that_hangs_ends_at_its_deadline_with_what_it_started() {
        let done = job("sleep 1000 & sleep 1000", Duration::from_millis(10)).finish(PATIENCE);
        assert!(done.timed_out && !done.status.unwrap().success());
    }

    #[test]
    fn one_that_leaves_somebody_with_its_streams_has_ended() {
        let done = job("sleep 5 & echo done", PATIENCE).finish(PATIENCE);
        assert_eq!(done.stdout, b"done\n");
        assert!(done.status.unwrap().success());
    }
}
