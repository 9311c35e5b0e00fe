//! The process between the monitor and the OCI runtime: it makes the bundle where nobody else sees it, has the runtime make
//! the container, and stays to record how that ended.
//!
//! It works in a user and a mount namespace of its own, as their root, with no rights outside. The bundle and the
//! runtime's state lie in memory there, so that nothing is left when the last process has gone, whatever was killed.
//!
//! Until init's number is recorded, everything ends with the launcher: the kernel kills the runtime with it, what the
//! runtime has made ends without it, and an init that runs already waits for a spec that does not come.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use serde_json::{Value, json};

use super::bundle::{BINDS, Job, ROOT};
use super::runtime::{PID_FILE, STATE};
use crate::isolation::handover::{Passed, c_string};
use crate::isolation::launcher::{self, Failed, enter_namespaces, failed, file, os};
use crate::isolation::rootfs::{self, folder};
use crate::sys::{self, Program, Step};

/// The subcommand of ours that is this process. It is nobody's to type.
pub const LAUNCHER: &str = "oci-launcher";

/// What begins each line in which the launcher says why it gave up.
pub(super) const WORDS: &str = "oci: ";

/// What the launcher says when the runtime has failed, which has said why before.
pub(super) const RUNNING: &str = "running the runtime";

/// For the bundle: the system files that are copied into it, and the person's secrets.
pub(super) const BUNDLE_OPTIONS: &str = "mode=0755,size=64m";

/// Where control groups are.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

/// Where version 2 of them is, beside version 1.
pub(super) const SECOND: &str = "/sys/fs/cgroup/unified";

/// With which the runtime works; init's own is in its configuration.
const RUNTIME_UMASK: Mode = Mode::from_bits_truncate(0o022);

