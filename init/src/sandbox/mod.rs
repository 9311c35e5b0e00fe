//! The sandbox as a whole: one loop that owns the processes, and what it shares with the connections' tasks.

mod ask;
mod clock;
mod commands;
mod event_loop;
mod execs;
mod shared;
mod units;
mod wire;

use std::{path::Path, rc::Rc, time::Duration};

use agent_protocol::{
    handshake::Token,
    spec::{InitSpec, Listen},
};
use tokio::{sync::mpsc, task::LocalSet, time::timeout};

pub(crate) use self::{
    ask::{Ask, Ends, StartedExec},
    clock::Clock,
    commands::{GIT_PROTOCOL, MAX_GIT_ERRORS_BYTES},
    shared::{AGENT, Log, Shared},
};
use crate::{
    cgroup::{Group, Memory},
    machine::Running,
    notify::NotifySocket,
    output::Outputs,
    server::{Admission, Listener, Server, accept_all},
    session::Session,
    signals::Signals,
    spawn::Limit,
    task, watch,
};

/// Questions that wait for the loop at once; whoever asks waits for a place.
const ASKS: usize = 64;

/// For streams to send what they have when init ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// What init holds before the loop begins; every part was made and checked by then.
pub(crate) struct Prepared {
    pub(crate) spec: InitSpec,
    pub(crate) signals: nix::sys::signal::SigSet,
    pub(crate) listener: Option<std::os::fd::OwnedFd>,
    pub(crate) token: Token,
    pub(crate) descriptors: Option<Limit>,
    pub(crate) group: Option<Group>,
    pub(crate) warnings: Vec<String>,
    /// Where init has booted one.
    pub(crate) machine: Option<Running>,
}

/// Runs the sandbox to its end; the result is init's exit code.
pub(crate) fn run(prepared: Prepared) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, async move { serve(prepared).await })
}

async fn serve(prepared: Prepared) -> anyhow::Result<u8> {
    let Prepared { spec, signals, listener, token, descriptors, group, mut warnings, machine } = prepared;
    let (clock, files, address) = match machine {
        Some(machine) => {
            warnings.extend(machine.warnings);
            (machine.clock.map(Rc::new), machine.files, machine.address)
        }
        None => (None, None, None),
    };
    let wanted = spec.agent.as_ref().and_then(|agent| agent.terminal.as_ref());
    let main = Session::new(units::size(wanted));
    let units = spec.steps.iter().map(|step| step.name.as_str());
    let outputs = Outputs::new(units.chain(spec.services.iter().map(|service| service.name.as_str())));
    let shared = Rc::new(Shared::new(main, outputs));
    let (asks, asked) = mpsc::channel(ASKS);
    watch::start(spec.watch.as_ref(), &shared, &asks);
    let acceptor = match listener {
        Some(listener) => {
            let admission = admission(&spec);
            let server = Server { shared: Rc::clone(&shared), asks, token, admission, clock: clock.clone() };
            Some(task::start(accept_all(server, Listener::new(listener)?)))
        }
        None => None,
    };
    if let Some(clock) = clock {
        task::start(async move { clock.keep().await });
    }
    if let Some(files) = files {
        task::start(async move { files.keep().await });
    }
    if let Some(address) = address {
        task::start(async move {
            if let Err(error) = address.keep().await {
                tracing::warn!(%error, "keeping the network address");
            }
        });
    }
    let signals = Signals::new(&signals)?;
    let notify = open_notify(&mut warnings);
    let memory = group.and_then(|group| watch_memory(group, &spec, &mut warnings));
    let code = event_loop::Loop::new(spec, Rc::clone(&shared), descriptors, memory, warnings)
        .run(signals, asked, notify)
        .await;
    // Whoever connected just now is served, with what there is to the end.
    flush(&shared).await;
    if let Some(acceptor) = acceptor {
        acceptor.abort();
    }
    Ok(code)
}

/// In a folder that only the sandbox sees; the second is for root file systems without a writable /run.
const NOTIFY_PATHS: [&str; 2] = ["/run/agent-notify", "/tmp/.agent-notify"];

fn open_notify(warnings: &mut Vec<String>) -> Option<NotifySocket> {
    let mut why = String::new();
    for path in NOTIFY_PATHS {
        match NotifySocket::bind(Path::new(path)) {
            Ok(socket) => return Some(socket),
            Err(error) => why = format!("{path}: {error}"),
        }
    }
    warnings.push(format!("no notification socket: {why}"));
    None
}

/// Without it the bounds hold all the same.
fn watch_memory(group: Group, spec: &InitSpec, warnings: &mut Vec<String>) -> Option<Memory> {
    Memory::watch(group, &spec.limits)
        .inspect_err(|error| warnings.push(format!("what runs out of memory is not told: {error}")))
        .ok()
}

/// Who may connect: where init has a PID namespace of its own, only those outside of it.
fn admission(spec: &InitSpec) -> Admission {
    match spec.control.as_ref().map(|control| &control.listen) {
        Some(Listen::VsockPort(_)) => Admission::HostOnly,
        Some(Listen::Fd(_)) if std::process::id() == 1 => Admission::OutsideOnly,
        _ => Admission::SameUser,
    }
}

/// Lets streams finish what they have.
async fn flush(shared: &Shared) {
    shared.ending.send_replace(true);
    let all_closed = async {
        loop {
            let closed = shared.connection_closed.notified();
            if shared.connections.get() <= shared.wait_for_the_end.get() {
                return;
            }
            closed.await;
        }
    };
    if timeout(FLUSH_WITHIN, all_closed).await.is_err() {
        tracing::warn!(open = shared.connections.get(), "ending although connections are still open");
    }
}
