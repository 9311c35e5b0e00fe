//! From a spec to everything that must be there before the loop begins. A step that fails ends init, with a message and
//! code 125; once the loop runs, no failure does.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    path::Path,
};

use agent_protocol::{
    handshake::{TOKEN_BYTES, Token},
    spec::{Hardening, InitSpec, Listen, LogLevel, Machine, MemoryFiles, TokenSource},
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, signal::Signal},
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    args::SpecSource,
    cgroup::Group,
    harden::{self, CapabilitySet, Policy},
    machine::{self, Running},
    sandbox::{self, Prepared},
    signals::{self, Role},
    spawn::Limit,
    sys,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Runs a sandbox by its spec, from the first step to the last exit; the result is init's exit code.
pub fn run(source: &SpecSource) -> Result<u8> {
    let spec = read_spec(source)?;
    if let SpecSource::Leased { lease, .. } = source {
        end_with_parent(*lease)?;
    }
    log_to_stderr(spec.log_level);
    ensure!(spec.machine.is_none(), "a machine is booted by its first process, and this is none");
    let token = read_token(&spec)?;
    start(spec, token, None)
}

/// Runs it where everything is there that it asks for; `machine` is the one that init has booted for it.
pub(crate) fn start(mut spec: InitSpec, token: Token, mut machine: Option<Running>) -> Result<u8> {
    // Descriptors that were not mentioned are nobody's below; those that were are adopted by number.
    sys::close_on_exec_from(3).context("closing inherited descriptors")?;
    let listener = spec.control.as_ref().map(|control| open_control(&control.listen)).transpose()?;
    // From here on signals wait to be read: one that comes before the loop begins is not lost.
    let signals = signals::take_over(Role::Sandbox).context("taking over the signals")?;
    // Last, because some of the above could not be done any more; everything started later inherits it.
    let mut warnings = Vec::new();
    let group = open_group(&mut spec, &mut warnings)?;
    confine(&mut spec, &mut warnings)?;
    let descriptors = raise_descriptor_limit();
    if let Some((machine, user)) = machine.as_mut().zip(spec.user.as_ref()) {
        machine::share_files_with(user);
        machine.tell_ready();
    }
    sandbox::run(Prepared { spec, signals, listener, token, descriptors, group, warnings, machine })
}

/// The cgroup around everything that is started: in a machine one of init's own, elsewhere one that somebody else has made
/// around init as well.
fn open_group(spec: &mut InitSpec, warnings: &mut Vec<String>) -> Result<Option<Group>> {
    if spec.machine.is_some() {
        let root = machine::cgroup::mount().map_err(io::Error::from);
        let made = root.and_then(|root| Group::of_machine(root.as_fd(), &mut spec.limits));
        // The machine itself is bounded, and what uses it up harms only itself.
        return Ok(made
            .inspect_err(|error| warnings.push(format!("limits do not hold, and init may be ended: {error}")))
            .ok());
    }
    let Some(MemoryFiles { events, high, current, stat }) = spec.limits.memory_files else { return Ok(None) };
    let take = |fd| adopt(fd).context("taking the files of the cgroup");
    Ok(Some(Group::given(take(events)?, take(high)?, take(current)?, take(stat)?)))
}

/// Descriptors that init may have open: every connection, command and unit that its own bounds allow, twice over. The
/// usual limit of 1024 would be used up first, and `stop` could not be heard any more.
const DESCRIPTORS: u64 = 4096;

/// Raises init's own limit as far as it may; returns the one that children are to have, which is the one it was given.
fn raise_descriptor_limit() -> Option<Limit> {
    let given = getrlimit(Resource::Nofile);
    let soft = given.current?;
    let hard = given.maximum.unwrap_or(libc::RLIM_INFINITY);
    let raised = DESCRIPTORS.min(hard);
    if raised <= soft || setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..given }).is_err() {
        return None;
    }
    Some(Limit { resource: libc::RLIMIT_NOFILE.cast_signed(), soft, hard })
}

pub(crate) fn read_spec(source: &SpecSource) -> Result<InitSpec> {
    let json = source.read().context("reading the spec")?;
    Ok(InitSpec::from_json(&json)?)
}

