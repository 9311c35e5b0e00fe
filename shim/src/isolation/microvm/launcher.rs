//! The process between the monitor and a machine: it makes the place that the machine's parts work in, starts them one after the
//! other, keeps what they print, and records how it ended. When one of them ends, or the launcher itself, all do.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use rustix::process::{PidfdFlags, pidfd_open};

use super::calls::Calls;
use super::ends::Ends;
use super::job::{Job, LAUNCHER, OWN};
use super::parts::{Keeper, Parts};
use super::plan::VSOCK_SOCKET;
use super::watch::Doors;
use super::{filter, output, room, watch};
use crate::client::CALLS_SUFFIX;
use crate::isolation::launcher::{self, Failed, enter_namespaces, failed, file, os};
use crate::isolation::plan::USER_ID;
use crate::sys::{self, Child};

/// What begins each line in which the launcher says why it gave up.
pub(super) const WORDS: &str = "microvm: ";

/// A step that fails where engines have covered parts of /proc.
pub(super) const PROCESSES: &str = "mounting a table of processes";

/// What the first process answers when it is ready; anything else is the number of an error.
const READY: u8 = 0;

/// Does the job that is described in the file inherited under this number. Returns when the machine has ended.
pub fn run(job: RawFd) -> ExitCode {
    match launcher::read(job).and_then(|job| carry_out(&job)) {
        Ok(code) => ExitCode::from(code.unwrap_or(1)),
        Err(failed) => {
            eprintln!("{WORDS}{failed}");
            ExitCode::FAILURE
        }
    }
}

/// The number of the job, where we were called to be the launcher.
pub fn job(args: &[OsString]) -> Option<RawFd> {
    launcher::job(args, LAUNCHER)
}

fn carry_out(job: &Job) -> Result<Option<u8>, Failed> {
    if job.dies_with_parent {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(os("tying our life to our parent's"))?;
    }
    let record = file(job.numbers.record).map_err(failed("taking the record"))?;
    let log = file(job.numbers.console).and_then(output::Log::new).map_err(failed("taking the log"))?;
    enter_namespaces(USER_ID)?;
    room::furnish(job)?;
    let keeper = keep_processes_together(&job.place)?;
    room::enter(&job.place)?;
    confine()?;
    let mut ends = Ends::open(&job.numbers)?;
    let mut parts = Parts::new(record, keeper)?;
    let taking = || Calls::take(&Path::new(OWN).join(format!("{VSOCK_SOCKET}{CALLS_SUFFIX}")));
    // The host's own device needs nobody for that.
    let calls = job.numbers.vhost_vsock.is_none().then(taking).transpose();
    let calls = calls.map_err(failed("listening for calls"))?;
    let own = match start(job, &mut ends, &mut parts) {
        Ok(own) => own,
        Err(failed) => {
            // What they said is why.
            parts.end();
            return Err(failed);
        }
    };
    let (lines, content) = ends.ours();
    let doors = Doors { own, calls };
    let code = watch::until_the_end(&mut parts, doors, content, lines, log)?;
    if let Some(code) = code {
        parts.note(&serde_json::json!({ "exit-code": code }))?;
    }
    Ok(code)
}

/// The result is the folder that the machine is reached through, where there is one.
fn start(job: &Job, ends: &mut Ends, parts: &mut Parts) -> Result<Option<OwnedFd>, Failed> {
    let mut apart = false;
    let mut own = None;
    let last = job.parts.len().saturating_sub(1);
    for (index, part) in job.parts.iter().enumerate() {
        if index == last {
            // Whatever the machine talks its parts into, that folder is not there: what is in it, the host believes.
            own = room::leave_own()?;
        }
        if !part.network && !apart {
            let apart_from = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
            unshare(apart_from).map_err(os("parting from the host's network"))?;
            // Parts before this one may have to write there for their own namespaces.
            room::only_show_processes()?;
            apart = true;
        }
        parts.start(part, ends)?;
    }
    parts.note(&serde_json::json!({ "child-pid": parts.machine() }))?;
    Ok(own)
}

/// Nothing from here on gives any process more rights than it has.
fn confine() -> Result<(), Failed> {
    let doing = "filtering system calls";
    let programs = filter::programs().map_err(|error| failed(doing)(io::Error::other(error)))?;
    for program in &programs {
        seccompiler::apply_filter(program).map_err(|error| failed(doing)(io::Error::other(error)))?;
    }
    Ok(())
}

/// Makes a namespace of processes for what is started from here on, and a first process in it, with which all others end. That
/// one ends with us: it waits for the end of a line that only we hold.
fn keep_processes_together(place: &Path) -> Result<Keeper, Failed> {
    let apart = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(apart).map_err(os("parting from the host's processes"))?;
    let doing = "starting the first process";
    let (mut ours, theirs) = UnixStream::pair().map_err(failed(doing))?;
    let Some(pid) = sys::fork().map_err(failed(doing))? else {
        drop(ours);
        keep(place, theirs);
    };
    drop(theirs);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(doing)(error.into()))?;
    let mut answer = [0];
    ours.read_exact(&mut answer).map_err(failed(doing))?;
    match answer {
        [READY] => Ok(Keeper { process: Child { pid, pidfd }, line: ours }),
        [errno] => Err(failed(PROCESSES)(io::Error::from_raw_os_error(i32::from(errno)))),
    }
}

/// The first process. What is left to it is reaped by the kernel.
fn keep(place: &Path, mut line: UnixStream) -> ! {
    let ready = prctl::set_dumpable(false)
        .map_err(io::Error::from)
        .and_then(|()| sys::forget_children())
        .and_then(|()| Ok(room::mount_processes(place)?));
    let answer = match ready {
        Ok(()) => READY,
        Err(error) => error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(u8::MAX),
    };
    drop(line.write_all(&[answer]));
    // Nobody writes: this is the end, whatever comes.
    drop(line.read(&mut [0]));
    std::process::exit(0)
}
