//! Bytes from one descriptor to another, one of which is a pipe from inside.
//!
//! Pages are moved by splice(2) where both ends are fit for it, and copied otherwise.

use std::os::fd::AsFd;

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    pipe::SpliceFlags,
};

use super::endpoint::{Endpoint, Nature};

/// Bytes of a copying pump's buffer: a pipe's default capacity.
const BUFFER_BYTES: usize = 64 * 1024;

/// Capacity asked for on a pipe that carries bulk data, the most an ordinary user may have (pipe(7)).
const LARGE_PIPE_BYTES: usize = 1024 * 1024;

/// A move of this size says that the pipe carries bulk data.
const BULK_BYTES: usize = 32 * 1024;

/// Most bytes moved in one turn, so that no stream starves the others or the signals.
const TURN_BYTES: usize = 4 * 1024 * 1024;

/// Why nothing more will move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The source has no more.
    SourceEnded,
    /// Nobody reads the sink any more.
    SinkClosed,
    /// The source cannot be read.
    ReadFailed(Errno),
    /// The sink cannot be written.
    WriteFailed(Errno),
}

/// What a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Source,
    Sink,
}

/// What one attempt to move bytes came to.
enum Moved {
    Bytes(usize),
    MustWait(Wait),
    Ended(End),
}

/// One direction between a standard stream of the caller's and a pipe of the command's.
#[derive(Debug)]
pub(crate) struct Pump<'a> {
    source: Endpoint<'a>,
    sink: Endpoint<'a>,
    splices: bool,
    /// In a copying pump: `buffer[start..end]` was read and is not written yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    waits_for: Wait,
    /// Bytes still to be taken from the source, once that is known.
    left: Option<u64>,
    enlarged: bool,
    /// Whether the sink is the command's end, and not the source.
    inwards: bool,
}

impl<'a> Pump<'a> {
    /// From the caller into the command.
    pub(crate) fn into_command(source: Endpoint<'a>, pipe: Endpoint<'a>) -> Self {
        Self::new(source, pipe, true)
    }

    /// From the command out to the caller.
    pub(crate) fn out_of_command(pipe: Endpoint<'a>, sink: Endpoint<'a>) -> Self {
        Self::new(pipe, sink, false)
    }

    fn new(source: Endpoint<'a>, sink: Endpoint<'a>, inwards: bool) -> Self {
        // Never the pages of the caller's files: the command could hold on to them and see later changes.
        let source_fits = source.nature() == Nature::Pipe;
        let sink_fits = matches!(sink.nature(), Nature::Pipe | Nature::File | Nature::Other);
        Self {
            splices: source_fits && sink_fits,
            source,
            sink,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            waits_for: Wait::Source,
            left: None,
            enlarged: false,
            inwards,
        }
    }