/// The kernel ends us with our parent from now on; the pipe tells whether it was there until now. No earlier than the spec
/// is read: before, a parent that only made us may have been about to leave.
fn end_with_parent(lease: RawFd) -> Result<()> {
    let lease = adopt(lease).context("taking the lease")?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    let mut fds = [PollFd::new(lease.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).context("looking at the lease")?;
    let gone = fds[0].revents().is_none_or(|seen| seen.contains(PollFlags::POLLHUP));
    ensure!(!gone, "who started this has gone");
    Ok(())
}

/// Inherited descriptors below 3 are the standard streams, and a mistake.
fn adopt(fd: RawFd) -> Result<OwnedFd> {
    ensure!(fd > 2, "descriptor {fd} is a standard stream");
    sys::adopt_descriptor(fd).with_context(|| format!("descriptor {fd} is not open"))
}

fn open_control(wanted: &Listen) -> Result<OwnedFd> {
    match wanted {
        Listen::Fd(fd) => {
            let socket = adopt(*fd).context("taking the control socket")?;
            let listens = rustix::net::sockopt::socket_acceptconn(&socket);
            ensure!(matches!(listens, Ok(true)), "descriptor {fd} is not a listening socket");
            Ok(socket)
        }
        Listen::Unix(path) => listen_at(path).with_context(|| format!("listening on {path}")),
        Listen::VsockPort(port) => {
            listen_on_vsock(*port).with_context(|| format!("listening on vsock port {port}"))
        }
    }
}

fn listen_at(path: &str) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    bind(socket.as_fd(), &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// From every context id: who is calling is checked for each connection.
fn listen_on_vsock(port: u32) -> nix::Result<OwnedFd> {
    use nix::sys::socket as vsock;
    let flags = vsock::SockFlag::SOCK_CLOEXEC;
    let socket = vsock::socket(vsock::AddressFamily::Vsock, vsock::SockType::Stream, flags, None)?;
    vsock::bind(socket.as_raw_fd(), &vsock::VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
    vsock::listen(&socket, vsock::Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// The token is read once and kept in memory that no other process can look at.
pub(crate) fn read_token(spec: &InitSpec) -> Result<Token> {
    let Some(source) = spec.control.as_ref().and_then(|control| control.token.as_ref()) else {
        if let Some(Listen::VsockPort(_) | Listen::Unix(_)) =
            spec.control.as_ref().map(|control| &control.listen)
        {
            bail!("the control endpoint can be reached from inside, so it needs a token");
        }
        return Ok(Token::default());
    };
    let mut bytes = [0; TOKEN_BYTES];
    let read = match source {
        TokenSource::Fd(fd) => File::from(adopt(*fd)?).read_exact(&mut bytes),
        TokenSource::File(path) => {
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
            // On a read-only mount it cannot be removed, and whoever mounted it knows that.
            let _ = std::fs::remove_file(Path::new(path));
            read
        }
    };
    read.context("reading the token")?;
    Ok(Token(bytes))
}

/// What the first process of a machine keeps for itself. Elsewhere it is of one user with all that it starts, and who
/// made its world switches it off.
const OF_A_MACHINES_INIT: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    // To end, and to measure, what runs as another user.
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_TIME)
    .union(CapabilitySet::SYS_BOOT);

fn kept(machine: &Machine) -> CapabilitySet {
    // The network may give another address one day.
    let asks = machine.network.as_ref().is_some_and(|interface| interface.address.is_none());
    OF_A_MACHINES_INIT.union(if asks { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() })
}

/// What is left open of these would make the others worthless: the filter needs `no_new_privileges`, and without
/// the filter the capabilities come back in a user namespace.
const ALL_OR_NOTHING: &str = "`no_new_privileges`, `seccomp` and `landlock_scope` are switched off together with \
     everything else in `hardening`, or not at all: all of them are in force";

/// Gives up, for init itself and all that it will start, what the sandbox is not to have.
fn confine(spec: &mut InitSpec, warnings: &mut Vec<String>) -> Result<()> {
    let wanted = &spec.hardening;
    if *wanted == Hardening::OFF {
        return Ok(());
    }
    if !(wanted.no_new_privileges && wanted.seccomp && wanted.landlock_scope) {
        warnings.push(ALL_OR_NOTHING.to_owned());
    }
    let policy = Policy {
        nested_namespaces: wanted.nested_user_namespaces,
        // Of no use afterwards, and the longest part of the spec.
        readable: std::mem::take(&mut spec.readable),
        keep_capabilities: spec.machine.as_ref().map_or(CapabilitySet::empty(), kept),
        ..Policy::default()
    };
    let report = harden::enforce(&policy).context("refusing to start anything in a sandbox that is open")?;
    // What is the host's cannot be reached from a machine in any case.
    if wanted.landlock_scope && spec.machine.is_none() && !report.landlock_scoped {
        warnings.push("this kernel has no Landlock scopes (6.12 has): with a shared network, abstract sockets of the host are reachable".to_owned());
    }
    Ok(())
}

pub(crate) fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Off => return,
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}