/// Does the job that is described in the file inherited under this number. Returns when the container has ended.
pub fn run(job: RawFd) -> ExitCode {
    match launcher::read(job).and_then(|job| carry_out(&job)) {
        Ok(code) => ExitCode::from(code),
        Err(failed) => {
            end_children();
            // The last word is the launcher's: an init that was given up has said so before.
            eprintln!("{WORDS}{failed}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(job: &Job) -> Result<u8, Failed> {
    let mut record = Record(file(job.record_fd).map_err(failed("taking the record"))?);
    // What the runtime leaves behind it is ours to wait for.
    prctl::set_child_subreaper(true).map_err(os("adopting the container"))?;
    // Modes are those of the plan; whom the person lets look at new files is for the agent to know.
    let given = umask(Mode::empty());
    // The runtime has to be root of something.
    enter_namespaces(0)?;
    if let Some(parent) = job.ends_with {
        end_with(parent)?;
    }
    show_one_cgroup_tree()?;
    let place = job.place.as_path();
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(BUNDLE_OPTIONS))
        .map_err(os("making a place for the bundle"))?;
    make_bundle(job, place, given)?;
    if !job.nested {
        // One is made for the container; what is inside could only make it within that, which counts here as well.
        fs::write("/proc/sys/user/max_user_namespaces", "1").map_err(failed("counting user namespaces"))?;
    }
    umask(RUNTIME_UMASK);
    let gate = Gate::new(job)?;
    // Lives as long as we do.
    let lease = job.lease.map(|_| pipe2(OFlag::O_CLOEXEC)).transpose().map_err(os("making a lease"))?;
    let (lease, _lease_held) = lease.unzip();
    let (container, gate) = create(job, place, gate, lease)?;
    record.note(&json!({ "child-pid": container.as_raw() }))?;
    if let Some(gate) = gate {
        gate.open();
    }
    let code = wait_for(container, true)?;
    record.note(&json!({ "exit-code": code }))?;
    Ok(code)
}

/// Has the kernel end us with our parent.
fn end_with(parent: i32) -> Result<(), Failed> {
    let tying = "tying our life to our parent's";
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(os(tying))?;
    // It may have gone before.
    if nix::unistd::getppid().as_raw() == parent {
        Ok(())
    } else {
        Err(failed(tying)(io::Error::other("it has ended")))
    }
}

/// What is found in the sandbox's folder whatever becomes of us.
struct Record(File);

impl Record {
    fn note(&mut self, line: &Value) -> Result<(), Failed> {
        writeln!(self.0, "{line}").map_err(failed("writing the record"))
    }
}

/// What init waits for: it gets its spec once we have recorded that it is there, and never where we have ended before.
struct Gate {
    content: File,
    out: OwnedFd,
    read: Option<OwnedFd>,
}

impl Gate {
    fn new(job: &Job) -> Result<Option<Gate>, Failed> {
        let Some(number) = job.awaited else { return Ok(None) };
        let content = file(number).map_err(failed("taking the spec"))?;
        let (read, out) = pipe2(OFlag::O_CLOEXEC).map_err(os("making a pipe for the spec"))?;
        Ok(Some(Gate { content, out, read: Some(read) }))
    }

    fn open(mut self) {
        // An init that has ended reads no more, and how it ended is waited for.
        let _ = io::copy(&mut self.content, &mut File::from(self.out));
    }
}

/// Where version 2 hangs below version 1, runtimes give up, although no group is asked of them.
fn show_one_cgroup_tree() -> Result<(), Failed> {
    if !Path::new(SECOND).join("cgroup.controllers").exists() {
        return Ok(());
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(SECOND), CGROUPS, None::<&str>, flags, None::<&str>).map_err(os("showing one tree of cgroups"))
}

fn make_bundle(job: &Job, place: &Path, umask: Mode) -> Result<(), Failed> {
    let root = place.join(ROOT);
    folder(&root, 0o755)
        .and_then(|()| folder(&place.join(STATE), 0o700))
        .and_then(|()| folder(&place.join(BINDS), 0o700))
        .map_err(failed("making the bundle"))?;
    for bind in &job.binds {
        rootfs::show(bind)?;
    }
    for entry in &job.entries {
        rootfs::make(entry, &root)?;
    }
    let mut config = job.config.clone();
    if let Some(process) = config.process_mut() {
        process.user_mut().set_umask(Some(umask.bits()));
    }
    let config = serde_json::to_vec(&config).map_err(io::Error::from);
    config.and_then(|text| fs::write(place.join("config.json"), text)).map_err(failed("writing config.json"))
}

/// Has the runtime make the container and start init; returns init's number.
///
/// Of what init inherits nothing stays with us: whoever holds its socket seems to be init.
fn create(
    job: &Job,
    place: &Path,
    mut gate: Option<Gate>,
    mut lease: Option<OwnedFd>,
) -> Result<(Pid, Option<Gate>), Failed> {
    let handing = |error: &dyn std::error::Error| failed("handing over")(io::Error::other(error.to_string()));
    let mut passed = Passed::new(2 + job.inherited);
    let mut give = |fd: io::Result<OwnedFd>, number: RawFd| {
        let fd = fd.map_err(failed("handing over"))?;
        passed.add(fd, number).map_err(|error| handing(&error))
    };
    give(File::open("/dev/null").map(OwnedFd::from), 0)?;
    give(io::stdout().as_fd().try_clone_to_owned(), 1)?;
    give(io::stderr().as_fd().try_clone_to_owned(), 2)?;
    for number in 3..3 + job.inherited {
        let ours = match number {
            number if Some(number) == job.awaited => gate.as_mut().and_then(|gate| gate.read.take()),
            number if Some(number) == job.lease => lease.take(),
            _ => None,
        };
        give(ours.map_or_else(|| file(number).map(OwnedFd::from), Ok), number)?;
    }
    let mut steps = vec![Step::EndWith(std::process::id().cast_signed())];
    steps.extend(passed.steps());
    let args = job.runtime.command_line(place, &job.id, job.inherited);
    let variables =
        ["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(), format!("XDG_RUNTIME_DIR={}", place.display())];
    let program = (|| {
        let args = args.iter().map(c_string).collect::<Result<_, _>>()?;
        let env = variables.iter().map(c_string).collect::<Result<_, _>>()?;
        Ok(Program { path: c_string(&job.runtime.program)?, args, env })
    })();
    let program = program.map_err(|error: crate::isolation::IsolationError| handing(&error))?;
    let child = sys::spawn(&steps, &program).map_err(|error| failed(RUNNING)(error.into()))?;
    drop(passed);
    // For it alone: what it leaves behind may have ended by now, and is asked about later.
    match wait_for(Pid::from_raw(child.pid.as_raw_nonzero().get()), false)? {
        0 => {}
        // It has said why.
        code @ ..=128 => return Err(failed(RUNNING)(io::Error::other(format!("it ended with {code}")))),
        code => {
            return Err(failed(RUNNING)(io::Error::other(format!("it was killed by signal {}", code - 128))));
        }
    }
    let said =
        fs::read_to_string(place.join(PID_FILE)).map_err(failed("reading the container's process id"))?;
    let pid = said.trim().parse().map_err(io::Error::other);
    Ok((Pid::from_raw(pid.map_err(failed("reading the container's process id"))?), gate))
}

/// Waits for the end of a process: its code, or 128 and the signal that killed it. Reaps whatever else was left to us on the
/// way, where that is of no interest.
fn wait_for(process: Pid, reap_others: bool) -> Result<u8, Failed> {
    loop {
        match waitpid((!reap_others).then_some(process), None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == process => {
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == process => {
                return Ok(128 + u8::try_from(signal as i32).unwrap_or(0));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(os("waiting for a child")(error)),
        }
    }
}

/// Ends what was begun: what a runtime has left behind it is our child.
fn end_children() {
    let list = format!("/proc/self/task/{}/children", std::process::id());
    loop {
        let children = fs::read_to_string(&list).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            // Its number is its own until it is reaped, and nobody else reaps it.
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        match waitpid(None, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The number of the job, where we were called to be the launcher.
pub fn job(args: &[OsString]) -> Option<RawFd> {
    launcher::job(args, LAUNCHER)
}
