//! The process that watches one sandbox: it starts the isolation layer, writes down what init tells, and how it ended.
//!
//! It decides nothing about the sandbox's life. Killed at any instant, it is replaced by the next command,
//! and the new one goes on from what is in the files. At rest it sleeps in one poll(2) without a timeout.

mod agent;
mod child;
mod finish;
mod jobs;
mod launching;
mod removal;
mod watch;
mod work;

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use agent_protocol::message::TerminalSize;
use nix::sys::signal::SigSet;
use rustix::process::setsid;

use self::watch::Watch;
use super::{
    Sandbox, StateError, channel,
    lock::MonitorLock,
    paths::DataDir,
    private::PrivateVariables,
    process,
    start::{self, Occasion},
    view::unix_ms,
};

/// How long a monitor that ends may keep its lock from the next one.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What a monitor is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start the sandbox, and report over standard output. Standard input holds the agent's private variables.
    Start {
        /// Whether a failure removes the sandbox.
        is_new: bool,
        /// The terminal of whoever starts it.
        size: Option<TerminalSize>,
    },
    /// Watch a sandbox that has lost its monitor, or write down how it ended.
    Adopt,
}

/// The whole life of a monitor.
pub fn run(data: &DataDir, sandbox: &Sandbox, order: Order) -> ExitCode {
    let private = match order {
        Order::Start { .. } => PrivateVariables::from_file(io::stdin()),
        Order::Adopt => Ok(PrivateVariables::default()),
    };
    let (Ok(private), Ok((_, line))) = (private, detach()) else { return ExitCode::FAILURE };
    match order {
        Order::Start { is_new, size } => {
            launching::start(data, sandbox, is_new, &Occasion { size, private, ..Occasion::default() }, line);
            ExitCode::SUCCESS
        }
        Order::Adopt => {
            drop(line);
            if adopt(sandbox).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// Starts a monitor for a sandbox that has none.
pub(super) fn spawn_to_adopt(sandbox: &Sandbox) -> io::Result<()> {
    let data = DataDir::of(sandbox).ok_or(io::ErrorKind::NotFound)?;
    start::monitor_command(&data, sandbox)?.arg("--adopt").spawn().map(drop)
}

/// Writes down the end of a sandbox that nobody watches; fine where a monitor is there after all.
pub(super) fn settle(sandbox: &Sandbox, reason: &str) -> Result<(), StateError> {
    let Some(lock) =
        MonitorLock::take(sandbox.folder()).map_err(StateError::io("taking the monitor's lock"))?
    else {
        return Ok(());
    };
    match Watch::resume(sandbox)? {
        Some(mut watch) if !channel::is_alive(sandbox.folder()) => {
            watch.finish_unseen(reason);
            drop(lock);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn adopt(sandbox: &Sandbox) -> Result<(), StateError> {
    let Some(lock) = take_lock(sandbox)? else { return Ok(()) };
    let Some(mut watch) = Watch::resume(sandbox)? else { return Ok(()) };
    if watch.comes_to_life() {
        watch.take_over();
        watch.until_the_end();
    } else {
        watch.finish_unseen("it ended while nobody watched");
    }
    watch.leave(lock);
    Ok(())
}

fn take_lock(sandbox: &Sandbox) -> Result<Option<MonitorLock>, StateError> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        let lock =
            MonitorLock::take(sandbox.folder()).map_err(StateError::io("taking the monitor's lock"))?;
        if lock.is_some() || Instant::now() >= end {
            return Ok(lock);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Leaves the terminal, the caller's session, its signal mask and all it left open. Returns what came as standard input,
/// and the line to whoever started us, which came as standard output.
///
/// The umask stays the caller's: the agent inherits it, and works in the person's project.
pub(super) fn detach() -> io::Result<(OwnedFd, UnixStream)> {
    // Fails only for the leader of a process group, which a child is not unless it was made one.
    let _ = setsid();
    // A layer that dies in the middle of making init leaves a process that waits for it for ever: it becomes ours.
    nix::sys::prctl::set_child_subreaper(true)?;
    SigSet::empty().thread_set_mask()?;
    close_foreign()?;
    let given = io::stdin().as_fd().try_clone_to_owned()?;
    let line = io::stdout().as_fd().try_clone_to_owned()?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let line = UnixStream::from(line);
    // Not a socket where the monitor adopts; nobody reads or writes it then.
    drop(line.set_nonblocking(true));
    Ok((given, line))
}

/// Nothing of ours is open yet, so everything behind the standard streams is the caller's.
fn close_foreign() -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The folder that was just read is among them, and closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

fn me() -> Option<crate::isolation::ProcessId> {
    process::identify(std::process::id().cast_signed())
}
