//! The process between the monitor and the engine: it has the engine make the container, hands over to init what init would
//! inherit elsewhere, and stays to record how the container ended.
//!
//! Init's parent is a process of the engine's, so nothing ends with the launcher. Nobody but init holds what was handed
//! over: the control socket refuses as soon as init is gone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use super::remains::ask;
use crate::isolation::process::Process;
use crate::programs::Answer;
use crate::sys;

/// The subcommand of ours that is this process. It is nobody's to type.
pub const LAUNCHER: &str = "engine-launcher";

/// The folder that init is shown, below the launcher's place.
pub(super) const FOLDER: &str = "handover";

/// The socket in it.
pub(super) const SOCKET: &str = "socket";

/// From the engine's start to init's call. The monitor gives up before.
const CALL_WITHIN: Duration = Duration::from_mins(2);

/// How long the engine may take to end once init runs.
const ENGINE_WITHIN: Duration = Duration::from_secs(30);

/// How long the engine may take to say how init ended.
const CODE_WITHIN: Duration = Duration::from_secs(10);

/// Before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Longest job read.
const MAX_JOB_BYTES: u64 = 16 * 1024 * 1024;

/// What the launcher does. It is ours, and reads this from a file without a name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The engine's program.
    pub(super) program: PathBuf,
    /// What makes it make the container.
    pub(super) args: Vec<OsString>,
    /// A folder of the sandbox's in which the launcher works.
    pub(super) place: PathBuf,
    /// The container's name.
    pub(super) name: String,
    /// Who init is on the host.
    pub(super) user: u32,
    /// The descriptors that are handed over, each under its own number. The last one is the spec's.
    pub(super) numbers: Vec<RawFd>,
    /// Where the record is written.
    pub(super) record_fd: RawFd,
    /// Whether the sandbox ends with the process that started it.
    pub(super) dies_with_parent: bool,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
struct Failed {
    doing: &'static str,
    source: io::Error,
}

/// Does the job that is described in the file inherited under this number. Returns when the container has ended.
pub fn run(job: RawFd) -> ExitCode {
    match read(job).and_then(|job| carry_out(&job)) {
        Ok(true) => ExitCode::SUCCESS,
        // The engine has said why.
        Ok(false) => ExitCode::FAILURE,
        Err(failed) => {
            eprintln!("Error: {failed}");
            ExitCode::FAILURE
        }
    }
}

fn read(job: RawFd) -> Result<Job, Failed> {
    let mut text = Vec::new();
    let file = sys::inherited(job).map(fs::File::from).map_err(failed("taking the job"))?;
    file.take(MAX_JOB_BYTES).read_to_end(&mut text).map_err(failed("reading the job"))?;
    serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed("reading the job"))
}

/// Returns whether init ran.
fn carry_out(job: &Job) -> Result<bool, Failed> {
    // What the engine leaves beside the container is ours to know, where no daemon keeps it.
    prctl::set_child_subreaper(true).map_err(io::Error::from).map_err(failed("adopting the container"))?;
    let called_off = called_off(job).map_err(failed("catching signals"))?;
    let record = sys::inherited(job.record_fd).map(fs::File::from).map_err(failed("taking the record"))?;
    let handed = job.numbers.iter().map(|number| match number {
        // Ours as well, and what the engine says goes there.
        1 => io::stdout().as_fd().try_clone_to_owned(),
        2 => io::stderr().as_fd().try_clone_to_owned(),
        number => sys::inherited(*number),
    });
    let handed =
        handed.collect::<io::Result<Vec<OwnedFd>>>().map_err(failed("taking what is handed over"))?;
    let listener = listen(job).map_err(failed("making the socket for init"))?;
    let mut command = Command::new(&job.program);
    command.args(&job.args).stdin(Stdio::null()).stdout(Stdio::null());
    let mut engine = command.spawn().map_err(failed("executing the engine"))?;
    let init = meet(job, &mut engine, &listener, &handed, &record, &called_off);
    // Before the agent runs: nothing inside can call here any more, and what was handed over is init's alone.
    drop((listener, handed));
    fs::remove_file(job.place.join(FOLDER).join(SOCKET)).map_err(failed("removing the socket for init"))?;
    let Some(init) = init.map_err(failed("waiting for init"))? else {
        // Where it lives it was called off; what it has begun is removed by its name.
        let _ = engine.kill();
        engine.wait().map_err(failed("waiting for the engine"))?;
        return Ok(false);
    };
    end_of_engine(&mut engine).map_err(failed("waiting for the engine"))?;
    if wait_for(&init, &called_off).map_err(failed("waiting for the end"))? == Woken::CalledOff {
        // It ends with its parent.
        let _ = init.signal(rustix::process::Signal::KILL);
        let _ = init.exited_within(CODE_WITHIN);
    }
    if let Some(code) = exit_code(job) {
        note(&record, "exit-code", code).map_err(failed("writing the record"))?;
    }
    Ok(true)
}

