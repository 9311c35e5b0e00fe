//! A viewer of the agent's terminal.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use agent_protocol::{
    ClientMessage, Request, ServerMessage,
    exit::ExitRecord,
    frame::Kind,
    message::{
        AttachFrom, AttachRequest, AttachTo, Lease, LeaseAction, LeaseWish, Next, SessionEnded, TerminalSize,
    },
};
use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{getpid, kill_process},
};

use self::screen::Screen;
use super::{
    Connection, ConnectionError, Incoming,
    connection::Filled,
    endpoint::{Direction, Endpoint},
    exec::Streams,
    operations::unexpected,
    outlet::Outlet,
    signals::{Insistence, SignalWatch, TERMINAL},
    typing::Typing,
    wait::wait_any,
};
use crate::terminal::{
    self,
    keys::{Action, DetachKeys, KeyMatcher},
    raw::RawMode,
};

mod notice;
mod screen;
#[cfg(test)]
mod tests;

const DURING: &str = "it shows its terminal";

/// Most bytes typed at once.
const INPUT_BYTES: usize = 16 * 1024;

/// How to view.
#[derive(Clone, Debug)]
pub struct AttachOptions<'a> {
    /// Whose terminal, by its unit's name; the main agent's if it is not said.
    pub unit: Option<String>,
    /// How much the viewer wants to type.
    pub lease: LeaseWish,
    /// Whether the agent was started for this viewer, so that the terminal shows its bytes from the first on, as if
    /// it ran without us. Otherwise it begins with a picture.
    pub from_start: bool,
    /// The keys that mean us; they count where input and output are terminals.
    pub keys: DetachKeys,
    /// Whether Ctrl-C and Ctrl-\ are typed where we have no terminal to type them on, as `run` wants it.
    /// Without it they end the viewer.
    pub forward_interrupts: bool,
    /// The caller's streams.
    pub streams: Streams<'a>,
    /// How long init may take until the viewer is in.
    pub start_patience: Duration,
}

/// How viewing ended.
#[derive(Debug)]
pub enum AttachOutcome {
    /// The person left, or nobody reads what we show.
    Detached,
    /// The agent ended, and nothing follows that this viewer would wait for.
    Ended(ExitRecord),
    /// The connection broke, or the other side spoke nonsense.
    Lost(ConnectionError),
    /// A signal ended the viewer, or its terminal is gone.
    Interrupted(Signal),
}

/// Why there was nothing to view.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Init could not be asked, refused, or answered nonsense.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A descriptor of the caller's is of no use.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
}

/// Shows the agent's terminal, and types, until the person leaves or it ends.
///
/// On a terminal it begins with a picture of the screen, or with the first byte. Where the output is none, all bytes that are kept are
/// written as they are, and the agent's exit ends the viewer unless it is started again.
pub fn run(mut connection: Connection, options: AttachOptions<'_>) -> Result<AttachOutcome, AttachError> {
    let streams = options.streams;
    let interactive = rustix::termios::isatty(streams.input) && rustix::termios::isatty(streams.output);
    let size = terminal::size(streams.output).filter(|_| interactive);
    // Without a size nobody can be asked for a picture later.
    let paints = interactive && !(options.from_start && size.is_some());
    let from = if paints { AttachFrom::Screen } else { AttachFrom::Offset(0) };
    let deadline = Instant::now() + options.start_patience;
    let attach = AttachRequest { lease: options.lease, size, from };
    connection.request(&match &options.unit {
        None => Request::Attach(attach),
        Some(unit) => Request::AttachTo(AttachTo { unit: unit.clone(), attach }),
    })?;
    let attached = match connection.recv_message("attaching", Some(deadline))? {
        ServerMessage::Attached(attached) => attached,
        other => return Err(unexpected(&other, "attaching").into()),
    };
    let mut viewing = Viewing::begin(connection, attached.lease, options, interactive, size)?;
    match viewing.view() {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Lost(error)) => Ok(AttachOutcome::Lost(error)),
        Err(Stop::Io(step, errno)) => Err(AttachError::Io(step, errno.into())),
    }
}

/// Why the loop cannot go on.
enum Stop {
    Lost(ConnectionError),
    Io(&'static str, Errno),
}

impl From<ConnectionError> for Stop {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(error)
    }
}

