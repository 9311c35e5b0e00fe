//! The control endpoint: one task per connection, one operation per connection.
//!
//! The kernel multiplexes: it gives flow control, a slow client blocks its own task only, and a disconnect
//! cleans up exactly one thing. Tasks ask the loop for everything that starts, signals or ends a process.

mod attach;
mod connection;
mod exec;
mod follow;
mod git;
mod input;
mod pipe;
mod socket;

use std::{
    cell::Cell,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use agent_protocol::{
    Request, ServerMessage,
    failure::{Failure, FailureKind},
    handshake::{Features, HELLO_BYTES, Hello, Token, Verdict, Welcome},
    message::AttachTo,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use self::{
    connection::{Broken, Incoming, Outgoing, split},
    socket::Peer,
};
pub(crate) use self::{
    pipe::{ReadEnd, WriteEnd},
    socket::{Listener, Socket},
};
use crate::{
    machine::clock::Keeper,
    sandbox::{AGENT, Ask, Shared},
    task,
};

/// Connections open at once. Each costs a descriptor, a task and a buffer of at least 4 KiB.
pub(crate) const MAX_CONNECTIONS: u32 = 512;

/// The last of them are kept for short requests, so that `status` and `stop` work when streams use up the rest.
const FOR_SHORT_REQUESTS: u32 = 64;

/// Connections beyond those, which are told that init is busy; any more are closed without a word.
const TOLD_BUSY: u32 = 32;

/// From accept(2) to a whole request: a client of ours sends it at once.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// For the same when init ends.
const LAST_REQUEST_WITHIN: Duration = Duration::from_millis(100);

/// For a reply to go out: a client of ours reads it at once.
const REPLY_WITHIN: Duration = Duration::from_secs(10);

/// For the loop to answer a task. It never waits for anything, so this only shows a fault of ours.
const LOOP_WITHIN: Duration = Duration::from_secs(10);

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Processes that this PID namespace cannot see, which is to say the host (`SO_PEERCRED`, unix(7)).
    OutsideOnly,
    /// Processes of our own user; for init without a PID namespace of its own.
    SameUser,
    /// The host of this machine, context id 2 (vsock(7)).
    HostOnly,
}

/// What every connection's task knows.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) shared: Rc<Shared>,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) token: Token,
    pub(crate) admission: Admission,
    /// The clock of a machine, which is right when the host asks for something.
    pub(crate) clock: Option<Rc<Keeper>>,
}