/// A descriptor on which we hear that our parent is gone, where that is our end.
fn called_off(job: &Job) -> io::Result<SignalFd> {
    let set: SigSet = [Signal::SIGTERM].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    if job.dies_with_parent {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
    }
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Makes the socket, which nobody but init's user can call.
fn listen(job: &Job) -> io::Result<UnixListener> {
    let folder = job.place.join(FOLDER);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match fs::remove_file(folder.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A socket's path has 107 bytes at most.
    std::env::set_current_dir(&folder)?;
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    std::env::set_current_dir("/")?;
    fs::set_permissions(folder.join(SOCKET), fs::Permissions::from_mode(0o600))?;
    if rustix::process::geteuid().as_raw() != job.user {
        chown(folder.join(SOCKET), Some(job.user), Some(job.user))?;
        chown(&folder, Some(job.user), Some(job.user))?;
    }
    Ok(listener)
}

/// Waits for init's call and answers it. `None` where the engine gave up, or nobody waits for us any more.
fn meet(
    job: &Job,
    engine: &mut Child,
    listener: &UnixListener,
    handed: &[OwnedFd],
    record: &fs::File,
    called_off: &SignalFd,
) -> io::Result<Option<Process>> {
    let end = Instant::now() + CALL_WITHIN;
    loop {
        match listener.accept() {
            Ok((caller, _)) => {
                if let Some(init) = answer(job, &caller, handed, record)? {
                    return Ok(Some(init));
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // The engine's success comes when init was started, which may be before its call.
        if engine.try_wait()?.is_some_and(|status| !status.success()) || Instant::now() >= end {
            return Ok(None);
        }
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(called_off.as_fd(), PollFlags::POLLIN),
        ];
        // The engine's end wakes nobody here.
        poll(&mut fds, PollTimeout::from(20u8))?;
        if fds[1].any().unwrap_or(false) {
            return Ok(None);
        }
    }
}

/// Hands everything over, where it is init that calls; its number is what the kernel says. That is recorded before: who hears
/// of init looks into the record once.
fn answer(
    job: &Job,
    caller: &UnixStream,
    handed: &[OwnedFd],
    record: &fs::File,
) -> io::Result<Option<Process>> {
    let credentials = getsockopt(caller, PeerCredentials)?;
    if credentials.uid() != job.user {
        return Ok(None);
    }
    let Some(init) = Process::now(credentials.pid())? else { return Ok(None) };
    note(record, "child-pid", init.id().pid)?;
    if let Some((name, pid)) = companion(init.id().pid) {
        write_line(record, &serde_json::json!({ "part": name, "pid": pid }))?;
    }
    let numbers: Vec<u8> = job.numbers.iter().filter_map(|number| u8::try_from(*number).ok()).collect();
    let raw: Vec<RawFd> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(caller.as_raw_fd(), &[IoSlice::new(&numbers)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(Some(init))
}

/// The engine's program ends once the container runs. One that does not is of no further use.
fn end_of_engine(engine: &mut Child) -> io::Result<()> {
    let process = Process::now(engine.id().cast_signed())?;
    if let Some(process) = process
        && !process.exited_within(ENGINE_WITHIN)?
    {
        engine.kill()?;
    }
    engine.wait().map(drop)
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Ended,
    CalledOff,
}

fn wait_for(init: &Process, called_off: &SignalFd) -> io::Result<Woken> {
    loop {
        let mut fds = [
            PollFd::new(init.as_fd(), PollFlags::POLLIN),
            PollFd::new(called_off.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[0].any().unwrap_or(true) => return Ok(Woken::Ended),
            Ok(_) if fds[1].any().unwrap_or(true) => return Ok(Woken::CalledOff),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the engine knows of init's end; init is a child of the engine's. It is asked again and again, because `podman wait`
/// of version 4 waits for ever where the container has ended before.
fn exit_code(job: &Job) -> Option<i32> {
    let end = Instant::now() + CODE_WITHIN;
    while Instant::now() < end {
        let args = ["container", "inspect", "--format", FORMAT, &job.name].map(Into::into).to_vec();
        let left = end.saturating_duration_since(Instant::now());
        let Answer::Ended { status, stdout, .. } = ask(&job.program, args, left) else { return None };
        if !status.success() {
            // Somebody has removed it already.
            return None;
        }
        if let Some(code) = code_of(&stdout) {
            return Some(code);
        }
        std::thread::sleep(ASK_AGAIN);
    }
    None
}

/// What a container's state is, and the code that it ended with.
const FORMAT: &str = "{{.State.Status}} {{.State.ExitCode}}";

/// The code, where the engine knows that the container has ended.
fn code_of(state: &str) -> Option<i32> {
    let (status, code) = state.trim().split_once(' ')?;
    if !["exited", "stopped", "dead"].contains(&status) {
        return None;
    }
    code.parse().ok().filter(|code| (0..=255).contains(code))
}

fn note(record: &fs::File, name: &str, value: i32) -> io::Result<()> {
    write_line(record, &serde_json::json!({ name: value }))
}

fn write_line(mut record: &fs::File, line: &serde_json::Value) -> io::Result<()> {
    // In one piece, for whoever reads meanwhile.
    record.write_all(format!("{line}\n").as_bytes())
}

/// What the engine has left to wait for init, by name; it was left to us.
fn companion(init: i32) -> Option<(String, i32)> {
    let pid = parent_of(init)?;
    let is_ours = parent_of(pid)? == i32::try_from(std::process::id()).ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    is_ours.then(|| (name.trim().to_owned(), pid))
}

fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed { doing, source }
}

/// The number of the job, where we were called to be the launcher.
pub fn job(args: &[OsString]) -> Option<RawFd> {
    match args {
        [_, name, number] if name == LAUNCHER => number.to_str()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_counts_once_the_container_has_ended() {
        assert_eq!(code_of("exited 137\n"), Some(137));
        assert_eq!(code_of("stopped 0"), Some(0));
        for nothing in ["running 0", "stopping 0", "exited", "exited -1", "exited 256", "", "created 0"] {
            assert_eq!(code_of(nothing), None, "{nothing}");
        }
    }
}
