//! Operations of one question and one answer, each over its own fresh connection.

use std::time::Instant;

use agent_protocol::{
    Request, ServerMessage,
    message::{AddAgent, Status},
};

use super::{Connection, ConnectionError, Incoming};

/// Whether init answers. Liveness, not activity: it changes no idle clock.
pub fn ping(connection: &mut Connection, deadline: Instant) -> Result<(), ConnectionError> {
    match ask(connection, &Request::Ping, "waiting for a sign of life", deadline)? {
        ServerMessage::Pong => Ok(()),
        other => Err(unexpected(&other, "waiting for a sign of life")),
    }
}

/// The whole state. Its texts come from inside: show them sanitised.
pub fn status(connection: &mut Connection, deadline: Instant) -> Result<Status, ConnectionError> {
    match ask(connection, &Request::Status, "waiting for the status", deadline)? {
        ServerMessage::Status(status) => Ok(*status),
        other => Err(unexpected(&other, "waiting for the status")),
    }
}

/// Asks init to end the sandbox; [`wait_end`] waits until it did.
pub fn stop(connection: &mut Connection, force: bool, deadline: Instant) -> Result<(), ConnectionError> {
    done(connection, &Request::Stop { force }, "asking it to stop", deadline)
}

/// Waits for the end of the connection: init is gone.
pub fn wait_end(connection: &mut Connection, deadline: Instant) -> Result<(), ConnectionError> {
    const DURING: &str = "waiting for its end";
    match connection.recv(DURING, Some(deadline)) {
        Err(ConnectionError::Closed(_)) => Ok(()),
        Err(error) => Err(error),
        Ok(Incoming::Message(message)) => Err(unexpected(&message, DURING)),
        Ok(Incoming::Data { .. }) => Err(ConnectionError::Unexpected { what: "data", during: DURING }),
    }
}

/// Starts the agent anew.
pub fn restart(connection: &mut Connection, deadline: Instant) -> Result<(), ConnectionError> {
    done(connection, &Request::RestartAgent, "asking for a restart", deadline)
}

/// Starts a unit anew.
pub fn restart_unit(
    connection: &mut Connection,
    name: &str,
    deadline: Instant,
) -> Result<(), ConnectionError> {
    done(connection, &Request::RestartUnit { name: name.to_owned() }, "asking for a restart", deadline)
}

/// Starts one more agent.
pub fn add_agent(
    connection: &mut Connection,
    request: AddAgent,
    deadline: Instant,
) -> Result<(), ConnectionError> {
    done(connection, &Request::AddAgent(request), "adding an agent", deadline)
}

/// Ends an agent that was added, and waits until all of it is gone.
pub fn remove_agent(
    connection: &mut Connection,
    name: &str,
    force: bool,
    deadline: Instant,
) -> Result<(), ConnectionError> {
    let request = Request::RemoveAgent { name: name.to_owned(), force };
    done(connection, &request, "waiting for an agent's end", deadline)
}

/// Sends a signal to the agent's process group.
pub fn signal(connection: &mut Connection, signal: i32, deadline: Instant) -> Result<(), ConnectionError> {
    done(connection, &Request::SignalAgent { signal }, "sending a signal", deadline)
}

fn done(
    connection: &mut Connection,
    request: &Request,
    during: &'static str,
    deadline: Instant,
) -> Result<(), ConnectionError> {
    match ask(connection, request, during, deadline)? {
        ServerMessage::Done => Ok(()),
        other => Err(unexpected(&other, during)),
    }
}

fn ask(
    connection: &mut Connection,
    request: &Request,
    during: &'static str,
    deadline: Instant,
) -> Result<ServerMessage, ConnectionError> {
    connection.request(request)?;
    connection.recv_message(during, Some(deadline))
}

/// A message in the wrong place; named by its variant alone, because its texts come from inside.
pub(crate) fn unexpected(message: &ServerMessage, during: &'static str) -> ConnectionError {
    let what = match message {
        ServerMessage::Pong => "Pong",
        ServerMessage::Done => "Done",
        ServerMessage::Failed(_) => "Failed",
        ServerMessage::Status(_) => "Status",
        ServerMessage::ExecStarted(_) => "ExecStarted",
        ServerMessage::ExecExited(_) => "ExecExited",
        ServerMessage::Attached(_) => "Attached",
        ServerMessage::Screen { .. } => "Screen",
        ServerMessage::Skipped { .. } => "Skipped",
        ServerMessage::Lease(_) => "Lease",
        ServerMessage::Resized(_) => "Resized",
        ServerMessage::SessionEnded(_) => "SessionEnded",
        ServerMessage::SessionStarted(_) => "SessionStarted",
        ServerMessage::Event(_) => "Event",
        ServerMessage::EventsCaughtUp => "EventsCaughtUp",
        ServerMessage::LogCaughtUp => "LogCaughtUp",
        ServerMessage::Resources(_) => "Resources",
        ServerMessage::InputTaken(_) => "InputTaken",
    };
    ConnectionError::Unexpected { what, during }
}