/// Accepts connections until the task is dropped.
pub(crate) async fn accept_all(server: Server, listener: Listener) {
    // Said once: whoever is inside decides how often it happens, and the log is on the host's disk.
    let mut refused = false;
    loop {
        match listener.accept().await {
            Ok(socket) if !admits(server.admission, &socket) => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!("refused a connection from inside");
                }
            }
            Ok(_) if server.shared.connections.get() >= MAX_CONNECTIONS + TOLD_BUSY => {
                tracing::warn!("closed a connection: too many are open");
            }
            Ok(socket) => {
                if let Some(clock) = &server.clock {
                    clock.compare();
                }
                let (server, open) = (server.clone(), Open::new(&server.shared));
                task::start(async move { serve(server, socket, open).await });
            }
            Err(error) => {
                // Out of descriptors or memory: those that are open go on, new ones wait in the backlog.
                tracing::warn!(%error, "accepting a connection failed, trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admits(admission: Admission, socket: &Socket) -> bool {
    match (admission, socket.peer()) {
        (Admission::OutsideOnly, Some(Peer::Unix { pid, .. })) => pid.is_none(),
        (Admission::SameUser, Some(Peer::Unix { uid, .. })) => uid == rustix::process::geteuid().as_raw(),
        (Admission::HostOnly, Some(Peer::Vsock { cid })) => cid == 2,
        _ => false,
    }
}

/// Counts an open connection for as long as it lives.
struct Open(Rc<Shared>);

impl Open {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.connections.set(shared.connections.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open: &Cell<u32> = &self.0.connections;
        open.set(open.get().saturating_sub(1));
        self.0.connection_closed.notify_waiters();
    }
}

/// One connection from its first byte to its last.
async fn serve(server: Server, socket: Socket, _open: Open) {
    let busy = server.shared.connections.get() > MAX_CONNECTIONS;
    let mut ending = server.shared.ending.subscribe();
    let descriptors =
        if matches!(server.admission, Admission::HostOnly) { Features(0) } else { Features::DESCRIPTORS };
    let features = descriptors.with(Features::INPUT_WINDOW);
    let mut opening = pin!(timeout(REQUEST_WITHIN, open(&server.token, busy, features, socket)));
    let opened = tokio::select! {
        biased;
        opened = &mut opening => opened,
        // What was asked for just now, such as the last events, is still answered; who asks for nothing is not waited for.
        _ = ending.wait_for(|ending| *ending) => match timeout(LAST_REQUEST_WITHIN, opening).await {
            Ok(opened) => opened,
            Err(_) => return,
        },
    };
    let Ok(Some((request, mut incoming, outgoing, features))) = opened else { return };
    let outcome = match request {
        Ok(request) => dispatch(&server, request, features, &mut incoming, &outgoing).await,
        Err(Broken::Gone) => return,
        Err(Broken::Nonsense(failure)) => Err(failure),
    };
    if let Err(failure) = outcome {
        reply(&outgoing, &ServerMessage::Failed(failure)).await;
    }
}

type Opened = (Result<Request, Broken>, Incoming, Outgoing, Features);

/// Handshake and request.
async fn open(token: &Token, busy: bool, features: Features, socket: Socket) -> Option<Opened> {
    let mut bytes = [0; HELLO_BYTES];
    socket.read_exact(&mut bytes).await.ok()?;
    let hello = Hello::decode(&bytes).ok()?;
    let features = features.overlap(hello.features);
    let mut welcome = Welcome::answer(&hello, token, features);
    if busy && welcome.verdict == Verdict::Welcome {
        welcome.verdict = Verdict::Busy;
    }
    socket.write_all(&mut [std::io::IoSlice::new(&welcome.encode())]).await.ok()?;
    if welcome.verdict != Verdict::Welcome {
        return None;
    }
    let (mut incoming, outgoing) = split(socket);
    let request = incoming.request().await;
    Some((request, incoming, outgoing, features))
}

/// Runs the operation. An error is what the client is told last.
async fn dispatch(
    server: &Server,
    request: Request,
    features: Features,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    let is_stream = matches!(
        request,
        Request::Exec(_)
            | Request::ExecWait(_)
            | Request::Attach(_)
            | Request::AttachTo(_)
            | Request::Events(_)
            | Request::Log(_)
            | Request::Git(_)
    );
    if is_stream && server.shared.connections.get() > MAX_CONNECTIONS - FOR_SHORT_REQUESTS {
        return Err(Failure::new(FailureKind::Busy, "too many connections are open"));
    }
    match request {
        Request::Ping => {
            reply(outgoing, &ServerMessage::Pong).await;
            Ok(())
        }
        Request::Status => {
            let status = server.ask(Ask::Status).await?;
            reply(outgoing, &ServerMessage::Status(Box::new(status))).await;
            Ok(())
        }
        Request::Resources => {
            let resources = server.ask(Ask::Resources).await?;
            reply(outgoing, &ServerMessage::Resources(resources)).await;
            Ok(())
        }
        Request::Exec(request) => exec::run(server, (request, None), features, incoming, outgoing).await,
        Request::ExecWait(exec) => exec::wait(server, exec, incoming, outgoing).await,
        Request::ExecSignal { exec, signal } => {
            server.done(outgoing, |reply| Ask::ExecSignal { exec, signal, reply }).await
        }
        Request::Attach(attach) => {
            let main = AttachTo { unit: AGENT.to_owned(), attach };
            attach::run(server, &main, incoming, outgoing).await
        }
        Request::AttachTo(request) => attach::run(server, &request, incoming, outgoing).await,
        Request::Events(request) => follow::events(server, request, incoming, outgoing).await,
        Request::Log(request) => follow::log(server, request, incoming, outgoing).await,
        Request::Git(request) => {
            let _place = git::Place::take(&server.shared.git_runs)?;
            let [first, other] = git::commands(&request);
            let client = incoming.hand_over()?;
            match exec::run(server, (first, Some(client)), features, incoming, outgoing).await {
                Err(failure) if failure.kind == FailureKind::NotFound => {
                    let client = incoming.hand_over()?;
                    exec::run(server, (other, Some(client)), features, incoming, outgoing).await
                }
                ended => ended,
            }
        }
        Request::RestartAgent => server.done(outgoing, Ask::RestartAgent).await,
        Request::RestartUnit { name } => {
            server.done(outgoing, |reply| Ask::RestartUnit { name, reply }).await
        }
        Request::AddAgent(request) => server.done(outgoing, |reply| Ask::AddAgent { request, reply }).await,
        Request::RemoveAgent { name, force } => {
            let removed = server.ask(|reply| Ask::RemoveAgent { name, force, reply }).await??;
            // As long as the agent's own grace, and longer where the kernel holds on to it.
            tokio::select! {
                removed = removed => match removed {
                    Ok(()) => reply(outgoing, &ServerMessage::Done).await,
                    Err(_) => return Err(Failure::new(FailureKind::Stopping, "the sandbox has ended")),
                },
                gone = incoming.until_gone() => return gone,
            }
            Ok(())
        }
        Request::SignalAgent { signal } => {
            server.done(outgoing, |reply| Ask::SignalAgent { signal, reply }).await
        }
        Request::Stop { force } => {
            server.done(outgoing, |reply| Ask::Stop { force, reply }).await?;
            // Kept open to the end: its end is the news that init is gone.
            let waiting = &server.shared.wait_for_the_end;
            waiting.set(waiting.get() + 1);
            // Whoever waits for the others to close counts them anew.
            server.shared.connection_closed.notify_waiters();
            let gone = incoming.until_gone().await;
            waiting.set(waiting.get() - 1);
            gone
        }
    }
}

impl Server {
    /// Asks the loop and waits for its answer.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.wait(ask(reply), answer).await
    }

    // Apart from `ask`, so that there is one of it for each kind of answer and not for each question.
    async fn wait<T>(&self, ask: Ask, answer: oneshot::Receiver<T>) -> Result<T, Failure> {
        let asked = async {
            self.asks.send(ask).await.ok()?;
            answer.await.ok()
        };
        match timeout(LOOP_WITHIN, asked).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) if self.asks.is_closed() => {
                Err(Failure::new(FailureKind::Stopping, "the sandbox has ended"))
            }
            // The loop goes on, so it was this question that it could not answer.
            Ok(None) => Err(Failure::new(FailureKind::Internal, "init met a fault of its own")),
            Err(_) => Err(Failure::new(FailureKind::Deadline, "init did not answer itself in time")),
        }
    }

    /// Asks for something that is answered with `Done`.
    fn done<'a>(
        &'a self,
        outgoing: &'a Outgoing,
        ask: impl FnOnce(oneshot::Sender<Result<(), Failure>>) -> Ask,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>> {
        let (reply, answer) = oneshot::channel();
        self.finish(outgoing, ask(reply), answer)
    }

    // Apart from `done` for the same reason, and in a box: whoever waits for it would have a copy of it.
    fn finish<'a>(
        &'a self,
        outgoing: &'a Outgoing,
        ask: Ask,
        answer: oneshot::Receiver<Result<(), Failure>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>> {
        Box::pin(async move {
            self.wait(ask, answer).await??;
            reply(outgoing, &ServerMessage::Done).await;
            Ok(())
        })
    }
}

/// Sends the last message of a connection; a client that does not take it in time misses it.
async fn reply(outgoing: &Outgoing, message: &ServerMessage) {
    if !matches!(timeout(REPLY_WITHIN, outgoing.message(message)).await, Ok(Ok(()))) {
        tracing::debug!("a client did not take its reply");
    }
}

#[cfg(test)]
mod tests;
