//! The processes that are a machine together: each is started when the one before it listens, and recorded.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, WaitStatus, pidfd_send_signal, waitpid};
use serde_json::{Value, json};

use super::ends::Ends;
use super::job::{Part, wire};
use super::output::Words;
use crate::isolation::launcher::{Failed, failed};
use crate::sys::{self, Child, Program, SpawnError, Step};

/// How long a part may take until it listens. They need milliseconds.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// How long one that was killed may take to be gone. One that the kernel holds is left to it.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// How long the machine may take from letting go of its parts to its own end: the kernel takes back all of its memory meanwhile.
const ENDS_AFTER: Timespec = Timespec { tv_sec: 0, tv_nsec: 700_000_000 };

/// Between two looks for a socket.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// What the process is called that all others end with.
const KEEPER: &str = "keeper";

/// The first process of the parts' own namespace: the kernel ends them with it.
pub(super) struct Keeper {
    pub(super) process: Child,
    /// It ends with this line, and the line with it.
    pub(super) line: UnixStream,
}

/// All that run, what they say, and the record.
pub(super) struct Parts {
    keeper: Keeper,
    running: Vec<(String, Child)>,
    record: File,
    said: File,
    saying: Option<OwnedFd>,
    words: Words,
}

/// A part that has ended.
pub(super) struct Ended {
    /// What it was called.
    pub(super) name: String,
    /// How it ended.
    pub(super) how: WaitStatus,
    /// Whether it was the machine itself.
    pub(super) is_machine: bool,
}

impl Parts {
    /// None yet.
    pub(super) fn new(record: File, keeper: Keeper) -> Result<Parts, Failed> {
        let pipe = pipe_with(PipeFlags::CLOEXEC).and_then(|(said, saying)| {
            rustix::io::ioctl_fionbio(&said, true)?;
            Ok((said, saying))
        });
        let (said, saying) = pipe.map_err(|error| failed("making a pipe")(error.into()))?;
        let pid = keeper.process.pid.as_raw_nonzero().get();
        let mut parts = Parts {
            keeper,
            running: vec![],
            record,
            said: said.into(),
            saying: Some(saying),
            words: Words::default(),
        };
        parts.note(&json!({ "part": KEEPER, "pid": pid }))?;
        Ok(parts)
    }

    /// Writes a line into the record.
    pub(super) fn note(&mut self, value: &Value) -> Result<(), Failed> {
        // In one piece, for whoever reads meanwhile.
        self.record.write_all(format!("{value}\n").as_bytes()).map_err(failed("writing the record"))
    }

    /// Starts one and waits until it listens.
    pub(super) fn start(&mut self, part: &Part, ends: &mut Ends) -> Result<(), Failed> {
        let doing = || format!("starting {}", part.name);
        let child = self.spawn(part, ends).map_err(failed(doing()))?;
        let pid = child.pid.as_raw_nonzero().get();
        self.running.push((part.name.clone(), child));
        self.note(&json!({ "part": part.name, "pid": pid }))?;
        if let Some((socket, number)) = &part.listens {
            let connection = self.connect(socket).map_err(failed(doing()))?;
            ends.put(*number, connection.into());
        }
        Ok(())
    }

