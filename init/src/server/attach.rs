//! One viewer of an agent's terminal.

use std::time::Duration;

use agent_protocol::{
    ClientMessage, ServerMessage,
    failure::{Failure, FailureKind},
    frame::{Kind, MAX_DATA},
    message::{AttachTo, Next, ViewerId, What},
};

use tokio::time::{sleep, timeout};

use super::{
    Server,
    connection::{Broken, Incoming, Outgoing, Received},
};
use crate::{
    journal::unix_ms,
    sandbox::{Ask, Shared},
    session::{
        Session,
        terminal::{Cursor, Notice, Step, Terminal},
    },
};

/// Bytes sent to a viewer at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Shortest time between two pictures for a viewer that gets nothing else.
const EXCERPT_PAUSE: Duration = Duration::from_millis(25);

/// How long a program may take to read what a viewer typed that has left since.
const LAST_TYPED_PATIENCE: Duration = Duration::from_secs(1);

/// Shows the terminal and takes what is typed, until the viewer goes, the agent is removed or the sandbox ends.
pub(super) async fn run(
    server: &Server,
    request: &AttachTo,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    let AttachTo { unit, attach } = request;
    let Some(session) = server.shared.session(unit) else {
        return Err(Failure::new(FailureKind::Unknown, format!("there is no agent `{unit}`")));
    };
    let seat = Seat { shared: &server.shared, session: &session };
    let entered = seat.change(|terminal| terminal.attach(attach));
    let Some((cursor, attached)) = entered else {
        return Err(Failure::new(FailureKind::Busy, "too many viewers are attached"));
    };
    let viewer = attached.viewer;
    let _leaves = Leaves { seat, viewer };
    seat.tell(What::ViewerAttached { viewer });
    session.apply_size();
    if outgoing.message(&ServerMessage::Attached(attached)).await.is_err() {
        return Ok(());
    }
    let mut input = std::pin::pin!(take_input(seat, viewer, incoming));
    tokio::select! {
        shown = show(server, &session, viewer, cursor, outgoing) => match shown {
            Ok(()) => Ok(()),
            // Where the viewer is gone there is nobody left to tell, but what it typed before that counts.
            Err(_) => input.await,
        },
        typed = &mut input => typed,
    }
}

/// A terminal, and where its viewers are told of.
#[derive(Clone, Copy)]
struct Seat<'a> {
    shared: &'a Shared,
    session: &'a Session,
}

impl Seat<'_> {
    /// Does something that may hand the lease on, and tells of it.
    fn change<T>(self, work: impl FnOnce(&mut Terminal) -> T) -> T {
        let (result, before, after) = {
            let mut terminal = self.session.terminal.borrow_mut();
            let before = terminal.lease();
            (work(&mut terminal), before, terminal.lease())
        };
        if after != before {
            self.tell(What::LeaseChanged { holder: after });
        }
        result
    }

    /// These events name no unit, so only the main agent's are told.
    fn tell(self, what: What) {
        if std::ptr::eq(self.session, &raw const *self.shared.main) {
            self.shared.journal.borrow_mut().add(unix_ms(), what);
        }
    }
}

/// Lets go of everything that a viewer held, however its task ends.
struct Leaves<'a> {
    seat: Seat<'a>,
    viewer: ViewerId,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.seat.change(|terminal| terminal.detach(self.viewer));
        self.seat.session.apply_size();
        self.seat.tell(What::ViewerDetached { viewer: self.viewer });
    }
}

async fn show(
    server: &Server,
    session: &Session,
    viewer: ViewerId,
    mut cursor: Cursor,
    outgoing: &Outgoing,
) -> std::io::Result<()> {
    let changed = session.terminal.borrow().changed();
    let mut ending = server.shared.ending.subscribe();
    let mut bytes = Vec::new();
    loop {
        let woken = changed.notified();
        let is_over = *ending.borrow_and_update() || session.is_closed();
        bytes.clear();
        let step = session.terminal.borrow_mut().step(&mut cursor, CHUNK_BYTES, &mut bytes);
        match step {
            Step::Bytes { offset } => outgoing.data(Kind::Terminal, offset, &bytes).await?,
            Step::Picture { offset, picture, size, excerpt } => {
                let length = picture.len() as u64;
                outgoing.message(&ServerMessage::Screen { offset, bytes: length, size }).await?;
                let mut at = 0;
                for piece in picture.chunks(MAX_DATA) {
                    outgoing.data(Kind::Screen, at, piece).await?;
                    at += piece.len() as u64;
                }
                if excerpt {
                    sleep(EXCERPT_PAUSE).await;
                }
            }
            Step::Skipped { offset } => outgoing.message(&ServerMessage::Skipped { offset }).await?,
            Step::Notice(notice) => {
                let is_last = matches!(&notice, Notice::Ended(ended) if ended.next == Next::End);
                outgoing.message(&tell(session, viewer, notice)).await?;
                if is_last && std::ptr::eq(session, &raw const *server.shared.main) {
                    // Init waits with its end until somebody knows; where the loop is gone, so has it.
                    let _ = server.asks.send(Ask::ViewerSawExit).await;
                }
            }
            // It was over before we looked for more: nothing was missed.
            Step::Wait if is_over => return Ok(()),
            Step::Wait => tokio::select! {
                // The last words come first: both may be true by the time that this task has its turn.
                biased;
                () = woken => {}
                _ = ending.wait_for(|ending| *ending) => {}
            },
        }
    }
}

fn tell(session: &Session, viewer: ViewerId, notice: Notice) -> ServerMessage {
    match notice {
        Notice::Lease(_) => ServerMessage::Lease(session.terminal.borrow().lease_for(viewer)),
        Notice::Resized(size) => ServerMessage::Resized(size),
        Notice::Ended(ended) => ServerMessage::SessionEnded(ended),
        Notice::Started(started) => ServerMessage::SessionStarted(started),
    }
}

async fn take_input(seat: Seat<'_>, viewer: ViewerId, incoming: &mut Incoming) -> Result<(), Failure> {
    let session = seat.session;
    loop {
        match incoming.next().await {
            Ok(Received::Data { kind: Kind::Terminal, bytes, .. }) => {
                if session.terminal.borrow().lease() != Some(viewer) {
                    continue;
                }
                let Some(master) = session.master() else { continue };
                let mut typed = std::pin::pin!(master.write_all(&bytes));
                tokio::select! {
                    _ = &mut typed => {}
                    // The program ended while it was typed to; the next one starts with an empty line.
                    () = session.master_changed.notified() => {}
                    () = incoming.closed() => {
                        if timeout(LAST_TYPED_PATIENCE, typed).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            Ok(Received::Data { .. }) => {
                return Err(Failure::new(FailureKind::BadRequest, "a viewer types on its terminal only"));
            }
            Ok(Received::Message(ClientMessage::Resize(size))) => {
                session.terminal.borrow_mut().viewer_resized(viewer, size);
                session.apply_size();
            }
            Ok(Received::Message(ClientMessage::Lease(action))) => {
                seat.change(|terminal| terminal.change_lease(viewer, action));
                session.apply_size();
            }
            Ok(Received::Message(ClientMessage::StdinEnd | ClientMessage::Signal(_))) => {}
            Err(Broken::Gone) => return Ok(()),
            Err(Broken::Nonsense(failure)) => return Err(failure),
        }
    }
}
