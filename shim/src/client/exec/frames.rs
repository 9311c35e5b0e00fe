//! A command whose streams travel in data frames: over vsock, and wherever there is a terminal.

use std::{io, os::fd::AsFd};

use agent_protocol::{
    ClientMessage, ServerMessage,
    exit::ExitRecord,
    frame::Kind,
    handshake::Features,
    message::{ExecId, INPUT_WINDOW_BYTES, TerminalSize},
};
use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{getpid, kill_process},
};

use super::{ExecError, ExecOutcome, Streams, conclude, leave_on};
use crate::{
    client::{
        Connection, ConnectionError, Incoming,
        connection::Filled,
        endpoint::{Direction, Endpoint},
        operations::unexpected,
        outlet::Outlet,
        signals::{FORWARDED, Insistence, SignalWatch, TERMINAL},
        typing::Typing,
        wait::wait_any,
    },
    terminal::{self, raw::RawMode},
};

const DURING: &str = "the command runs";

/// Most bytes of input in one frame.
const INPUT_BYTES: usize = 64 * 1024;

/// The command, as it runs.
struct Running<'a> {
    connection: Connection,
    exec: ExecId,
    streams: Streams<'a>,
    /// Until its end, or until nobody reads it.
    input: Option<Endpoint<'a>>,
    input_error: Option<io::Error>,
    buffer: Vec<u8>,
    typing: Typing,
    /// What was sent of the input, and up to where there is room for it.
    sent: u64,
    room_until: u64,
    /// Standard output, or the terminal's.
    output: Outlet<'a>,
    error: Outlet<'a>,
    /// Which of both the command was told of that nobody reads them.
    reported: [bool; 2],
    /// Whether the command has a terminal.
    terminal: bool,
    raw: Option<RawMode<'a>>,
    size: Option<TerminalSize>,
    signals: SignalWatch,
    insistence: Insistence,
    end: Option<Result<ExitRecord, ConnectionError>>,
}

/// Carries the streams until the command ends.
pub(super) fn carry(
    connection: Connection,
    exec: ExecId,
    streams: Streams<'_>,
    stdin: bool,
    terminal: bool,
) -> Result<ExecOutcome, ExecError> {
    let ours = |descriptor, direction| {
        Endpoint::of_caller(descriptor, direction)
            .map_err(|error| ExecError::Io("looking at a standard stream", error.into()))
    };
    let mut watched = FORWARDED.to_vec();
    if terminal {
        watched.extend(TERMINAL);
    }
    let signals =
        SignalWatch::new(&watched).map_err(|error| ExecError::Io("watching signals", error.into()))?;
    let raw = if terminal && stdin && rustix::termios::isatty(streams.input) {
        let guard = RawMode::enter(streams.input)
            .map_err(|error| ExecError::Io("making the terminal raw", error.into()))?;
        Some(guard)
    } else {
        None
    };
    let windowed = !terminal && connection.features().has(Features::INPUT_WINDOW);
    let mut running = Running {
        input: if stdin { Some(ours(streams.input, Direction::Read)?) } else { None },
        output: Outlet::new(ours(streams.output, Direction::Write)?),
        error: Outlet::new(ours(streams.error, Direction::Write)?),
        size: terminal::size(streams.output),
        connection,
        exec,
        streams,
        input_error: None,
        buffer: Vec::new(),
        typing: Typing::default(),
        sent: 0,
        room_until: if windowed { INPUT_WINDOW_BYTES } else { u64::MAX },
        reported: [false; 2],
        terminal,
        raw,
        signals,
        insistence: Insistence::default(),
        end: None,
    };
    // What came along with `ExecStarted` is in the buffer already and would not wake poll(2).
    running.take_frames()?;
    loop {
        if running.end.is_some() && !running.is_blocked() {
            return running.conclude(false);
        }
        if running.step()? {
            return running.conclude(true);
        }
    }
}

