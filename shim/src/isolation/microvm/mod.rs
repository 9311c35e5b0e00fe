//! A machine of its own, made by qemu: another kernel, reached over vsock.
//!
//! A launcher of ours puts the root file system together in namespaces of its own, and starts the machine's parts there: what serves
//! its files, what carries its connections and packets, and qemu. The plan's mounts are the same as on every layer; the host makes
//! those that show something of it, and init makes the others inside.

mod bridge;
/// What is kept between starts.
pub mod cache;
mod calls;
mod cpio;
mod decide;
mod decompress;
mod ends;
/// Why there is no machine.
pub mod error;
mod explain;
mod filter;
mod image;
#[cfg(test)]
pub(crate) use image::image_of;
pub mod initramfs;
mod job;
pub mod kernel;
/// Whether the host's processor can be used.
pub mod kvm;
/// The process that makes the machine and ends with it.
pub mod launcher;
pub mod modules;
pub mod needs;
mod output;
mod parts;
/// A machine as data.
pub mod plan;
mod render;
mod room;
mod shown;
#[cfg(test)]
mod testing;
mod tree;
mod unpacked;
mod watch;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agent_protocol::{address::Address, spec::Machine};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use self::decide::Programs;
use self::error::MachineError;
use self::job::LAUNCHER;
use self::plan::{Card, MachinePlan, NOT_YET, PORT, Processor, VSOCK_SOCKET, addresses};
use self::render::{Host, Places};
use super::error::IsolationError;
use super::handover::{self, Passed, folder, open_record, step};
use super::limits::Limits;
use super::memory;
use super::plan::{LaunchPlan, Mount};
use super::{
    Capabilities, Handles, Launched, Layer, NetworkKind, Patience, Reach, Report, Request, draft, record,
    start, userns,
};
use crate::requirement::older_qemu;

/// What the caller promises: init's spec, and the token that it knows its host by.
pub(crate) const SPEC: &str = "spec";
pub(crate) const TOKEN: &str = "token";

/// Where a sandbox keeps its logs, and the console's among them.
const LOGS: &str = "logs";
const CONSOLE_LOG: &str = "console.log";

/// Where it is written whom to ask for names.
const RESOLVER: &str = "/etc/resolv.conf";

pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    name: "microvm",
    reach: Reach::Machine { port: PORT },
    passes_descriptors: false,
    shares_kernel: false,
    makes: "machine",
    networks: &[NetworkKind::Nat, NetworkKind::None, NetworkKind::Bridge],
    takes_images: false,
    door: Some("vhost-device-vsock"),
    patience: Patience::OF_MACHINES,
};

/// The layer, with the qemu it will use.
#[derive(Clone, Debug)]
pub struct MicroVm {
    qemu: PathBuf,
    programs: Programs,
}

impl MicroVm {
    /// Looks for qemu in a list of folders like `PATH`.
    pub fn find(search: &OsStr) -> Result<MicroVm, IsolationError> {
        let programs = Programs::new(search.to_owned());
        let name = format!("qemu-system-{}", std::env::consts::ARCH);
        match programs.find(&name) {
            Some(qemu) => Ok(MicroVm { qemu, programs }),
            None => Err(MachineError::QemuMissing { program: name, searched: programs.searched() }.into()),
        }
    }

    fn machine_of(plan: &LaunchPlan) -> Result<&MachinePlan, IsolationError> {
        plan.machine.as_ref().ok_or_else(|| IsolationError::Plan("there is no machine in it".to_owned()))
    }
}

impl Layer for MicroVm {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn plan(&self, request: &Request) -> Result<LaunchPlan, IsolationError> {
        // Memory is the machine's own. Rules for files are made by a kernel that we do not know, so nothing is left to them.
        let unlimited = Request { limits: Limits::default(), ..request.clone() };
        let mut plan = draft::for_kernel(CAPABILITIES.name, &self.qemu, &unlimited, 0)?;
        let machine = decide::decide(request, &self.programs)?;
        plan.limits.init_max_processes = request.limits.pids;
        match machine.card {
            Card::Passt { .. } => {
                ask_for_names(&mut plan.mounts, format!("nameserver {}\n", addresses::NAMES));
            }
            // Init writes there whom the network names.
            Card::Bridge { .. } => ask_for_names(&mut plan.mounts, String::new()),
            Card::None => {}
        }
        plan.machine = Some(machine);
        Ok(plan)
    }

    fn to_shell(&self, plan: &LaunchPlan) -> String {
        let Some(machine) = &plan.machine else { return String::new() };
        let places = Places::new(plan, "agent-shim".into());
        shown::to_shell(plan, &render::render(plan, machine, &places, &Host::here()))
    }

    fn launch(&self, plan: &LaunchPlan, handles: Handles) -> Result<Launched, IsolationError> {
        let machine = MicroVm::machine_of(plan)?;
        let ours = std::env::current_exe().map_err(|source| step("finding our own binary", source))?;
        let places = Places::new(plan, ours);
        make_way(&places.own)?;
        decide::allow_files(plan.caller);
        let rendered = render::render(plan, machine, &places, &Host::here());
        let numbers = rendered.job.numbers;
        let mut passed = Passed::by(plan, handles, None, rendered.last_fd)?;
        passed.job(&rendered.job, rendered.job_fd)?;
        passed.add(archive(machine)?, numbers.archive)?;
        passed.add(kernel(machine)?, numbers.kernel)?;
        passed.add(open_record(&record_path(&plan.folder))?, numbers.record)?;
        passed.add(console_log(&plan.folder)?, numbers.console)?;
        if let Some(number) = numbers.vhost_vsock {
            let device = OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock");
            passed.add(device.map_err(|source| step("opening /dev/vhost-vsock", source))?.into(), number)?;
        }
        if let (Some(number), Card::Bridge { helper, name, .. }) = (numbers.bridged, &machine.card) {
            // Here, because who may do that has rights which the launcher is started without.
            passed.add(bridge::join(helper, name)?, number)?;
        }
        for (number, content) in &rendered.files {
            passed.content(content, *number)?;
        }
        let program = handover::launcher(&rendered.launcher, LAUNCHER, rendered.job_fd)?;
        start::start(plan, &rendered.sources, &passed, &program, None)
    }

