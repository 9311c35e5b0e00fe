//! One command for one client.

use std::{
    cell::Cell,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use agent_protocol::{
    ClientMessage, ServerMessage,
    exit::ExitRecord,
    failure::{Failure, FailureKind},
    frame::Kind,
    handshake::Features,
    message::{ExecExited, ExecId, ExecRequest, ExecStarted, INPUT_WINDOW_BYTES, Stdio},
};
use tokio::sync::watch;

use super::{
    Server,
    connection::{Broken, Incoming, Outgoing, Received},
    git,
    input::Input,
    pipe::ReadEnd,
    reply,
};
use crate::{
    sandbox::{Ask, Ends, StartedExec},
    session::pty::Master,
};

/// Bytes read from a command at a time: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// What is still read of a stream once the command has ended. No pipe holds more; what comes behind it is of a
/// background process, which may go on for ever.
const LAST_BYTES: usize = 1024 * 1024;

/// The exit of a command, once it is there.
type Exit = watch::Receiver<Option<ExitRecord>>;

/// Starts a command and carries its streams until it ends or its client goes.
pub(super) async fn run(
    server: &Server,
    (request, git): (ExecRequest, Option<OwnedFd>),
    features: Features,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    if request.stdio == Stdio::Descriptors && !features.has(Features::DESCRIPTORS) {
        return Err(Failure::new(FailureKind::Unsupported, "descriptors cannot travel over this connection"));
    }
    let asked = server.ask(|reply| Ask::Exec { request: Box::new(request), git, reply }).await;
    let StartedExec { id, pid, ends, exit } =
        asked.and_then(|started| started).inspect_err(|_| incoming.take_back())?;
    let client = ClientGone { server, exec: id, disarmed: Cell::new(false) };
    let started = ServerMessage::ExecStarted(ExecStarted { exec: id, pid });
    let sent = match &ends {
        Ends::Handed { stdin, stdout, stderr } => {
            let fds: Vec<_> = stdin.iter().chain([stdout, stderr]).map(AsFd::as_fd).collect();
            outgoing.message_with_fds(&started, &fds).await
        }
        // The connection is git's.
        Ends::Git { .. } => Ok(()),
        Ends::Detached | Ends::Pipes { .. } | Ends::Terminal(_) => outgoing.message(&started).await,
    };
    if sent.is_err() {
        return Ok(());
    }
    let finished = match ends {
        Ends::Detached => {
            client.disarmed.set(true);
            return Ok(());
        }
        Ends::Git { errors } => {
            let mut exit = exit;
            let exit = tokio::select! {
                exit = ended(&mut exit) => exit,
                () = incoming.closed() => None,
            };
            if let Some(exit) = exit {
                client.disarmed.set(true);
                git::ended(&exit, &errors, incoming);
            }
            return Ok(());
        }
        // Ours are closed here: the command must see the end when its client is the last to close.
        Ends::Handed { stdin, stdout, stderr } => {
            drop((stdin, stdout, stderr));
            watched(server, id, incoming, exit).await
        }
        Ends::Pipes { stdin, stdout, stderr } => {
            let input = (Input::new(stdin), features.has(Features::INPUT_WINDOW));
            framed(server, id, incoming, outgoing, (input, stdout, stderr), exit).await
        }
        Ends::Terminal(master) => on_terminal(server, id, incoming, outgoing, Rc::new(master), exit).await,
    };
    if let Some(exit) = finished? {
        client.disarmed.set(true);
        // The last piece of a stream, behind output that a client may take as slowly as it likes.
        let _ = outgoing.message(&ServerMessage::ExecExited(ExecExited { exec: id, exit })).await;
    }
    Ok(())
}

/// Waits for a command that another connection started.
pub(super) async fn wait(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    let mut exit = server.ask(|reply| Ask::ExecWait { exec, reply }).await??;
    let ended = tokio::select! {
        exit = ended(&mut exit) => exit,
        _ = incoming.next() => return Ok(()),
    };
    if let Some(exit) = ended {
        reply(outgoing, &ServerMessage::ExecExited(ExecExited { exec, exit })).await;
    }
    Ok(())
}

/// Tells the loop that a command's client has gone, however the task ends.
struct ClientGone<'a> {
    server: &'a Server,
    exec: ExecId,
    disarmed: Cell<bool>,
}

impl Drop for ClientGone<'_> {
    fn drop(&mut self) {
        if !self.disarmed.get() {
            self.server.shared.abandoned_execs.borrow_mut().push(self.exec);
            self.server.shared.loop_wanted.notify_one();
        }
    }
}

