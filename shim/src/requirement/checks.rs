//! What each check comes to, decided from the facts.

use std::path::Path;

use super::facts::{
    Daemon, DataFolder, Device, Facts, Found, MachineKernel, Nix, Program, Trial, UserNamespaces,
};
use super::report::{Checked, Finding};
use super::version::Version;
use super::{Check, Requirement};
use crate::isolation::userns::{self, UsernsSwitch};
use crate::isolation::{IsolationError, bwrap};

/// The first kernel whose close_range(2) can leave descriptors to exec.
const KERNEL: Version = Version(5, 11, 0);
/// The first with mounts that show another owner.
const KERNEL_FOR_ROOT: Version = Version(5, 12, 0);
/// The first with `--disable-userns`.
const BWRAP: Version = Version(0, 8, 0);
/// The first that reads no configuration where `GIT_CONFIG_GLOBAL` and `GIT_CONFIG_SYSTEM` say so.
const GIT: Version = Version(2, 32, 0);
const NIX: Version = Version(2, 4, 0);
const CRUN: Version = Version(1, 0, 0);
const RUNC: Version = Version(1, 1, 0);
/// The first with vhost-user-vsock.
pub(super) const QEMU: Version = Version(5, 1, 0);
/// qemu's own virtiofsd has qemu's version, and ended with 7; the one that followed it began anew.
const VIRTIOFSD_OF_QEMU: Version = Version(3, 0, 0);
/// What an agent fills in a minute.
const LOW_DISK_BYTES: u64 = 1 << 30;

/// What a check comes to: what is there, in words, and what is missing. Nothing of both is nothing to tell.
#[derive(Default)]
struct Outcome {
    found: String,
    findings: Vec<Finding>,
}

pub(super) fn look(check: Check, facts: &Facts) -> Checked {
    let outcome = match check {
        Check::Kernel => kernel(facts),
        Check::Bubblewrap => bubblewrap(&facts.bwrap, facts.by_root),
        Check::UserNamespaces => user_namespaces(&facts.user_namespaces, &facts.bwrap),
        Check::IdMappedMounts => id_mapped_mounts(facts),
        Check::AgentInit => match &facts.agent_init {
            Found::At(path) => there(path.display().to_string()),
            Found::Not(why) => one(Requirement::AgentInitMissing, format!("cannot find agent-init: {why}")),
        },
        Check::DataFolder => data_folder(&facts.data_folder),
        Check::Landlock => match facts.landlock_abi {
            Some(abi) => there(format!("version {abi}")),
            None => one(Requirement::LandlockMissing, "this kernel has no Landlock, or it is switched off"),
        },
        Check::Limits => match &facts.no_limits {
            None => there("memory and processors can be limited"),
            Some(why) => one(Requirement::LimitsNotDelegated, why.clone()),
        },
        Check::Terminal => terminal(facts),
        Check::Git => program(&facts.git, GIT, "git", Requirement::GitMissing, Requirement::GitTooOld),
        Check::Pasta => match &facts.pasta {
            Program::Works { path, .. } => there(path.display().to_string()),
            other => one(Requirement::PastaMissing, describe(other, "pasta")),
        },
        Check::Nix => nix(&facts.nix),
        Check::OciRuntime => oci_runtime(&facts.crun, &facts.runc),
        Check::Engine => engine(&facts.podman, &facts.docker),
        Check::MachineKernel => machine_kernel(&facts.machine_kernel),
        Check::Passt => match &facts.passt {
            Program::Works { path, .. } => there(path.display().to_string()),
            other => one(Requirement::PasstMissing, describe(other, "passt")),
        },
        Check::Qemu => program(&facts.qemu, QEMU, "qemu", Requirement::QemuMissing, Requirement::QemuTooOld),
        Check::Kvm => match &facts.kvm {
            Device::Works => there("makes virtual machines"),
            Device::Missing => one(Requirement::KvmMissing, "there is no /dev/kvm"),
            Device::NoPermission { why } => {
                one(Requirement::KvmNoPermission, format!("/dev/kvm may not be opened: {why}"))
            }
            Device::Unusable { why } => {
                one(Requirement::KvmUnusable, format!("/dev/kvm does not work: {why}"))
            }
        },
        Check::Virtiofsd => virtiofsd(facts),
        Check::Vsock => vsock(facts),
    };
    Checked { check, found: outcome.found, findings: outcome.findings }
}

