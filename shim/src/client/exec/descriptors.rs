//! A command whose streams are pipes that init made and sent to us.

use std::{io, os::fd::AsFd};

use agent_protocol::{ClientMessage, ServerMessage, exit::ExitRecord, message::ExecId};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags};

use super::{ExecError, ExecOutcome, Streams, conclude, leave_on};
use crate::client::{
    Connection, ConnectionError, Incoming,
    connection::Filled,
    endpoint::{Direction, Endpoint},
    operations::unexpected,
    pump::{End, Pump},
    signals::{FORWARDED, Insistence, SignalWatch},
    wait::wait_any,
};

const DURING: &str = "the command runs";

/// The places of the pumps.
const STDIN: usize = 0;
const STDOUT: usize = 1;
const STDERR: usize = 2;

/// The command, as it runs.
struct Running<'a> {
    connection: Connection,
    exec: ExecId,
    pumps: [Option<Pump<'a>>; 3],
    errors: [Option<io::Error>; 3],
    signals: SignalWatch,
    insistence: Insistence,
    /// How it ended, once that is known: an exit, or the end of the connection.
    end: Option<Result<ExitRecord, ConnectionError>>,
}

/// Carries the streams until the command ends.
pub(super) fn carry(
    connection: Connection,
    exec: ExecId,
    streams: Streams<'_>,
    stdin: Option<Endpoint<'static>>,
    stdout: Endpoint<'static>,
    stderr: Endpoint<'static>,
) -> Result<ExecOutcome, ExecError> {
    let ours = |descriptor, direction| {
        Endpoint::of_caller(descriptor, direction)
            .map_err(|error| ExecError::Io("looking at a standard stream", error.into()))
    };
    let signals =
        SignalWatch::new(&FORWARDED).map_err(|error| ExecError::Io("watching signals", error.into()))?;
    let mut running = Running {
        pumps: [
            match stdin {
                Some(pipe) => Some(Pump::into_command(ours(streams.input, Direction::Read)?, pipe)),
                None => None,
            },
            Some(Pump::out_of_command(stdout, ours(streams.output, Direction::Write)?)),
            Some(Pump::out_of_command(stderr, ours(streams.error, Direction::Write)?)),
        ],
        connection,
        exec,
        errors: [None, None, None],
        signals,
        insistence: Insistence::default(),
        end: None,
    };
    // What came along with `ExecStarted` is in the buffer already and would not wake poll(2).
    running.take_message()?;
    loop {
        if running.is_done() {
            return running.conclude(false);
        }
        if running.step()? {
            return running.conclude(true);
        }
    }
}

impl Running<'_> {
    fn is_done(&self) -> bool {
        self.end.is_some() && self.pumps[STDOUT..].iter().all(Option::is_none)
    }

    /// Waits for something and handles it; `true` means that somebody cut the last of the output short.
    fn step(&mut self) -> Result<bool, ExecError> {
        let mut interests = Vec::with_capacity(8);
        interests.push(PollFd::new(&self.signals, PollFlags::IN));
        if self.end.is_none() {
            let room = if self.connection.may_queue() { PollFlags::empty() } else { PollFlags::OUT };
            interests.push(PollFd::from_borrowed_fd(self.connection.as_fd(), PollFlags::IN | room));
        }
        interests.extend(self.pumps.iter().flatten().flat_map(Pump::interests));
        wait_any(&mut interests, None).map_err(|error| ExecError::Io("waiting", error.into()))?;
        let answers: Vec<_> = interests.iter().map(PollFd::revents).collect();
        drop(interests);

        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(PollFlags::empty());
        let signalled = !next().is_empty();
        let told = self.end.is_none() && !next().is_empty();
        // Output first: what the command wrote before its end is moved before the end is looked at.
        for place in [STDIN, STDOUT, STDERR] {
            if let Some(pump) = &mut self.pumps[place]
                && let Some(end) = pump.advance(&mut answers)
            {
                self.close(place, Some(end));
            }
        }
        if signalled && self.handle_signals()? {
            return Ok(true);
        }
        if told {
            self.handle_connection()?;
        }
        Ok(false)
    }

    /// Forwards signals. After the command's exit they end the wait for a caller who does not read.
    fn handle_signals(&mut self) -> Result<bool, ExecError> {
        while let Some(signal) = self.signals.next() {
            if self.end.is_some() {
                if matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT) {
                    return Ok(true);
                }
                continue;
            }
            leave_on(signal, &mut self.insistence)?;
            self.connection.queue(&ClientMessage::Signal(signal as i32))?;
        }
        self.connection.flush()?;
        Ok(false)
    }

    fn handle_connection(&mut self) -> Result<(), ExecError> {
        self.connection.flush()?;
        if self.connection.fill()? == Filled::End {
            self.finish(Err(ConnectionError::Closed(DURING)));
            return Ok(());
        }
        self.take_message()
    }

    /// Every message that may come here is the last one.
    fn take_message(&mut self) -> Result<(), ExecError> {
        match self.connection.next()? {
            None => {}
            Some(Incoming::Message(ServerMessage::ExecExited(exited))) if exited.exec == self.exec => {
                self.finish(Ok(exited.exit));
            }
            Some(Incoming::Message(ServerMessage::Failed(failure))) => {
                self.finish(Err(ConnectionError::Refused(failure)));
            }
            Some(Incoming::Message(other)) => return Err(unexpected(&other, DURING).into()),
            Some(Incoming::Data { .. }) => {
                return Err(ConnectionError::Unexpected { what: "data", during: DURING }.into());
            }
        }
        Ok(())
    }

    /// The command is gone: what is in the pipes still goes out, what comes later does not.
    fn finish(&mut self, end: Result<ExitRecord, ConnectionError>) {
        self.end = Some(end);
        self.close(STDIN, None);
        for place in [STDOUT, STDERR] {
            if let Some(pump) = &mut self.pumps[place] {
                pump.finish();
                let end = if pump.is_finished() { Some(End::SourceEnded) } else { pump.turn() };
                if end.is_some() {
                    self.close(place, end);
                }
            }
        }
    }

    /// Closes the command's end with ours: a reader sees the end, a writer gets `SIGPIPE`.
    fn close(&mut self, place: usize, end: Option<End>) {
        self.pumps[place] = None;
        if let Some(End::ReadFailed(error) | End::WriteFailed(error)) = end {
            self.errors[place] = Some(error.into());
        }
    }

    fn conclude(mut self, cut_short: bool) -> Result<ExecOutcome, ExecError> {
        let mut exit = match self.end.take() {
            Some(Ok(exit)) => exit,
            Some(Err(error)) => return Err(ExecError::Lost(error)),
            None => return Err(ExecError::Lost(ConnectionError::Closed(DURING))),
        };
        exit.output_truncated |= cut_short;
        let [input, output, error] = self.errors;
        conclude(self.exec, exit, input, [("output", output), ("error", error)])
    }
}