async fn ended(exit: &mut Exit) -> Option<ExitRecord> {
    exit.wait_for(Option::is_some).await.ok()?.clone()
}

/// The client has the pipes; here pass only its signals.
async fn watched(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    mut exit: Exit,
) -> Result<Option<ExitRecord>, Failure> {
    let signals = async {
        loop {
            match incoming.next().await {
                Ok(Received::Message(ClientMessage::Signal(signal))) => {
                    pass_signal(server, exec, signal).await;
                }
                Ok(Received::Message(_)) => {}
                Ok(Received::Data { .. }) => return Err(out_of_place()),
                Err(Broken::Gone) => return Ok(()),
                Err(Broken::Nonsense(failure)) => return Err(failure),
            }
        }
    };
    tokio::select! {
        exit = ended(&mut exit) => Ok(exit),
        gone = signals => gone.map(|()| None),
    }
}

/// Everything passes through this connection.
async fn framed(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
    ((input, windowed), stdout, stderr): ((Input, bool), ReadEnd, ReadEnd),
    exit: Exit,
) -> Result<Option<ExitRecord>, Failure> {
    let mut last = exit.clone();
    let (taken, told) = watch::channel(0);
    let output = async {
        let carried = tokio::try_join!(
            pump(&stdout, Kind::Stdout, outgoing, exit.clone()),
            pump(&stderr, Kind::Stderr, outgoing, exit.clone()),
            tell_taken(told, outgoing, exit),
        );
        match carried {
            Ok(_) => ended(&mut last).await,
            Err(_) => None,
        }
    };
    tokio::select! {
        exit = output => Ok(exit),
        gone = feed(server, exec, incoming, input, windowed.then_some(taken)) => gone.map(|()| None),
    }
}

/// Tells the client what was taken of its input, now and then until the command ends. By itself: only output that the client does not
/// read keeps this back.
async fn tell_taken(
    mut taken: watch::Receiver<u64>,
    outgoing: &Outgoing,
    mut exit: Exit,
) -> std::io::Result<()> {
    let mut told = 0;
    loop {
        let next = |taken: &u64| *taken >= told + INPUT_WINDOW_BYTES / 4;
        let now = tokio::select! {
            now = taken.wait_for(next) => now.map(|now| *now),
            _ = exit.wait_for(Option::is_some) => return Ok(()),
        };
        // Nobody is to be told.
        let Ok(now) = now else { return Ok(()) };
        told = now;
        outgoing.message(&ServerMessage::InputTaken(told)).await?;
    }
}

/// Bytes and messages of the client, until it goes. What was taken of its input shows in `taken`; without that, it is kept back by
/// not being read.
async fn feed(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    mut input: Input,
    taken: Option<watch::Sender<u64>>,
) -> Result<(), Failure> {
    loop {
        if let Some(taken) = &taken {
            taken.send_replace(input.taken());
        }
        let received = if taken.is_none() && input.waits() {
            tokio::select! {
                () = input.hand_on() => continue,
                () = incoming.closed() => return Ok(()),
            }
        } else {
            tokio::select! {
                () = input.hand_on(), if input.waits() => None,
                received = incoming.next() => Some(received),
            }
        };
        let Some(received) = received else { continue };
        match received {
            Ok(Received::Data { kind: Kind::Stdin, offset, bytes }) => input.add(offset, bytes)?,
            Ok(Received::Data { .. }) => return Err(out_of_place()),
            Ok(Received::Message(ClientMessage::StdinEnd)) => input.end(),
            Ok(Received::Message(ClientMessage::Signal(signal))) => pass_signal(server, exec, signal).await,
            Ok(Received::Message(ClientMessage::Resize(_) | ClientMessage::Lease(_))) => {}
            Err(Broken::Gone) => return Ok(()),
            Err(Broken::Nonsense(failure)) => return Err(failure),
        }
    }
}

/// One output stream, until it ends or the command has ended and nothing is left of it.
async fn pump(pipe: &ReadEnd, kind: Kind, outgoing: &Outgoing, mut exit: Exit) -> std::io::Result<()> {
    let mut buf = vec![0; CHUNK_BYTES];
    let (mut offset, mut left) = (0, LAST_BYTES);
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = pipe.read(&mut buf) => read?,
            _ = exit.wait_for(Option::is_some) => match pipe.read_now(&mut buf)? {
                Some(read) => read,
                None => return Ok(()),
            },
        };
        if read == 0 {
            return Ok(());
        }
        outgoing.data(kind, offset, &buf[..read]).await?;
        offset += read as u64;
        if exit.borrow().is_some() {
            left = left.saturating_sub(read);
        }
    }
    Ok(())
}