    fn spawn(&self, part: &Part, ends: &mut Ends) -> io::Result<Child> {
        // Above all numbers that are given, so that putting one in place closes no other.
        let above = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, wire::END);
        let null = File::open("/dev/null")?;
        let Some(saying) = &self.saying else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut fds =
            vec![(above(null.as_fd())?, 0), (above(saying.as_fd())?, 1), (above(saying.as_fd())?, 2)];
        for &number in &part.wires {
            let end = ends.take(number, part.network).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("nothing goes under number {number}"))
            })?;
            fds.push((above(end.as_fd())?, number));
        }
        let mut steps = vec![Step::NewSession, Step::CloseAbove(2)];
        steps.extend(fds.iter().map(|(fd, number)| Step::PassFd { from: fd.as_raw_fd(), to: *number }));
        let text = |text: &str| CString::new(text).map_err(io::Error::from);
        let path = text(&part.program.to_string_lossy())?;
        let mut args = vec![path.clone()];
        for arg in &part.args {
            args.push(text(arg)?);
        }
        let program = Program { path, args, env: vec![text("PATH=/usr/bin:/bin")?] };
        sys::spawn(&steps, &program).map_err(|error| match error {
            SpawnError::Clone(error) | SpawnError::Step(_, error) | SpawnError::Exec(error) => error,
        })
    }

    /// A connection to where the part that was started last listens.
    fn connect(&mut self, socket: &Path) -> io::Result<UnixStream> {
        let end = Instant::now() + LISTENS_WITHIN;
        loop {
            let error = match UnixStream::connect(socket) {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let (not_yet, ended) = (
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
                self.running.last().map(|(_, child)| wait_for(child, &LOOK_AGAIN)).transpose()?.flatten(),
            );
            if let Some(how) = ended {
                return Err(io::Error::other(format!("it ended ({})", words(how))));
            }
            if !not_yet || Instant::now() >= end {
                return Err(error);
            }
        }
    }

    /// The number of the machine itself, which is the part that was started last.
    pub(super) fn machine(&self) -> i32 {
        self.running.last().map_or(0, |(_, child)| child.pid.as_raw_nonzero().get())
    }

    /// What to wait on: readable where a part has ended, in the order in which they were started, and last where one of them
    /// says something.
    pub(super) fn to_watch(&self) -> Vec<PollFd<'_>> {
        let ended = self.running.iter().map(|(_, child)| PollFd::new(&child.pidfd, PollFlags::IN));
        ended.chain([PollFd::new(&self.said, PollFlags::IN)]).collect()
    }

    /// The first that has ended, and how.
    pub(super) fn ended(&self) -> io::Result<Option<Ended>> {
        let Some((machine, others)) = self.running.split_last() else { return Ok(None) };
        let ended = |(name, child): &(String, Child), is_machine, patience: &Timespec| {
            let how = wait_for(child, patience)?;
            io::Result::Ok(how.map(|how| Ended { name: name.clone(), how, is_machine }))
        };
        if let Some(ended) = ended(machine, true, &Timespec::default())? {
            return Ok(Some(ended));
        }
        for part in others {
            let Some(first) = ended(part, false, &Timespec::default())? else { continue };
            // They end by themselves, some in order and some with an error, when the machine lets go of them, which is a moment
            // before it has ended itself.
            let by_itself = first.how.exit_status().is_some();
            let patience = if by_itself { ENDS_AFTER } else { Timespec::default() };
            return Ok(ended(machine, true, &patience)?.or(Some(first)));
        }
        Ok(None)
    }

    /// What has ended first, now that all have ended: with the keeper, the kernel ends the others at once.
    pub(super) fn cause(&self, ended: Ended) -> io::Result<Ended> {
        if poll(&mut [PollFd::new(&self.keeper.line, PollFlags::IN)], Some(&Timespec::default()))? == 0 {
            return Ok(ended);
        }
        let patience = Timespec::try_from(KILLED_WITHIN).unwrap_or_default();
        let how = wait_for(&self.keeper.process, &patience)?.unwrap_or(ended.how);
        Ok(Ended { name: KEEPER.to_owned(), how, is_machine: false })
    }

    /// Passes on what they say, within bounds.
    pub(super) fn listen(&mut self) {
        let mut chunk = [0; 4096];
        while let Ok(bytes @ 1..) = self.said.read(&mut chunk) {
            drop(io::stderr().write_all(self.words.pass(&chunk[..bytes])));
        }
    }

    /// Ends all that are left, and waits for them.
    pub(super) fn end(&mut self) {
        self.saying = None;
        for (_, child) in &self.running {
            // One that has ended and was reaped has nothing to be sent.
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        }
        let end = Instant::now() + KILLED_WITHIN;
        for (_, child) in &self.running {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            drop(wait_for(child, &left));
        }
        self.listen();
    }
}

/// How it ended, if it does within this time.
fn wait_for(child: &Child, patience: &Timespec) -> io::Result<Option<WaitStatus>> {
    if poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(patience))? == 0 {
        return Ok(None);
    }
    Ok(waitpid(Some(child.pid), WaitOptions::NOHANG)?.map(|(_, how)| how))
}

/// How a process ended.
pub(super) fn words(how: WaitStatus) -> String {
    match (how.exit_status(), how.terminating_signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
    }
}
