//! Git's pack protocol with a repository inside: a request, and then bytes that are git's alone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use agent_protocol::{Request, frame::Kind, message::GitRequest};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{RecvFlags, SendFlags},
};

use super::{
    Connection, ConnectionError,
    endpoint::{Direction, Endpoint, Nature},
    entrusted::Stream,
    error::io_error,
    interrupt::{Interrupt, wait_for},
    operations::unexpected,
    wait::wait_any,
};

/// Bytes on their way in one direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// A stream whose other end speaks git's pack protocol.
#[derive(Debug)]
pub struct GitStream {
    socket: Stream,
    interrupt: Option<Interrupt>,
}

/// Git, asked for and not heard of yet: it may work while we do something else.
#[derive(Debug)]
pub struct Asked(Connection);

/// Asks init for git.
pub fn ask(mut connection: Connection, request: GitRequest) -> Result<Asked, ConnectionError> {
    connection.request(&Request::Git(request))?;
    Ok(Asked(connection))
}

impl Asked {
    /// The stream, once git has said its first byte. In its place init may refuse: no packet of git's begins as a
    /// frame does.
    pub fn stream(self, deadline: Instant) -> Result<GitStream, ConnectionError> {
        self.stream_unless(deadline, None)
    }

    /// The same, unless it is called off first.
    pub fn stream_unless(
        mut self,
        deadline: Instant,
        interrupt: Option<&Interrupt>,
    ) -> Result<GitStream, ConnectionError> {
        const DURING: &str = "asking for its git";
        let mut first = [0];
        loop {
            match rustix::net::recv(self.0.as_fd(), &mut first, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(ConnectionError::Closed(DURING)),
                Ok(_) if first[0] == Kind::Message as u8 => {
                    let message = self.0.recv_message(DURING, Some(deadline))?;
                    return Err(unexpected(&message, DURING));
                }
                Ok(_) => return Ok(GitStream::of(self.0.into_stream()).interrupted_by(interrupt)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let in_time = wait_for(self.0.as_fd(), PollFlags::IN, Some(deadline), interrupt);
                    if !in_time.map_err(io_error(DURING))? {
                        return Err(ConnectionError::Deadline(DURING));
                    }
                }
                Err(error) => return Err(io_error(DURING)(error)),
            }
        }
    }
}

impl GitStream {
    /// A stream to somebody else who speaks the protocol; the socket does not wait.
    pub fn over(socket: OwnedFd) -> Self {
        Self::of(socket.into())
    }

    fn of(socket: Stream) -> Self {
        Self { socket, interrupt: None }
    }

    /// The same, whose waits end when it is called off.
    pub fn interrupted_by(self, interrupt: Option<&Interrupt>) -> Self {
        Self { interrupt: interrupt.cloned(), ..self }
    }