fn there(found: impl Into<String>) -> Outcome {
    Outcome { found: found.into(), findings: Vec::new() }
}

fn one(requirement: Requirement, what: impl Into<String>) -> Outcome {
    there("").and(requirement, what)
}

impl Outcome {
    fn and(mut self, requirement: Requirement, what: impl Into<String>) -> Outcome {
        self.findings.push(Finding { requirement, what: what.into() });
        self
    }
}

fn kernel(facts: &Facts) -> Outcome {
    let what = format!("Linux {}", facts.kernel);
    match Version::parse(&facts.kernel) {
        Some(version) if version < KERNEL => {
            one(Requirement::KernelTooOld, format!("{what} is older than {KERNEL}"))
        }
        Some(version) if version < KERNEL_FOR_ROOT && facts.by_root => one(
            Requirement::KernelTooOldForRoot,
            format!("{what} is older than {KERNEL_FOR_ROOT}, which root needs"),
        ),
        _ => there(what),
    }
}

fn bubblewrap(found: &Program, by_root: bool) -> Outcome {
    match found {
        Program::Missing => {
            one(Requirement::BwrapMissing, "bubblewrap is not installed: there is no `bwrap` in PATH")
        }
        Program::Works { version, .. } if *version < BWRAP => one(
            Requirement::BwrapTooOld,
            format!("bubblewrap {version} is too old: {BWRAP} or later is needed"),
        ),
        Program::Works { path, .. } if by_root && path.starts_with("/tmp") => one(
            Requirement::BwrapBroken,
            format!("{} cannot be used: root's sandboxes are prepared with another /tmp", path.display()),
        ),
        Program::Works { path, version } => there(works(path, *version)),
        broken @ Program::Broken { .. } => one(Requirement::BwrapBroken, describe(broken, "bwrap")),
    }
}

fn user_namespaces(found: &UserNamespaces, bwrap: &Program) -> Outcome {
    if !found.built {
        return one(Requirement::UserNamespacesNotBuilt, "this kernel has no user namespaces");
    }
    let setting =
        |name: &str| found.settings.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    // One that cannot be asked for its version was found wanting already.
    let current = matches!(bwrap, Program::Works { version, .. } if *version >= BWRAP);
    match &found.tried {
        Some(Trial::Works) if current => return there("bwrap makes them"),
        Some(Trial::Hangs) if current => {
            return one(
                Requirement::BwrapBroken,
                "`bwrap` says its version, and hangs when it is to make a sandbox",
            );
        }
        Some(Trial::Failed(printed)) if current => {
            // The words of a launch that fails for the same reason.
            let error = bwrap::explain(printed, setting, || None);
            let requirement = error.requirement().unwrap_or(Requirement::BwrapBroken);
            let inside = match (&found.container, &error) {
                (Some(engine), IsolationError::NoUserNamespaces { .. }) => {
                    format!(" (in a container: {engine})")
                }
                _ => String::new(),
            };
            return one(requirement, format!("{error}{inside}"));
        }
        _ => {}
    }
    // Without bwrap nothing is tried; what switches them off is known all the same.
    let off = |name: &str| format!("user namespaces are switched off: {name}");
    match userns::switched_off_by(setting).map(UsernsSwitch::requirement) {
        Some(Requirement::UserNamespacesApparmor) if found.profile => Outcome::default(),
        Some(requirement) => one(requirement, off(requirement.missing())),
        None => Outcome::default(),
    }
}

fn id_mapped_mounts(facts: &Facts) -> Outcome {
    let findings: Vec<Finding> = facts
        .id_mapping
        .iter()
        .filter_map(|(folder, refused)| {
            let why = refused.as_ref()?;
            let what = format!(
                "the file system of {} cannot be mounted under another owner: {why}",
                folder.display()
            );
            Some(Finding { requirement: Requirement::IdMappedMountsMissing, what })
        })
        .collect();
    // Only root needs them.
    let found = if findings.is_empty() && facts.by_root { "of the data folder and of this one" } else { "" };
    Outcome { found: found.to_owned(), findings }
}

