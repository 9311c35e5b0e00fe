//! Streams that a client only reads: events and logs.

use agent_protocol::{
    ServerMessage,
    failure::{Failure, FailureKind},
    frame::Kind,
    message::{EventsRequest, LogFrom, LogRequest},
};
use tokio::{sync::watch, task::yield_now};

use super::{
    Server,
    connection::{Incoming, Outgoing},
};
use crate::sandbox::{Log, Shared};

/// Bytes of a log sent at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Sends events, kept ones first.
pub(super) async fn events(
    server: &Server,
    request: EventsRequest,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    until_gone(incoming, send_events(&server.shared, request, outgoing)).await
}

/// Sends a unit's output, kept bytes first.
pub(super) async fn log(
    server: &Server,
    request: LogRequest,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), Failure> {
    let Some(log) = server.shared.log(&request.unit) else {
        return Err(Failure::new(FailureKind::Unknown, format!("there is no unit `{}`", request.unit)));
    };
    until_gone(incoming, send_log(&server.shared, &log, &request, outgoing)).await
}

/// Runs a stream until it ends or its reader goes; a reader says nothing.
async fn until_gone(
    incoming: &mut Incoming,
    stream: impl Future<Output = std::io::Result<()>>,
) -> Result<(), Failure> {
    tokio::select! {
        // Where the reader is gone there is nobody left to tell.
        _ = stream => Ok(()),
        gone = incoming.until_gone() => gone,
    }
}

async fn send_events(shared: &Shared, request: EventsRequest, outgoing: &Outgoing) -> std::io::Result<()> {
    let changed = shared.journal.borrow().changed();
    let mut ending = shared.ending.subscribe();
    let mut seen = request.after;
    let mut caught_up = false;
    loop {
        let woken = changed.notified();
        let is_over = *ending.borrow_and_update();
        let next = shared.journal.borrow().first_after(seen).cloned();
        if let Some(event) = next {
            seen = event.seq;
            outgoing.message(&ServerMessage::Event(Box::new(event))).await?;
            continue;
        }
        if !caught_up {
            caught_up = true;
            outgoing.message(&ServerMessage::EventsCaughtUp).await?;
        }
        // It was over before we looked for more: nothing was missed.
        if !request.follow || is_over {
            return Ok(());
        }
        more_or_the_end(woken, &mut ending).await;
    }
}

async fn more_or_the_end(woken: impl Future<Output = ()>, ending: &mut watch::Receiver<bool>) {
    tokio::select! {
        // The last words come first: both may be true by the time that this task has its turn.
        biased;
        // Everybody else goes first: for what is told here a client may wait elsewhere.
        () = woken => yield_now().await,
        _ = ending.wait_for(|ending| *ending) => {}
    }
}

async fn send_log(
    shared: &Shared,
    log: &Log,
    request: &LogRequest,
    outgoing: &Outgoing,
) -> std::io::Result<()> {
    let Some(changed) = log.changed(shared) else { return Ok(()) };
    let (start, end) = log.span(shared);
    let mut ending = shared.ending.subscribe();
    let mut offset = match request.from {
        LogFrom::Offset(offset) => offset.min(end),
        LogFrom::Tail(bytes) => end.saturating_sub(bytes).max(start),
    };
    let mut caught_up = false;
    let mut bytes = Vec::new();
    loop {
        let woken = changed.notified();
        let is_over = *ending.borrow_and_update() || log.is_closed();
        bytes.clear();
        let from = log.read(shared, offset, CHUNK_BYTES, &mut bytes);
        if from != offset {
            outgoing.message(&ServerMessage::Skipped { offset: from }).await?;
        }
        if !bytes.is_empty() {
            outgoing.data(Kind::Log, from, &bytes).await?;
            offset = from + bytes.len() as u64;
            log.was_read(shared, offset);
            continue;
        }
        offset = from;
        if !caught_up {
            caught_up = true;
            outgoing.message(&ServerMessage::LogCaughtUp).await?;
        }
        // It was over before we looked for more: nothing was missed.
        if !request.follow || is_over {
            return Ok(());
        }
        more_or_the_end(woken, &mut ending).await;
    }
}