    /// Reads what is there, at least one byte; 0 is the end. Waits until `deadline`.
    pub fn read(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.socket, &mut *into, RecvFlags::DONTWAIT) {
                Ok((_, count)) => return Ok(count),
                // Whoever has gone without reading all that we said has ended as well.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes all of `bytes`, or fails at `deadline`.
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        let in_time = wait_for(self.socket.as_fd(), flags, Some(deadline), self.interrupt.as_ref())?;
        if in_time { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Carries bytes both ways between the stream and the caller's standard input and output, until the stream
    /// ends or nobody reads the output any more. The end of the input is not passed on: to init it would mean that
    /// we have gone, and git knows from what was said when all was said.
    ///
    /// Fails where for `patience` nothing came from either side.
    pub fn relay(self, input: BorrowedFd<'_>, output: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
        let input = Endpoint::of_caller(input, Direction::Read)?;
        let output = Endpoint::of_caller(output, Direction::Write)?;
        let (mut inwards, mut outwards) = (Flow::default(), Flow::default());
        let socket = self.socket.as_fd();
        loop {
            let mut moved = inwards.turn(
                |into| input.read(into),
                |bytes| rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            )?;
            moved |= outwards.turn(
                |into| rustix::net::recv(socket, into, RecvFlags::DONTWAIT).map(|(_, count)| count),
                |bytes| output.write(bytes),
            )?;
            if (outwards.ended && outwards.is_empty()) || outwards.nobody_reads {
                return Ok(());
            }
            if moved {
                continue;
            }
            let mut fds = Vec::with_capacity(3);
            inwards.wants(input.as_fd(), PollFlags::IN, &mut fds);
            let towards = |flow: &Flow| if flow.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            let from = if outwards.is_empty() { PollFlags::IN } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(socket, from | towards(&inwards)));
            // Without events too, for the moment when nobody reads it any more.
            if !outwards.is_empty() || output.nature() == Nature::Pipe {
                fds.push(PollFd::from_borrowed_fd(output.as_fd(), towards(&outwards)));
            }
            if !wait_any(&mut fds, Some(Instant::now() + patience))? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let last = fds.last().map_or(PollFlags::empty(), PollFd::revents);
            if fds.len() > 1 && outwards.is_empty() && last.contains(PollFlags::ERR) && inwards.ended {
                return Ok(());
            }
        }
    }
}

/// Bytes that go one way.
#[derive(Default)]
struct Flow {
    buffer: Vec<u8>,
    written: usize,
    ended: bool,
    nobody_reads: bool,
}

impl Flow {
    fn is_empty(&self) -> bool {
        self.written == self.buffer.len()
    }

    fn wants<'fd>(&self, source: BorrowedFd<'fd>, flags: PollFlags, fds: &mut Vec<PollFd<'fd>>) {
        if self.is_empty() && !self.ended {
            fds.push(PollFd::from_borrowed_fd(source, flags));
        }
    }

    /// Moves what can be moved without waiting; whether something was.
    fn turn(
        &mut self,
        read: impl Fn(&mut [u8]) -> Result<usize, Errno>,
        write: impl Fn(&[u8]) -> Result<usize, Errno>,
    ) -> io::Result<bool> {
        let mut moved = false;
        if self.is_empty() && !self.ended {
            self.buffer.resize(BUFFER_BYTES, 0);
            self.written = 0;
            match read(&mut self.buffer) {
                Ok(0) | Err(Errno::CONNRESET) => {
                    self.ended = true;
                    self.buffer.clear();
                }
                Ok(count) => {
                    self.buffer.truncate(count);
                    moved = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => self.buffer.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        while !self.is_empty() {
            match write(&self.buffer[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    moved = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    (self.nobody_reads, self.ended) = (true, true);
                    self.written = self.buffer.len();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        thread,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn bytes_pass_both_ways_and_the_end_of_the_input_does_not_end_the_answer() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (input, mut fed) = io::pipe().unwrap();
        let (mut shown, output) = io::pipe().unwrap();
        let relay = thread::spawn(move || {
            let stream = GitStream::over(ours.into());
            stream.relay(input.as_fd(), output.as_fd(), PATIENCE)
        });
        fed.write_all(b"question").unwrap();
        drop(fed);
        let mut question = [0; 8];
        theirs.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        let answer = vec![b'x'; 1 << 20];
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            shown.read_to_end(&mut all).unwrap();
            all
        });
        theirs.write_all(&answer).unwrap();
        drop(theirs);
        relay.join().unwrap().unwrap();
        let all = reader.join().unwrap();
        assert_eq!(all, answer);
    }

    #[test]
    fn nobody_is_left_waiting_when_whoever_asked_has_gone() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (input, fed) = io::pipe().unwrap();
        let (shown, output) = io::pipe().unwrap();
        drop((fed, shown));
        GitStream::over(ours.into()).relay(input.as_fd(), output.as_fd(), PATIENCE).unwrap();
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = GitStream::over(ours.into());
        let error = stream.read(&mut [0; 8], Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