/// How far the picture is that the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Picture {
    /// It is there, or none was begun: the stream goes on.
    Whole,
    /// Bytes were missed and one was asked for: what comes before it means nothing.
    Asked,
    /// This much of it has come.
    Partly { at: u64, bytes: u64 },
}

/// A line of ours over the program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overlay {
    /// What the keys are, and who types.
    Help,
    /// How to leave an agent that has ended.
    Leaves,
}

struct Viewing<'a> {
    connection: Connection,
    interactive: bool,
    forward_interrupts: bool,
    streams: Streams<'a>,
    screen: Screen<'a>,
    picture: Picture,
    input: Option<Endpoint<'a>>,
    matcher: KeyMatcher,
    typing: Typing,
    buffer: Vec<u8>,
    lease: Lease,
    /// It was asked for and will be given: what is typed from now on arrives behind the question.
    taking_over: bool,
    size: Option<TerminalSize>,
    /// What covers a line of the program, until the next key.
    overlay: Option<Overlay>,
    signals: SignalWatch,
    insistence: Insistence,
    outcome: Option<AttachOutcome>,
}

impl<'a> Viewing<'a> {
    fn begin(
        connection: Connection,
        lease: Lease,
        options: AttachOptions<'a>,
        interactive: bool,
        size: Option<TerminalSize>,
    ) -> Result<Self, AttachError> {
        let AttachOptions { keys, forward_interrupts, streams, .. } = options;
        let mut watched = vec![Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
        if interactive {
            watched.extend(TERMINAL);
        }
        let signals =
            SignalWatch::new(&watched).map_err(|error| AttachError::Io("watching signals", error.into()))?;
        let ours = |descriptor, direction| {
            Endpoint::of_caller(descriptor, direction)
                .map_err(|error| AttachError::Io("looking at a standard stream", error.into()))
        };
        let outlet = Outlet::new(ours(streams.output, Direction::Write)?);
        let input = ours(streams.input, Direction::Read)?;
        let screen = if interactive {
            let raw = RawMode::enter(streams.input)
                .map_err(|error| AttachError::Io("making the terminal raw", error.into()))?;
            Screen::terminal(outlet, raw, size.unwrap_or(terminal::FALLBACK_SIZE))
        } else {
            Screen::plain(outlet)
        };
        Ok(Self {
            connection,
            interactive,
            forward_interrupts,
            streams,
            screen,
            picture: Picture::Whole,
            input: Some(input),
            matcher: KeyMatcher::new(keys),
            typing: Typing::default(),
            buffer: Vec::new(),
            lease,
            taking_over: false,
            size,
            overlay: None,
            signals,
            insistence: Insistence::default(),
            outcome: None,
        })
    }

    fn view(&mut self) -> Result<AttachOutcome, Stop> {
        // What came along with `Attached` is in the buffer already and would not wake poll(2).
        self.take_frames()?;
        loop {
            match self.screen.broken() {
                None => {}
                Some(Errno::PIPE) => return Ok(AttachOutcome::Detached),
                // EIO is what a terminal says that is gone.
                Some(Errno::IO) => return Ok(AttachOutcome::Interrupted(Signal::SIGHUP)),
                Some(error) => return Err(Stop::Io("showing the agent's terminal", error)),
            }
            // The last output goes out before the end is told; a detaching person does not wait for it.
            let waits = matches!(self.outcome, Some(AttachOutcome::Ended(_))) && self.screen.is_blocked();
            if let Some(outcome) = self.outcome.take_if(|_| !waits) {
                return Ok(outcome);
            }
            self.step()?;
        }
    }

    fn step(&mut self) -> Result<(), Stop> {
        let ended = self.outcome.is_some();
        let blocked = self.screen.is_blocked();
        let (reads, writes) = (!ended && !blocked, !ended && !self.connection.may_queue());
        // A person who may not type still has keys that mean us; a file waits until its bytes are welcome.
        let types = !ended && !writes && self.input.is_some() && (self.interactive || self.lease.yours);

        let mut interests = Vec::with_capacity(4);
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
        if blocked {
            interests.push(self.screen.interest());
        }
        wait_any(&mut interests, None).map_err(|error| Stop::Io("waiting", error))?;
        let answers: Vec<_> = interests.iter().map(PollFd::revents).collect();
        drop(interests);

        let mut answers = answers.into_iter();
        let mut answered = |asked: bool| asked && answers.next().is_some_and(|flags| !flags.is_empty());
        let signalled = answered(true);
        let (connected, input_came, drained) =
            (answered(reads || writes), answered(types), answered(blocked));
        if drained {
            self.screen.flush();
        }
        if signalled {
            self.handle_signals()?;
        }
        if input_came {
            self.read_input()?;
        }
        if connected {
            self.connection.flush()?;
        }
        if connected && reads {
            if self.connection.fill()? == Filled::End {
                return Err(ConnectionError::Closed(DURING).into());
            }
            self.take_frames()?;
        }
        Ok(())
    }

    /// Takes all frames of the buffer, because one that stays there would not wake poll(2).
    fn take_frames(&mut self) -> Result<(), Stop> {
        while self.outcome.is_none() {
            match self.connection.next()? {
                None => break,
                Some(Incoming::Data { kind: Kind::Terminal, offset, bytes })
                    if self.picture == Picture::Whole =>
                {
                    self.screen.take(offset, bytes)?;
                }
                Some(Incoming::Data { kind: Kind::Terminal, offset, bytes })
                    if self.picture == Picture::Asked =>
                {
                    self.screen.pass(offset, bytes)?;
                }
                Some(Incoming::Data { kind: Kind::Screen, offset, bytes }) => {
                    self.picture = paint(&mut self.screen, self.picture, offset, bytes)?;
                    if self.picture == Picture::Whole {
                        self.show_overlay();
                    }
                }
                Some(Incoming::Data { .. }) => {
                    return Err(ConnectionError::Unexpected { what: "data", during: DURING }.into());
                }
                Some(Incoming::Message(message)) => self.handle_message(message)?,
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, message: ServerMessage) -> Result<(), Stop> {
        match message {
            ServerMessage::Screen { offset, bytes, size: _ }
                if self.interactive && !matches!(self.picture, Picture::Partly { .. }) =>
            {
                self.screen.begin_picture(offset)?;
                self.picture = if bytes > 0 { Picture::Partly { at: 0, bytes } } else { Picture::Whole };
            }
            ServerMessage::Skipped { offset } if !self.interactive => self.screen.continue_at(offset)?,
            ServerMessage::Skipped { offset } if self.screen.is_unpainted() => {
                self.screen.continue_at(offset)?;
                self.picture = Picture::Asked;
                self.repaint()?;
            }
            ServerMessage::Lease(lease) => {
                let gained = lease.yours && !self.lease.yours;
                self.lease = lease;
                self.taking_over &= !lease.yours;
                if gained {
                    // The holder's size counts, and it may have changed while we only watched.
                    self.say_size()?;
                }
                self.show_overlay();
            }
            ServerMessage::SessionStarted(_) => {
                self.overlay.take_if(|overlay| *overlay == Overlay::Leaves);
            }
            ServerMessage::Resized(_) => {}
            ServerMessage::SessionEnded(ended) => self.session_ended(&ended),
            ServerMessage::Failed(failure) => return Err(ConnectionError::Refused(failure).into()),
            other => return Err(unexpected(&other, DURING).into()),
        }
        Ok(())
    }

    /// Whoever watches on a terminal stays for what comes next and reads why; a pipe has its answer with the
    /// exit, unless the agent is started again.
    fn session_ended(&mut self, ended: &SessionEnded) {
        let last = match ended.next {
            Next::End => true,
            Next::Restart { .. } => false,
            Next::Parked { .. } | Next::Exited => !self.interactive,
        };
        if last {
            self.screen.program_ended();
            self.outcome = Some(AttachOutcome::Ended(ended.exit.clone()));
            return;
        }
        let stays = matches!(ended.next, Next::Parked { .. } | Next::Exited);
        if self.screen.is_unpainted() && self.picture == Picture::Whole {
            let mut line = notice::session_ended(ended);
            if stays {
                line.push(' ');
                line.push_str(&notice::leaves(self.matcher.keys()));
            }
            self.screen.say(&line);
        } else if stays {
            // A picture follows that says why.
            self.overlay = Some(Overlay::Leaves);
        }
    }

    fn handle_signals(&mut self) -> Result<(), Stop> {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::SIGWINCH => {
                    self.size = terminal::size(self.streams.output);
                    if let Some(size) = self.size {
                        self.screen.resized(size);
                    }
                    // Without the lease it changes nothing for others, but what is shown is painted anew.
                    self.say_size()?;
                }
                Signal::SIGTSTP => {
                    self.screen.leave();
                    let _never_fails = kill_process(getpid(), rustix::process::Signal::STOP);
                }
                Signal::SIGCONT => {
                    self.screen.return_to();
                    self.repaint()?;
                }
                Signal::SIGINT | Signal::SIGQUIT
                    if self.forward_interrupts
                        && !self.interactive
                        && self.lease.yours
                        && !self.insistence.hears(signal, Instant::now()) =>
                {
                    self.type_bytes(if signal == Signal::SIGINT { b"\x03" } else { b"\x1c" })?;
                }
                signal => {
                    self.outcome = Some(AttachOutcome::Interrupted(signal));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn read_input(&mut self) -> Result<(), Stop> {
        let Some(input) = &self.input else { return Ok(()) };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(INPUT_BYTES, 0);
        let result = input.read(&mut buffer);
        let done = match result {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok(count) if count > 0 && self.interactive => self.handle_keys(&buffer[..count]),
            Ok(count) if count > 0 => self.type_bytes(&buffer[..count]),
            _ if self.interactive => {
                self.outcome = Some(AttachOutcome::Interrupted(Signal::SIGHUP));
                Ok(())
            }
            _ => {
                self.input = None;
                self.type_bytes(self.typing.end())
            }
        };
        self.buffer = buffer;
        done
    }

    fn handle_keys(&mut self, mut input: &[u8]) -> Result<(), Stop> {
        if self.overlay.take().is_some() {
            self.repaint()?;
        }
        while !input.is_empty() {
            let mut typed = Vec::new();
            let action = self.matcher.next(&mut input, &mut typed);
            self.type_bytes(&typed)?;
            match action {
                None => {}
                Some(Action::Detach) => {
                    self.outcome = Some(AttachOutcome::Detached);
                    return Ok(());
                }
                Some(Action::TakeOver) => {
                    self.ask(&ClientMessage::Lease(LeaseAction::TakeOver))?;
                    self.taking_over = true;
                }
                Some(Action::HandOn) => self.ask(&ClientMessage::Lease(LeaseAction::HandOn))?,
                Some(Action::Help) => {
                    self.overlay = Some(Overlay::Help);
                    self.show_overlay();
                }
            }
        }
        Ok(())
    }

    /// Shows our line, if there is one, as it reads now.
    fn show_overlay(&mut self) {
        match self.overlay {
            None => {}
            Some(Overlay::Help) => self.screen.overlay(&notice::help(self.lease)),
            Some(Overlay::Leaves) => self.screen.overlay(&notice::leaves(self.matcher.keys())),
        }
    }

    /// Sends what was typed; without the lease it goes nowhere.
    fn type_bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if (self.lease.yours || self.taking_over) && !bytes.is_empty() {
            self.connection.queue_data(Kind::Terminal, self.typing.advance(bytes), bytes);
            self.connection.flush()?;
        }
        Ok(())
    }

    fn say_size(&mut self) -> Result<(), Stop> {
        match self.size {
            Some(size) => self.ask(&ClientMessage::Resize(size)),
            None => Ok(()),
        }
    }

    /// A size that init knows already asks for a fresh picture.
    fn repaint(&mut self) -> Result<(), Stop> {
        self.say_size()
    }

    fn ask(&mut self, message: &ClientMessage) -> Result<(), Stop> {
        self.connection.queue(message)?;
        Ok(self.connection.flush()?)
    }
}

/// Paints the next piece of a picture; returns what is still to come.
fn paint(
    screen: &mut Screen<'_>,
    picture: Picture,
    offset: u64,
    piece: &[u8],
) -> Result<Picture, ConnectionError> {
    let wrong = ConnectionError::Unexpected { what: "piece of a picture", during: DURING };
    let Picture::Partly { at, bytes } = picture else { return Err(wrong) };
    let come = at + piece.len() as u64;
    if offset != at || come > bytes {
        return Err(wrong);
    }
    screen.show(piece);
    Ok(if come < bytes { Picture::Partly { at: come, bytes } } else { Picture::Whole })
}