    /// What to poll for: one or two descriptors, to be answered to [`advance`](Self::advance) in this order.
    ///
    /// A pipe that is the sink is watched besides the source, for the moment when nobody reads it any more:
    /// then the command should find its output closed even if it has nothing to say for a while. Nothing
    /// else is watched without need, because a hung-up descriptor would wake poll(2) for ever.
    pub(crate) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let source = (self.waits_for == Wait::Source)
            .then(|| PollFd::from_borrowed_fd(self.source.as_fd(), PollFlags::IN));
        let sink = match self.waits_for {
            Wait::Source if self.sink.nature() == Nature::Pipe => Some(PollFlags::empty()),
            Wait::Source => None,
            Wait::Sink => Some(PollFlags::OUT),
        };
        source.into_iter().chain(sink.map(|flags| PollFd::from_borrowed_fd(self.sink.as_fd(), flags)))
    }

    /// Takes the answers of poll(2) to [`interests`](Self::interests) and moves what can be moved.
    pub(crate) fn advance(&mut self, answers: &mut impl Iterator<Item = PollFlags>) -> Option<End> {
        let mut next = || answers.next().unwrap_or(PollFlags::empty());
        let (source, sink) = match self.waits_for {
            Wait::Source if self.sink.nature() == Nature::Pipe => (next(), next()),
            Wait::Source => (next(), PollFlags::empty()),
            Wait::Sink => (PollFlags::empty(), next()),
        };
        if sink.contains(PollFlags::ERR) && self.sink.nature() == Nature::Pipe {
            return Some(End::SinkClosed);
        }
        if source.is_empty() && sink.is_empty() { None } else { self.turn() }
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn turn(&mut self) -> Option<End> {
        let mut moved = 0;
        while moved < TURN_BYTES {
            let step = if self.splices { self.splice() } else { self.copy() };
            match step {
                Moved::Bytes(count) => moved += count,
                // Somebody else took what was left: nothing that we wait for will come.
                Moved::MustWait(Wait::Source) if self.left.is_some() => return Some(End::SourceEnded),
                Moved::MustWait(wait) => {
                    self.waits_for = wait;
                    return None;
                }
                Moved::Ended(end) => return Some(end),
            }
        }
        None
    }

    /// Takes no more from the source than is in it now: the command has ended, and what its descendants go
    /// on writing is not waited for.
    pub(crate) fn finish(&mut self) {
        self.left = Some(rustix::io::ioctl_fionread(&self.source).unwrap_or(0));
    }

    /// Whether nothing is left to do after [`finish`](Self::finish).
    pub(crate) fn is_finished(&self) -> bool {
        self.left == Some(0) && self.start == self.end
    }

    fn splice(&mut self) -> Moved {
        let Some(want) = self.want(LARGE_PIPE_BYTES) else { return Moved::Ended(End::SourceEnded) };
        match rustix::pipe::splice(
            &self.source,
            None,
            &self.sink,
            None,
            want,
            SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
        ) {
            Ok(0) => Moved::Ended(End::SourceEnded),
            Ok(count) => {
                self.took(count);
                Moved::Bytes(count)
            }
            // Which side it was is not told: with something in the source, it is the sink.
            Err(Errno::AGAIN) => Moved::MustWait(match rustix::io::ioctl_fionread(&self.source) {
                Ok(0) => Wait::Source,
                _ => Wait::Sink,
            }),
            Err(Errno::INTR) => Moved::Bytes(0),
            Err(Errno::PIPE) => Moved::Ended(End::SinkClosed),
            // O_APPEND, an odd file system, a full disk: the copy works, or tells which side it is.
            Err(_) => {
                self.splices = false;
                Moved::Bytes(0)
            }
        }
    }

    fn copy(&mut self) -> Moved {
        if self.start == self.end {
            let Some(want) = self.want(BUFFER_BYTES) else { return Moved::Ended(End::SourceEnded) };
            self.buffer.resize(BUFFER_BYTES, 0);
            match self.source.read(&mut self.buffer[..want]) {
                Ok(0) => return Moved::Ended(End::SourceEnded),
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    self.took(count);
                }
                Err(Errno::AGAIN) => return Moved::MustWait(Wait::Source),
                Err(Errno::INTR) => return Moved::Bytes(0),
                Err(error) => return Moved::Ended(End::ReadFailed(error)),
            }
        }
        match self.sink.write(&self.buffer[self.start..self.end]) {
            Ok(count) => {
                self.start += count;
                Moved::Bytes(count)
            }
            Err(Errno::AGAIN) => Moved::MustWait(Wait::Sink),
            Err(Errno::INTR) => Moved::Bytes(0),
            Err(Errno::PIPE | Errno::CONNRESET) => Moved::Ended(End::SinkClosed),
            Err(error) => Moved::Ended(End::WriteFailed(error)),
        }
    }

    /// How much to take next; `None` where nothing is to be taken any more.
    fn want(&self, most: usize) -> Option<usize> {
        match self.left {
            None => Some(most),
            Some(0) => None,
            Some(left) => Some(usize::try_from(left).unwrap_or(most).min(most)),
        }
    }

    fn took(&mut self, count: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(count as u64);
        }
        if count >= BULK_BYTES && !self.enlarged {
            self.enlarged = true;
            // The command's pipe alone: the caller's keep the size that the caller gave them.
            let own = if self.inwards { &self.sink } else { &self.source };
            // Refused where the user has too many large pipes already; it only makes us slower.
            let _stays_small = rustix::pipe::fcntl_setpipe_size(own, LARGE_PIPE_BYTES);
        }
    }
}
