//! The process between the monitor and the OCI runtime: it makes the bundle where nobody else sees it, has the runtime make
//! the container, and stays to record how that ended.
//!
//! It works in a user and a mount namespace of its own, as their root, with no rights outside. The bundle and the
//! runtime's state lie in memory there, so that nothing is left when the last process has gone, whatever was killed.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::bundle::{BINDS, Job, ROOT};
use crate::isolation::launcher::{self, Failed, enter_namespaces, failed, file, os};
use crate::isolation::rootfs::{self, folder};

/// The subcommand of ours that is this process. It is nobody's to type.
pub const LAUNCHER: &str = "oci-launcher";

/// What begins each line in which the launcher says why it gave up.
pub(super) const WORDS: &str = "oci: ";

/// What the launcher says when the runtime has failed, which has said why before.
pub(super) const RUNNING: &str = "running the runtime";

/// For the bundle: the system files that are copied into it, and the person's secrets.
const BUNDLE_OPTIONS: &str = "mode=0755,size=64m";

/// Where the runtime writes init's number.
const PID_FILE: &str = "pid";

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Does the job that is described in the file inherited under this number. Returns when the container has ended.
pub fn run(job: RawFd) -> ExitCode {
    match launcher::read(job).and_then(|job| carry_out(&job)) {
        Ok(code) => ExitCode::from(code),
        Err(failed) => {
            eprintln!("{WORDS}{failed}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(job: &Job) -> Result<u8, Failed> {
    if job.dies_with_parent {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(os("tying our life to our parent's"))?;
    }
    // What the runtime leaves behind it is ours to wait for.
    prctl::set_child_subreaper(true).map_err(os("adopting the container"))?;
    // The runtime has to be root of something.
    enter_namespaces(0)?;
    show_one_cgroup_tree()?;
    let place = job.place.as_path();
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(BUNDLE_OPTIONS))
        .map_err(os("making a place for the bundle"))?;
    make_bundle(job, place)?;
    if !job.nested {
        // The runtime makes one; what is inside could only make it within that, which counts here as well.
        fs::write("/proc/sys/user/max_user_namespaces", "1").map_err(failed("counting user namespaces"))?;
    }
    let container = create(job, place)?;
    // Whoever holds init's socket seems to be init.
    for number in 3..3 + job.inherited {
        drop(file(number));
    }
    let mut record = file(job.record_fd).map_err(failed("taking the record"))?;
    let mut note = |name: &str, value: i32| {
        writeln!(record, "{}", serde_json::json!({ name: value })).map_err(failed("writing the record"))
    };
    note("child-pid", container.as_raw())?;
    let code = wait_for(container)?;
    note("exit-code", i32::from(code))?;
    Ok(code)
}

/// Where version 2 hangs below version 1, runtimes give up, although no group is asked of them.
fn show_one_cgroup_tree() -> Result<(), Failed> {
    let second = Path::new(CGROUPS).join("unified");
    if !second.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&second), CGROUPS, None::<&str>, flags, None::<&str>)
        .map_err(os("showing one tree of cgroups"))
}

fn make_bundle(job: &Job, place: &Path) -> Result<(), Failed> {
    let root = place.join(ROOT);
    folder(&root, 0o755)
        .and_then(|()| folder(&place.join("state"), 0o700))
        .and_then(|()| folder(&place.join(BINDS), 0o700))
        .map_err(failed("making the bundle"))?;
    for bind in &job.binds {
        rootfs::show(bind)?;
    }
    for entry in &job.entries {
        rootfs::make(entry, &root)?;
    }
    let config = serde_json::to_vec(&job.config).map_err(io::Error::from);
    config.and_then(|text| fs::write(place.join("config.json"), text)).map_err(failed("writing config.json"))
}

/// Has the runtime make the container and start init; returns init's number.
fn create(job: &Job, place: &Path) -> Result<Pid, Failed> {
    let pid_file = place.join(PID_FILE);
    let (program, args) = command_line(job);
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("XDG_RUNTIME_DIR", place);
    let status = command.stdin(Stdio::null()).status().map_err(failed(RUNNING))?;
    if !status.success() {
        // It has said why.
        return Err(failed(RUNNING)(io::Error::other(status.to_string())));
    }
    let said = fs::read_to_string(&pid_file).map_err(failed("reading the container's process id"))?;
    let pid = said
        .trim()
        .parse()
        .map_err(io::Error::other)
        .map_err(failed("reading the container's process id"))?;
    Ok(Pid::from_raw(pid))
}

/// The runtime and its arguments.
pub(super) fn command_line(job: &Job) -> (OsString, Vec<OsString>) {
    let place = &job.place;
    let mut args = vec!["--root".into(), place.join("state").into()];
    if job.runtime.ends_with("crun") {
        args.push("--cgroup-manager=disabled".into());
    }
    args.extend(["run", "--detach", "--preserve-fds"].map(OsString::from));
    args.extend([job.inherited.to_string().into(), "--pid-file".into(), place.join(PID_FILE).into()]);
    args.extend(["--bundle".into(), place.into(), job.id.clone().into()]);
    (job.runtime.clone().into(), args)
}

fn wait_for(container: Pid) -> Result<u8, Failed> {
    loop {
        // Whatever else was left to us is reaped on the way.
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == container => {
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == container => {
                return Ok(128 + u8::try_from(signal as i32).unwrap_or(0));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(os("waiting for the container")(error)),
        }
    }
}

/// The number of the job, where we were called to be the launcher.
pub fn job(args: &[OsString]) -> Option<RawFd> {
    launcher::job(args, LAUNCHER)
}