    fn machine(&self, plan: &LaunchPlan) -> Option<Machine> {
        plan.machine.as_ref().map(|machine| machine.for_init(plan))
    }

    fn address(&self, plan: &LaunchPlan) -> Option<Address> {
        plan.machine.as_ref().map(MachinePlan::address)
    }

    fn warnings(&self, plan: &LaunchPlan) -> Vec<String> {
        plan.machine.as_ref().map(MachinePlan::warnings).unwrap_or_default()
    }

    fn report(&self, folder: &Path) -> io::Result<Report> {
        record::read(&record_path(folder))
    }

    fn explain(&self, printed: &str) -> IsolationError {
        let error = explain::explain(printed, userns::setting);
        // Asked only now: it takes qemu longer to say its version than the rest of a plan does.
        let is_qemu = |error: &IsolationError| matches!(error, IsolationError::Failed { .. });
        let answer = is_qemu(&error).then(|| decide::ask(&self.qemu, "--version"));
        match answer.and_then(Result::ok).and_then(|said| older_qemu(&said)) {
            Some((found, needed)) => MachineError::QemuTooOld { found, needed }.into(),
            None => error,
        }
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("microvm.status")
}

/// Whom the host asks is no word for the machine: it can be the host itself, which is another one from inside.
fn ask_for_names(mounts: &mut Vec<Mount>, text: String) {
    let resolver = mounts.iter_mut().find(|mount| mount.at() == RESOLVER);
    if let Some(mount) = resolver {
        *mount = Mount::text(RESOLVER, text);
    } else if let Some(beside) = mounts.iter().position(|mount| mount.at().starts_with("/etc/")) {
        mounts.insert(beside, Mount::text(RESOLVER, text));
    }
}

/// The folder in which the machine is reached, without what an earlier start has left in it. A part of that one, taken over by what
/// was inside, could have put links there, and we may be root: none is followed.
fn make_way(own: &Path) -> Result<(), IsolationError> {
    folder(own)?;
    let doing = |what: &str| format!("making way in {}: {what}", own.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = rustix::fs::open(own, flags, Mode::empty())
        .map_err(|error| step(doing("opening it"), error.into()))?;
    for name in [VSOCK_SOCKET, NOT_YET] {
        match unlinkat(&own, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(step(doing(&format!("removing {name}")), error.into())),
        }
    }
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = openat(&own, NOT_YET, new, Mode::from_raw_mode(0o600));
    made.map(drop).map_err(|error| step(doing(&format!("making {NOT_YET}")), error.into()))
}

/// Init and the kernel's modules, made for an earlier start or for this one.
fn archive(machine: &MachinePlan) -> Result<OwnedFd, IsolationError> {
    let doing = || "making the machine's first file system";
    let MachinePlan { init, kernel_version, modules, .. } = machine;
    let made = match cache::own_folder() {
        Some(folder) => initramfs::cached(init, kernel_version, modules, &folder).map(|cached| cached.file),
        None => initramfs::in_memory(init, modules),
    };
    let mut file = made.map_err(|source| step(doing(), source))?;
    file.rewind().map_err(|source| step(doing(), source))?;
    Ok(file.into())
}

/// What qemu loads. Only an emulated processor is so slow at unpacking that it has to be spared that.
///
/// It is a copy: where the file is the person's own, qemu could open it for writing through a descriptor of it.
fn kernel(machine: &MachinePlan) -> Result<OwnedFd, IsolationError> {
    let doing = |what: &str| format!("{what} {}", machine.kernel.display());
    let file = match (&machine.processor, cache::own_folder()) {
        (Processor::Tcg { .. }, Some(folder)) => unpacked::best(&machine.kernel, &folder),
        _ => File::open(&machine.kernel),
    };
    let file = file.map_err(|source| step(doing("opening"), source))?;
    memory::read_only_copy(file, unpacked::MAX_KERNEL_BYTES)
        .map_err(|source| step(doing("copying to memory"), source))
}

fn console_log(sandbox: &Path) -> Result<OwnedFd, IsolationError> {
    let logs = sandbox.join(LOGS);
    folder(&logs)?;
    let path = logs.join(CONSOLE_LOG);
    let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
    open.map(OwnedFd::from).map_err(|source| step(format!("opening {}", path.display()), source))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_left_where_the_machine_is_reached_is_removed_and_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (own, precious) = (folder.path().join("machine"), folder.path().join("precious"));
        fs::write(&precious, "kept").unwrap();
        fs::create_dir(&own).unwrap();
        for name in [VSOCK_SOCKET, NOT_YET] {
            symlink(&precious, own.join(name)).unwrap();
        }
        make_way(&own).unwrap();
        make_way(&own).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
        assert!(!own.join(VSOCK_SOCKET).exists());
        assert!(fs::symlink_metadata(own.join(NOT_YET)).unwrap().is_file());

        // The folder itself is made by us alone, and a link in its place is no folder.
        fs::remove_dir_all(&own).unwrap();
        symlink(folder.path(), &own).unwrap();
        assert!(make_way(&own).is_err());
        assert!(!folder.path().join(NOT_YET).exists());
    }
}
