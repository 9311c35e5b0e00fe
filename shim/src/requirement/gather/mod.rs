//! Looking at a machine: files, programs and system calls. What it means is decided in [`super::report`].

mod devices;
mod kernel;
mod namespaces;
mod nix;
mod programs;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use rustix::fs::{Access, access, statvfs};

use self::programs::{ask_any_version, ask_version, ask_virtiofsd};
use super::facts::{DataFolder, Facts, Found, Program, Terminal};
use super::machine::Machine;
use super::version::Version;
use crate::isolation::limits::{Cgroups, LimitError, Limits};
use crate::isolation::{Caller, microvm};
use crate::sandbox::init_binary::{self, INIT_VARIABLE};
use crate::sandbox::paths::DataDir;

/// Everything about a machine. Programs are asked at the same time: one that hangs costs its deadline, once.
pub(super) fn facts(machine: &Machine) -> Facts {
    let asked: [OnceLock<Program>; 10] = Default::default();
    let [git, pasta, passt, crun, runc, podman, docker, qemu, vhost_device_vsock, bwrap] = &asked;
    let (user_namespaces, nix, virtiofsd) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
    let machine_kernel = OnceLock::new();
    let ask = |name: &str| ask_version(machine, machine.program(name), Version::printed);
    let qemu_name = format!("qemu-system-{}", std::env::consts::ARCH);
    at_once(&[
        &|| drop(git.set(ask("git"))),
        &|| drop(pasta.set(ask_any_version(machine, "pasta"))),
        &|| drop(passt.set(ask_any_version(machine, "passt"))),
        &|| drop(crun.set(ask("crun"))),
        &|| drop(runc.set(ask("runc"))),
        &|| drop(podman.set(ask("podman"))),
        &|| drop(docker.set(ask("docker"))),
        &|| drop(qemu.set(ask(&qemu_name))),
        &|| drop(virtiofsd.set(ask_virtiofsd(machine))),
        &|| drop(machine_kernel.set(kernel::of_machines(machine))),
        &|| drop(vhost_device_vsock.set(ask("vhost-device-vsock"))),
        &|| drop(nix.set(nix::nix(machine))),
        &|| {
            drop(bwrap.set(ask("bwrap")));
            drop(user_namespaces.set(namespaces::user_namespaces(machine)));
        },
    ]);
    let [git, pasta, passt, crun, runc, podman, docker, qemu, vhost_device_vsock, bwrap] =
        asked.map(|program| program.into_inner().unwrap_or(Program::Missing));
    let (virtiofsd, virtiofsd_translates) = virtiofsd.into_inner().unwrap_or_else(|| ask_virtiofsd(machine));
    let runs_as = match machine.caller {
        Caller::Ordinary => None,
        Caller::Root { runs_as } => Some(runs_as),
    };
    Facts {
        kernel: line(&machine.file("proc/sys/kernel/osrelease")).unwrap_or_default(),
        by_root: matches!(machine.caller, Caller::Root { .. }),
        bwrap,
        user_namespaces: user_namespaces.into_inner().unwrap_or_else(|| namespaces::user_namespaces(machine)),
        id_mapping: namespaces::id_mapping(machine),
        agent_init: agent_init(machine),
        data_folder: data_folder(machine),
        landlock_abi: machine.landlock_abi,
        no_limits: no_limits(machine),
        terminal: Terminal {
            is_one: machine.is_terminal,
            term: machine.variable("TERM").map(|term| term.to_string_lossy().into_owned()),
        },
        git,
        pasta,
        nix: nix.into_inner().unwrap_or_else(|| nix::nix(machine)),
        crun,
        runc,
        podman,
        docker,
        qemu,
        machine_kernel: machine_kernel.into_inner().unwrap_or_else(|| kernel::of_machines(machine)),
        kvm: devices::kvm(&machine.file("dev/kvm"), || microvm::kvm::trouble(runs_as)),
        virtiofsd,
        virtiofsd_translates,
        vhost_device_vsock,
        vhost_vsock: devices::openable(&machine.file("dev/vhost-vsock")),
        passt,
    }
}

/// Does all of this in threads of their own, or here where no more threads may be made.
fn at_once(jobs: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| {
        for job in jobs {
            if thread::Builder::new().spawn_scoped(scope, job).is_err() {
                job();
            }
        }
    });
}

fn agent_init(machine: &Machine) -> Found {
    let init = init_binary::choose(&machine.shim, machine.variable(INIT_VARIABLE).map(Path::new));
    // No sandbox starts without what serves git in it.
    match init.and_then(|init| init_binary::git_of(&machine.shim, &init).map(|_| init)) {
        Ok(path) => Found::At(path),
        Err(error) => Found::Not(error.to_string()),
    }
}

fn data_folder(machine: &Machine) -> DataFolder {
    let Ok(data) = DataDir::from_variables(|name| machine.variable(name).map(ToOwned::to_owned)) else {
        return DataFolder { path: None, not_writable: None, foreign: None, free_bytes: None };
    };
    // Relative to the machine like every other file; for this one that changes nothing.
    let path = machine.file(data.path());
    let not_writable = [DataDir::at(path.clone()).agents(), path.clone()]
        .iter()
        .flat_map(|path| path.ancestors())
        .find_map(|folder| match fs::metadata(folder) {
            Ok(found) if !found.is_dir() => Some(Some(format!("{} is not a folder", folder.display()))),
            Ok(_) => Some(refusal(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Some(format!("{}: {error}", folder.display()))),
        })
        .flatten();
    let there = path.ancestors().find(|folder| folder.exists());
    DataFolder {
        not_writable,
        foreign: DataDir::at(path.clone()).check_owner().err().map(|error| error.to_string()),
        free_bytes: there
            .and_then(|folder| statvfs(folder).ok())
            .map(|found| found.f_bavail * found.f_frsize),
        path: Some(path),
    }
}

/// Why nothing can be made in a folder.
fn refusal(folder: &Path) -> Option<String> {
    let error = access(folder, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!("{}: {}", folder.display(), io::Error::from(error)))
}

fn no_limits(machine: &Machine) -> Option<String> {
    let both = Limits { memory_bytes: Some(1 << 30), milli_cpus: Some(1000), pids: None };
    let planned = match Cgroups::below(&machine.root) {
        Ok(cgroups) => cgroups.plan(&both, "doctor"),
        Err(error) => return Some(format!("the table of control groups cannot be read: {error}")),
    };
    planned.err().map(|error| match error {
        LimitError::NotHere { why, .. } => why,
        LimitError::Io { .. } => error.to_string(),
    })
}

/// A file's content without what is around it.
fn line(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