impl Running<'_> {
    /// Whether the caller is behind. Then nothing more is read, and the pressure reaches the command.
    fn is_blocked(&self) -> bool {
        self.output.is_blocked() || self.error.is_blocked()
    }

    /// How much input may be sent now.
    fn room(&self) -> usize {
        usize::try_from(self.room_until - self.sent).unwrap_or(usize::MAX)
    }

    /// Waits for something and handles it; `true` means that somebody cut the last of the output short.
    fn step(&mut self) -> Result<bool, ExecError> {
        self.report_broken_outlets()?;
        let reads = self.end.is_none() && !self.is_blocked();
        let writes = self.end.is_none() && !self.connection.may_queue();
        let types = self.end.is_none() && !writes && self.input.is_some() && self.room() > 0;
        let outlets = [self.output.is_blocked(), self.error.is_blocked()];

        let mut interests = Vec::with_capacity(5);
        interests.push(PollFd::new(&self.signals, PollFlags::IN));
        if reads || writes {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reads);
            flags.set(PollFlags::OUT, writes);
            interests.push(PollFd::from_borrowed_fd(self.connection.as_fd(), flags));
        }
        if let Some(input) = self.input.as_ref().filter(|_| types) {
            interests.push(PollFd::new(input, PollFlags::IN));
        }
        for (outlet, blocked) in [&self.output, &self.error].into_iter().zip(outlets) {
            if blocked {
                interests.push(outlet.interest());
            }
        }
        wait_any(&mut interests, None).map_err(|error| ExecError::Io("waiting", error.into()))?;
        let answers: Vec<_> = interests.iter().map(PollFd::revents).collect();
        drop(interests);

        let mut answers = answers.into_iter();
        let mut answered = |asked: bool| asked && answers.next().is_some_and(|flags| !flags.is_empty());
        let signalled = answered(true);
        let (connected, input_came) = (answered(reads || writes), answered(types));
        if answered(outlets[0]) {
            self.output.flush();
        }
        if answered(outlets[1]) {
            self.error.flush();
        }
        if signalled && self.handle_signals()? {
            return Ok(true);
        }
        if input_came {
            self.read_input()?;
        }
        if connected {
            self.connection.flush()?;
        }
        if connected && reads {
            self.read_connection()?;
        }
        Ok(false)
    }

    fn handle_signals(&mut self) -> Result<bool, ExecError> {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::SIGWINCH => self.resize()?,
                Signal::SIGTSTP => self.stop_ourselves(),
                Signal::SIGCONT => {
                    if let Some(raw) = &self.raw {
                        let _gone = raw.resume();
                    }
                    self.resize()?;
                }
                Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT if self.end.is_some() => {
                    return Ok(true);
                }
                _ if self.end.is_some() => {}
                // Our going hangs up the command's terminal, as the end of ours should.
                Signal::SIGTERM | Signal::SIGHUP if self.terminal => {
                    return Err(ExecError::Interrupted(signal));
                }
                signal => {
                    leave_on(signal, &mut self.insistence)?;
                    self.connection.queue(&ClientMessage::Signal(signal as i32))?;
                }
            }
        }
        self.connection.flush()?;
        Ok(false)
    }

    /// Tells the command's terminal about the size of ours, where it is another one now.
    fn resize(&mut self) -> Result<(), ExecError> {
        let size = terminal::size(self.streams.output);
        if let Some(size) = size.filter(|_| self.terminal && self.end.is_none() && size != self.size) {
            self.size = Some(size);
            self.connection.queue(&ClientMessage::Resize(size))?;
        }
        Ok(())
    }

    /// Stops as the signal would have stopped us, with the terminal as it was; `SIGCONT` makes it raw again.
    fn stop_ourselves(&self) {
        if let Some(raw) = &self.raw {
            let _gone = raw.suspend();
        }
        let _never_fails = kill_process(getpid(), rustix::process::Signal::STOP);
    }

    fn read_input(&mut self) -> Result<(), ExecError> {
        let Some(input) = &self.input else { return Ok(()) };
        self.buffer.resize(self.room().min(INPUT_BYTES), 0);
        match input.read(&mut self.buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Ok(count) if count > 0 => {
                self.sent += count as u64;
                let bytes = &self.buffer[..count];
                let kind = if self.terminal { Kind::Terminal } else { Kind::Stdin };
                self.connection.queue_data(kind, self.typing.advance(bytes), bytes);
            }
            // A terminal of ours that is gone reads as its end or as EIO.
            ended => {
                if self.raw.is_some() {
                    return Err(ExecError::Interrupted(Signal::SIGHUP));
                }
                self.input = None;
                self.input_error = ended.err().map(io::Error::from);
                if self.terminal {
                    let end = self.typing.end();
                    self.connection.queue_data(Kind::Terminal, self.typing.advance(end), end);
                } else {
                    self.connection.queue(&ClientMessage::StdinEnd)?;
                }
            }
        }
        Ok(self.connection.flush()?)
    }

    /// One look at the socket: what comes meanwhile is told by the next poll.
    fn read_connection(&mut self) -> Result<(), ExecError> {
        if self.connection.fill()? == Filled::End {
            self.end = Some(Err(ConnectionError::Closed(DURING)));
            return Ok(());
        }
        self.take_frames()
    }

    /// Takes all frames of the buffer, because one that stays there would not wake poll(2).
    fn take_frames(&mut self) -> Result<(), ExecError> {
        while let Some(incoming) = self.connection.next()? {
            match incoming {
                Incoming::Data { kind: Kind::Terminal, offset, bytes } if self.terminal => {
                    self.output.take(offset, bytes)?;
                }
                Incoming::Data { kind: Kind::Stdout, offset, bytes } if !self.terminal => {
                    self.output.take(offset, bytes)?;
                }
                Incoming::Data { kind: Kind::Stderr, offset, bytes } if !self.terminal => {
                    self.error.take(offset, bytes)?;
                }
                Incoming::Data { .. } => {
                    return Err(ConnectionError::Unexpected { what: "data", during: DURING }.into());
                }
                Incoming::Message(ServerMessage::ExecExited(exited)) if exited.exec == self.exec => {
                    self.end = Some(Ok(exited.exit));
                    return Ok(());
                }
                Incoming::Message(ServerMessage::InputTaken(offset)) if offset <= self.sent => {
                    self.room_until = self.room_until.max(offset.saturating_add(INPUT_WINDOW_BYTES));
                }
                Incoming::Message(ServerMessage::Failed(failure)) => {
                    self.end = Some(Err(ConnectionError::Refused(failure)));
                    return Ok(());
                }
                Incoming::Message(other) => return Err(unexpected(&other, DURING).into()),
            }
        }
        Ok(())
    }

    /// There is no way to close the command's output, so that it gets the signal that writing to a closed
    /// one would bring. A command that ignores it goes on, and its output is thrown away.
    fn report_broken_outlets(&mut self) -> Result<(), ExecError> {
        if self.end.is_some() {
            return Ok(());
        }
        for (outlet, reported) in [&self.output, &self.error].into_iter().zip(&mut self.reported) {
            if outlet.broken().is_some() && !*reported {
                *reported = true;
                self.connection.queue(&ClientMessage::Signal(Signal::SIGPIPE as i32))?;
                self.connection.flush()?;
            }
        }
        Ok(())
    }

    fn conclude(self, cut_short: bool) -> Result<ExecOutcome, ExecError> {
        let mut exit = match self.end {
            Some(Ok(exit)) => exit,
            Some(Err(error)) => return Err(ExecError::Lost(error)),
            None => return Err(ExecError::Lost(ConnectionError::Closed(DURING))),
        };
        exit.output_truncated |= cut_short;
        let real =
            |outlet: &Outlet<'_>| outlet.broken().filter(|error| *error != Errno::PIPE).map(Into::into);
        conclude(
            self.exec,
            exit,
            self.input_error,
            [("output", real(&self.output)), ("error", real(&self.error))],
        )
    }
}