fn data_folder(found: &DataFolder) -> Outcome {
    let Some(path) = &found.path else {
        return one(Requirement::DataFolderUnknown, "none of HOME, XDG_DATA_HOME and AGENT_SHIM_DATA is set");
    };
    if let Some(why) = &found.foreign {
        return one(Requirement::DataFolderForeign, why.clone());
    }
    if let Some(why) = &found.not_writable {
        return one(
            Requirement::DataFolderNotWritable,
            format!("the data folder cannot be written to: {why}"),
        );
    }
    let outcome = there(path.display().to_string());
    match found.free_bytes {
        Some(free) if free < LOW_DISK_BYTES => {
            outcome.and(Requirement::DiskSpaceLow, format!("only {} MiB are free there", free >> 20))
        }
        _ => outcome,
    }
}

fn terminal(facts: &Facts) -> Outcome {
    match (facts.terminal.is_one, facts.terminal.term.as_deref()) {
        (false, _) => Outcome::default(),
        (true, None) => one(Requirement::TerminalUnknown, "TERM is not set"),
        (true, Some(term @ ("dumb" | "unknown"))) => {
            one(Requirement::TerminalUnknown, format!("TERM is `{term}`"))
        }
        (true, Some(term)) => there(term),
    }
}

fn nix(found: &Nix) -> Outcome {
    let (path, version) = match &found.build {
        Program::Missing => {
            return one(
                Requirement::NixBuildMissing,
                "Nix is not installed: there is no `nix-build` in PATH",
            );
        }
        broken @ Program::Broken { .. } => return one(Requirement::NixBroken, describe(broken, "nix-build")),
        Program::Works { version, .. } if *version < NIX => {
            return one(
                Requirement::NixTooOld,
                format!("Nix {version} is too old: {NIX} or later is needed"),
            );
        }
        Program::Works { path, version } => (path, *version),
    };
    let store = found.store.display();
    if !found.store_exists {
        return one(Requirement::NixStoreMissing, format!("there is no Nix store at {store}"));
    }
    if !found.store_writable {
        match &found.daemon {
            Daemon::Listens => {}
            Daemon::Down(why) => {
                return one(Requirement::NixDaemonDown, format!("the Nix daemon does not answer: {why}"));
            }
            Daemon::Forbidden(why) => {
                let what = format!("{store} may not be written to, nor the Nix daemon be asked: {why}");
                return one(Requirement::NixStoreNotWritable, what);
            }
            Daemon::None => {
                let what = format!("{store} may not be written to, and there is no Nix daemon");
                return one(Requirement::NixStoreNotWritable, what);
            }
        }
    }
    match &found.opened {
        Some(Trial::Failed(printed)) => {
            let said = printed.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            return one(
                Requirement::NixBroken,
                format!("the store at {store} cannot be opened: {}", said.trim()),
            );
        }
        Some(Trial::Hangs) => {
            return one(Requirement::NixBroken, format!("`nix-store` hangs when it is to open {store}"));
        }
        Some(Trial::Works) | None => {}
    }
    let mut outcome = there(format!("{}, store {store}", works(path, version)));
    if !found.flakes {
        outcome = outcome.and(Requirement::NixFlakesOff, Requirement::NixFlakesOff.missing());
    }
    if !found.unfree {
        outcome = outcome.and(Requirement::UnfreeNotAllowed, Requirement::UnfreeNotAllowed.missing());
    }
    outcome
}

fn oci_runtime(crun: &Program, runc: &Program) -> Outcome {
    let oldest = [(crun, CRUN, "crun"), (runc, RUNC, "runc")];
    for (program, oldest, _) in &oldest {
        if let Program::Works { path, version } = program
            && version >= oldest
        {
            return there(works(path, *version));
        }
    }
    match oldest.iter().find(|(program, _, _)| **program != Program::Missing) {
        None => one(Requirement::OciRuntimeMissing, "there is neither `crun` nor `runc` in PATH"),
        Some((program, oldest, name)) => one(Requirement::OciRuntimeTooOld, older(program, *oldest, name)),
    }
}