/// A terminal of the command's own.
async fn on_terminal(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
    master: Rc<Master>,
    exit: Exit,
) -> Result<Option<ExitRecord>, Failure> {
    let mut last = exit.clone();
    let output = async {
        match show(&master, outgoing, exit).await {
            Ok(()) => ended(&mut last).await,
            Err(_) => None,
        }
    };
    tokio::select! {
        exit = output => Ok(exit),
        gone = type_in(server, exec, incoming, &master) => gone.map(|()| None),
    }
}

async fn show(master: &Master, outgoing: &Outgoing, mut exit: Exit) -> std::io::Result<()> {
    let mut buf = vec![0; CHUNK_BYTES];
    let (mut offset, mut left) = (0, LAST_BYTES);
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = master.read(&mut buf) => read?,
            _ = exit.wait_for(Option::is_some) => match master.read_now(&mut buf)? {
                Some(read) => read,
                None => return Ok(()),
            },
        };
        if read == 0 {
            return Ok(());
        }
        outgoing.data(Kind::Terminal, offset, &buf[..read]).await?;
        offset += read as u64;
        if exit.borrow().is_some() {
            left = left.saturating_sub(read);
        }
    }
    Ok(())
}

async fn type_in(
    server: &Server,
    exec: ExecId,
    incoming: &mut Incoming,
    master: &Master,
) -> Result<(), Failure> {
    loop {
        match incoming.next().await {
            Ok(Received::Data { kind: Kind::Terminal, bytes, .. }) => {
                tokio::select! {
                    // A terminal that nobody has open any more swallows what is typed.
                    _ = master.write_all(&bytes) => {}
                    () = incoming.closed() => return Ok(()),
                }
            }
            Ok(Received::Data { .. }) => return Err(out_of_place()),
            Ok(Received::Message(ClientMessage::Resize(size))) => {
                if let Err(error) = master.resize(size) {
                    tracing::warn!(%error, "resizing the terminal of a command");
                }
            }
            Ok(Received::Message(ClientMessage::Signal(signal))) => pass_signal(server, exec, signal).await,
            Ok(Received::Message(ClientMessage::StdinEnd | ClientMessage::Lease(_))) => {}
            Err(Broken::Gone) => return Ok(()),
            Err(Broken::Nonsense(failure)) => return Err(failure),
        }
    }
}

/// A signal that cannot be sent is not the end of the command.
async fn pass_signal(server: &Server, exec: ExecId, signal: i32) {
    match server.ask(|reply| Ask::ExecSignal { exec, signal, reply }).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) | Err(failure) => tracing::debug!(%failure, "passing a signal"),
    }
}

fn out_of_place() -> Failure {
    Failure::new(FailureKind::BadRequest, "bytes for a stream that this operation does not have")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use agent_protocol::exit::{How, KilledBy};

    use super::*;
    use crate::server::{Socket, connection::split};

    #[test]
    fn a_background_process_that_writes_for_ever_does_not_keep_the_exit_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (socket, mut client) = Socket::with_client();
            client.set_nonblocking(true).unwrap();
            let (_, outgoing) = split(socket);
            // The socket is full before the pipe is empty, so there always is more to come.
            let (reader, writer) = std::io::pipe().unwrap();
            rustix::pipe::fcntl_setpipe_size(&writer, LAST_BYTES).unwrap();
            rustix::io::ioctl_fionbio(&writer, true).unwrap();
            let reader = ReadEnd::new(reader.into()).unwrap();
            // Whoever of both is asked first below.
            while (&writer).write(&vec![0; CHUNK_BYTES]).is_ok() {}
            let came = Cell::new(0);
            let for_ever = async {
                let mut buf = vec![0; CHUNK_BYTES];
                loop {
                    while (&writer).write(&buf).is_ok() {}
                    while let Ok(read) = client.read(&mut buf) {
                        came.set(came.get() + read);
                    }
                    assert!(came.get() < LAST_BYTES * 4, "it goes on for ever");
                    tokio::task::yield_now().await;
                }
            };
            let exit = ExitRecord {
                how: How::Code(0),
                core_dumped: false,
                killed_by: KilledBy::Itself,
                limit: None,
                output_truncated: false,
                ran_ms: 1,
                at_unix_ms: 1,
            };
            let (_told, exit) = watch::channel(Some(exit));
            tokio::select! {
                ended = pump(&reader, Kind::Stdout, &outgoing, exit) => ended.unwrap(),
                () = for_ever => {}
            }
            assert!(came.get() > LAST_BYTES / 2);
        });
    }
}
