//! `config.json`: how a runtime is told what a container may do. No I/O.

use std::collections::HashSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder,
    LinuxSyscall, LinuxSyscallBuilder, Mount, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::bundle::ROOT;
use super::runtime::Kind;
use crate::isolation::plan::{LaunchPlan, Network, USER_ID};

/// The version of the specification that the oldest runtime we take knows.
const SPEC_VERSION: &str = "1.0.0";

/// What tells of the host and no program inside needs.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
];

/// The same for what may be read.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"];

/// System calls of no use to init, with a history or for the whole machine: refused from its first instruction on, and
/// before init has a filter of its own, which goes further.
const REFUSED: [&str; 24] = [
    "acct",
    "add_key",
    "bpf",
    "clock_settime",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "nfsservctl",
    "open_by_handle_at",
    "perf_event_open",
    "quotactl",
    "reboot",
    "request_key",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "userfaultfd",
    "vhangup",
];

/// The same, which the kernel shall seem not to have: libraries do without.
const ABSENT: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// Those that would change the mount table or a namespace. Where namespaces may be nested, they are what that is for.
const MOUNTS: [&str; 11] = [
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "setns",
    "umount2",
];

/// The `config.json` of `plan`, for a runtime of this kind.
pub(super) fn config(
    plan: &LaunchPlan,
    kind: Kind,
    lease: Option<i32>,
    mounts: Vec<Mount>,
    mut read_only: Vec<String>,
) -> Result<Spec, OciSpecError> {
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let mut namespaces = vec![
        namespace(LinuxNamespaceType::Pid)?,
        namespace(LinuxNamespaceType::Ipc)?,
        namespace(LinuxNamespaceType::Uts)?,
        namespace(LinuxNamespaceType::Mount)?,
        namespace(LinuxNamespaceType::Cgroup)?,
    ];
    if plan.namespaces.network == Network::None {
        namespaces.push(namespace(LinuxNamespaceType::Network)?);
    }
    let mut linux = LinuxBuilder::default();
    let (id, capabilities) = match kind {
        Kind::Crun => {
            namespaces.push(namespace(LinuxNamespaceType::User)?);
            // The launcher is root of a namespace whose only id is ours.
            let id =
                LinuxIdMappingBuilder::default().container_id(USER_ID).host_id(0u32).size(1u32).build()?;
            linux = linux.uid_mappings(vec![id]).gid_mappings(vec![id]);
            (USER_ID, HashSet::new())
        }
        // What the kernel asks of those who show the root of their namespace under another number.
        Kind::Runc => (0, HashSet::from([Capability::Setfcap])),
    };
    let env: Vec<String> = plan.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(id).gid(id).build()?)
        .args(command(plan, kind, lease))
        .env(env)
        .cwd("/")
        .capabilities(only(capabilities)?)
        .rlimits(Vec::new())
        .no_new_privileges(true)
        .build()?;
    // The kernel lets nobody mount a new /proc, as nested namespaces need, who does not see a whole one.
    let mut masked = Vec::new();
    if !plan.namespaces.nested {
        masked.extend(MASKED.map(str::to_owned));
        read_only.extend(READ_ONLY.map(str::to_owned));
    }
    let linux = linux
        .namespaces(namespaces)
        .seccomp(filter(plan.namespaces.nested)?)
        .masked_paths(masked)
        .readonly_paths(read_only)
        .devices(Vec::new())
        .build()?;
    SpecBuilder::default()
        .version(SPEC_VERSION)
        .root(RootBuilder::default().path(ROOT).readonly(true).build()?)
        .hostname(&plan.hostname)
        .process(process)
        .mounts(mounts)
        .linux(linux)
        .build()
}

/// Init and its arguments.
fn command(plan: &LaunchPlan, kind: Kind, lease: Option<i32>) -> Vec<String> {
    let mut command = plan.command.clone();
    let mut options = Vec::new();
    // runc gives no container an id of its own that is not root's, so init takes it.
    if kind == Kind::Runc {
        options.extend(["--own-id".to_owned(), USER_ID.to_string()]);
    }
    if let Some(lease) = lease {
        options.extend(["--lease-fd".to_owned(), lease.to_string()]);
    }
    let behind_name = command.len().min(1);
    command.splice(behind_name..behind_name, options);
    command
}

fn only(these: HashSet<Capability>) -> Result<LinuxCapabilities, OciSpecError> {
    LinuxCapabilitiesBuilder::default()
        .bounding(these.clone())
        .effective(these.clone())
        .permitted(these)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
}

fn filter(nested: bool) -> Result<LinuxSeccomp, OciSpecError> {
    let refused = |names: &[&str], errno: i32| -> Result<LinuxSyscall, OciSpecError> {
        LinuxSyscallBuilder::default()
            .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(errno.unsigned_abs())
            .build()
    };
    let mut calls = vec![refused(&REFUSED, libc::EPERM)?, refused(&ABSENT, libc::ENOSYS)?];
    if !nested {
        calls.push(refused(&MOUNTS, libc::EPERM)?);
    }
    LinuxSeccompBuilder::default().default_action(LinuxSeccompAction::ScmpActAllow).syscalls(calls).build()
}