fn engine(podman: &Program, docker: &Program) -> Outcome {
    let found =
        [(podman, "podman"), (docker, "docker")].into_iter().filter_map(|(program, name)| match program {
            Program::Works { path, version } => Some(format!("{name} {}", works(path, *version))),
            _ => None,
        });
    let found = found.collect::<Vec<_>>().join("; ");
    if !found.is_empty() {
        return there(found);
    }
    match (podman, docker) {
        (Program::Missing, Program::Missing) => {
            one(Requirement::EngineMissing, "there is neither `podman` nor `docker` in PATH")
        }
        (Program::Missing, broken) => one(Requirement::EngineMissing, describe(broken, "docker")),
        (broken, _) => one(Requirement::EngineMissing, describe(broken, "podman")),
    }
}

fn machine_kernel(found: &MachineKernel) -> Outcome {
    match found {
        MachineKernel::Found { image, version, lacks, .. } if lacks.is_empty() => {
            there(format!("{version}, {}", image.display()))
        }
        MachineKernel::Found { lacks, .. } => one(Requirement::MachineKernelLacks, lacks.join("; ")),
        MachineKernel::Not { requirement, why } => one(*requirement, why.clone()),
    }
}

/// One that does not do costs nothing more than time where the kernel has 9p.
fn virtiofsd(facts: &Facts) -> Outcome {
    let (virtiofs, plan9) = match &facts.machine_kernel {
        MachineKernel::Found { virtiofs, plan9, .. } => (*virtiofs, *plan9),
        // Of a kernel that is not there nothing is missing yet.
        MachineKernel::Not { .. } => (true, true),
    };
    let (requirement, what) = match &facts.virtiofsd {
        Program::Works { path, version } if facts.virtiofsd_translates => {
            if virtiofs || plan9 {
                return there(works(path, *version));
            }
            (Requirement::ShareMissing, "the kernel for machines has no virtiofs".to_owned())
        }
        Program::Works { path, version } if *version >= VIRTIOFSD_OF_QEMU => (
            Requirement::VirtiofsdNeedsRoot,
            format!("{} is the old one of qemu {version}, which only root can run", path.display()),
        ),
        Program::Works { path, version } => (
            Requirement::VirtiofsdTooOld,
            format!("{} is of version {version} and has no `--translate-uid`", path.display()),
        ),
        other => (Requirement::VirtiofsdMissing, describe(other, "virtiofsd")),
    };
    if plan9 {
        return one(requirement, what);
    }
    one(Requirement::ShareMissing, format!("{what}, and the kernel for machines has no 9p"))
}

fn vsock(facts: &Facts) -> Outcome {
    match (&facts.vhost_vsock, &facts.vhost_device_vsock) {
        (_, Program::Works { path, version }) => there(works(path, *version)),
        (Device::Works, _) => there("/dev/vhost-vsock"),
        (device, _) => {
            let why = match device {
                Device::NoPermission { why } | Device::Unusable { why } => why.clone(),
                Device::Missing | Device::Works => "it is not there".to_owned(),
            };
            let what = format!(
                "/dev/vhost-vsock cannot be used ({why}), and there is no `vhost-device-vsock` in PATH"
            );
            one(Requirement::VsockMissing, what)
        }
    }
}

/// A program of which a certain version is needed.
fn program(
    found: &Program,
    oldest: Version,
    name: &str,
    missing: Requirement,
    too_old: Requirement,
) -> Outcome {
    match found {
        Program::Works { path, version } if *version >= oldest => there(works(path, *version)),
        Program::Works { .. } => one(too_old, older(found, oldest, name)),
        other => one(missing, describe(other, name)),
    }
}

fn works(path: &Path, version: Version) -> String {
    format!("{version}, {}", path.display())
}

fn older(found: &Program, oldest: Version, name: &str) -> String {
    match found {
        Program::Works { version, .. } => format!("{name} {version} is too old: {oldest} or later is needed"),
        other => describe(other, name),
    }
}

fn describe(found: &Program, name: &str) -> String {
    match found {
        Program::Missing => format!("{name} is not installed"),
        Program::Works { path, .. } => path.display().to_string(),
        Program::Broken { path, why } => format!("{} does not work: {why}", path.display()),
    }
}
