//! Every check made to fail, on machines that are made up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use super::Purpose::{Bwrap, Microvm, Oci};
use super::facts::{Facts, Program};
use super::version::Version;
use super::{Machine, Report, Requirement, Selection, Severity};
use crate::isolation::Caller;
use crate::isolation::microvm::image_of;

/// A machine that has everything but a working /dev/kvm, which no plain file can be.
struct MadeUp {
    _dir: tempfile::TempDir,
    machine: Machine,
}

const BWRAP: &str = "[ \"$1\" = --version ] && echo bubblewrap 0.8.0; exit 0";

/// What programs print, as the version is all that is asked of most.
const PROGRAMS: [(&str, &str); 11] = [
    ("git", "echo git version 2.39.5"),
    ("pasta", "echo pasta unknown version; echo Copyright Red Hat"),
    ("passt", "echo passt unknown version; echo Copyright Red Hat"),
    ("podman", "echo podman version 4.3.1"),
    ("crun", "echo crun version 1.8.1; echo commit: f8a096be"),
    ("nix-build", "echo 'nix-build (Nix) 2.8.0'"),
    ("nix-store", "exit 0"),
    ("qemu", "echo 'QEMU emulator version 7.2.13 (Debian 1:7.2+dfsg-7+deb12u7)'"),
    ("virtiofsd", "[ \"$1\" = --help ] && echo '  --translate-uid <TRANSLATE_UID>'; echo virtiofsd 1.13.2"),
    ("vhost-device-vsock", "echo vhost-device-vsock 0.2.0"),
    ("bwrap", BWRAP),
];

/// What a kernel has that needs no modules.
const BUILT_IN: &str = "kernel/virtio_pci.ko\nkernel/vmw_vsock_virtio_transport.ko\nkernel/unix.ko\n\
                        kernel/virtiofs.ko\nkernel/9pnet_virtio.ko\nkernel/9p.ko\n";

impl MadeUp {
    fn new() -> MadeUp {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let variables = [("HOME", "/home/me"), ("PATH", &format!("{}/bin:/usr/bin:/bin", root.display()))];
        let machine = Machine {
            shim: root.join("bin/agent-shim"),
            project: root.join("home/me"),
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            caller: Caller::Ordinary,
            landlock_abi: Some(4),
            is_terminal: false,
            unfree: true,
            kernel: None,
            patience: Duration::from_secs(30),
            root,
        };
        let made_up = MadeUp { _dir: dir, machine };
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n"),
            ("proc/sys/user/max_user_namespaces", "96551\n"),
            ("proc/self/ns/user", ""),
            ("proc/self/mountinfo", "31 24 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
            ("sys/fs/cgroup/cgroup.subtree_control", "cpu memory pids\n"),
            ("sys/fs/cgroup/cgroup.procs", ""),
            ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
            ("etc/nix/nix.conf", "experimental-features = nix-command flakes\n"),
            ("dev/kvm", ""),
            ("dev/vhost-vsock", ""),
            ("nix/store/placeholder", ""),
            ("lib/modules/6.1.0/modules.builtin", BUILT_IN),
            ("home/me/file", ""),
        ] {
            made_up.file(path, text);
        }
        made_up.image("boot/vmlinuz-6.1.0");
        made_up.programs(&PROGRAMS);
        made_up.programs(&[("agent-init", "exit 0"), ("agent-git", "exit 0")]);
        made_up
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.machine.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn image(&self, path: &str) {
        let path = self.machine.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, image_of("6.1.0")).unwrap();
    }

    /// Scripts, put in place by another process: one of ours that forks just then would keep them busy.
    fn programs(&self, programs: &[(&str, &str)]) {
        for (name, script) in programs {
            self.file(&format!("drafts/{}", program_name(name)), &format!("#!/bin/sh\n{script}\n"));
        }
        let script =
            "mkdir -p bin && chmod 755 drafts/* && cp --remove-destination -p drafts/* bin && rm drafts/*";
        let status =
            Command::new("sh").args(["-c", script]).current_dir(&self.machine.root).status().unwrap();
        assert!(status.success());
    }

    fn program(&self, name: &str, script: &str) {
        self.programs(&[(name, script)]);
    }

    fn without(&self, path: &str) {
        let path = self.machine.root.join(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.machine.variables.insert(name.into(), value.into());
    }

    fn report(&self) -> Report {
        self.report_with(|_| {})
    }

    fn report_with(&self, change: impl Fn(&mut Facts)) -> Report {
        let mut facts = self.machine.look();
        change(&mut facts);
        Report::of(&facts, Selection::default(), self.machine.distribution())
    }
}

fn program_name(name: &str) -> String {
    if name == "qemu" { format!("qemu-system-{}", std::env::consts::ARCH) } else { name.to_owned() }
}

fn found(report: &Report) -> BTreeSet<Requirement> {
    report.findings().map(|finding| finding.requirement).collect()
}

#[test]
fn a_machine_that_has_everything_lacks_nothing() {
    let report = MadeUp::new().report();
    assert_eq!(found(&report), BTreeSet::from([Requirement::KvmUnusable]), "{report:#?}");
    assert_eq!(report.required().count(), 0);
}

/// A change to the machine, and what is missing then, with words of the finding.
type Case = (Requirement, &'static str, fn(&mut MadeUp));

const CASES: &[Case] = &[
    (Requirement::KernelTooOld, "Linux 5.10.0-28-amd64", |made_up| {
        made_up.file("proc/sys/kernel/osrelease", "5.10.0-28-amd64\n");
    }),
    (Requirement::BwrapMissing, "no `bwrap` in PATH", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/bwrap");
    }),
    (Requirement::BwrapTooOld, "0.4.1 is too old: 0.8.0", |made_up| {
        made_up.program("bwrap", "[ \"$1\" = --version ] && { echo bubblewrap 0.4.1; exit; }; echo 'bwrap: Unknown option --disable-userns' >&2; exit 1");
    }),
    (Requirement::BwrapBroken, "signal 11 killed it", |made_up| made_up.program("bwrap", "kill -SEGV $$")),
    (Requirement::BwrapBroken, "does not end", |made_up| {
        made_up.machine.patience = Duration::from_millis(300);
        made_up.program("bwrap", "exec sleep 1000");
    }),
    (Requirement::BwrapBroken, "hangs when it is to make a sandbox", |made_up| {
        made_up.machine.patience = Duration::from_millis(300);
        made_up
            .program("bwrap", "[ \"$1\" = --version ] && { echo bubblewrap 0.9.0; exit; }; exec sleep 1000");
    }),
    (Requirement::BwrapBroken, "something else", |made_up| refuses(made_up, "something else")),
    (Requirement::UserNamespacesNotBuilt, "no user namespaces", |made_up| {
        made_up.without("proc/self/ns/user");
    }),
    (Requirement::UserNamespacesSysctl, "No permissions to create new namespace", |made_up| {
        made_up.file("proc/sys/kernel/unprivileged_userns_clone", "0\n");
        refuses(
            made_up,
            "No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces.",
        );
    }),
    (Requirement::UserNamespacesCount, "Creating new namespace failed", |made_up| {
        made_up.file("proc/sys/user/max_user_namespaces", "0\n");
        refuses(
            made_up,
            "Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
        );
    }),
    (Requirement::UserNamespacesApparmor, "RTM_NEWADDR", |made_up| {
        made_up.file("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        refuses(made_up, "loopback: Failed RTM_NEWADDR: Operation not permitted");
    }),
    (Requirement::UserNamespacesRefused, "in a container: docker", |made_up| {
        made_up.file(".dockerenv", "");
        refuses(
            made_up,
            "No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces.",
        );
    }),
    (Requirement::UserNamespacesRefused, "in a container: podman", |made_up| {
        made_up.file("run/.containerenv", "engine=\"podman-4.3.1\"\n");
        refuses(made_up, "Can't mount proc on /newroot/proc: Operation not permitted");
    }),
    (Requirement::AgentInitMissing, "neither", |made_up| made_up.without("bin/agent-init")),
    (Requirement::AgentInitMissing, "agent-git comes with it", |made_up| made_up.without("bin/agent-git")),
    (Requirement::AgentInitMissing, "AGENT_SHIM_INIT names /no/such/init", |made_up| {
        made_up.set("AGENT_SHIM_INIT", "/no/such/init");
    }),
    (Requirement::AgentInitMissing, "cannot be executed", |made_up| {
        made_up.set("AGENT_SHIM_INIT", &made_up.machine.root.join("dev/kvm").display().to_string());
    }),
    (Requirement::DataFolderUnknown, "none of HOME", |made_up| made_up.set("HOME", "")),
    (Requirement::DataFolderNotWritable, "Not a directory", |made_up| made_up.file("home/me/.local", "")),
    (Requirement::DataFolderForeign, "others may write to it", |made_up| {
        made_up.set("AGENT_SHIM_DATA", "/data");
        let agents = made_up.machine.root.join("data/agents");
        fs::create_dir_all(&agents).unwrap();
        fs::set_permissions(&agents, fs::Permissions::from_mode(0o777)).unwrap();
    }),
    (Requirement::LandlockMissing, "switched off", |made_up| made_up.machine.landlock_abi = None),
    (Requirement::LimitsNotDelegated, "cgroup v2 is not mounted", |made_up| {
        made_up.file("proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
    }),
    (Requirement::LimitsNotDelegated, "no memory controller", |made_up| {
        made_up.file("sys/fs/cgroup/cgroup.controllers", "pids\n");
    }),
    (Requirement::TerminalUnknown, "TERM is not set", |made_up| made_up.machine.is_terminal = true),
    (Requirement::TerminalUnknown, "TERM is `dumb`", |made_up| {
        made_up.machine.is_terminal = true;
        made_up.set("TERM", "dumb");
    }),
    (Requirement::GitMissing, "git is not installed", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/git");
    }),
    (Requirement::GitTooOld, "git 2.30.2 is too old", |made_up| {
        made_up.program("git", "echo git version 2.30.2");
    }),
    (Requirement::PastaMissing, "pasta", |made_up| made_up.program("pasta", "exit 1")),
    (Requirement::NixBuildMissing, "no `nix-build` in PATH", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/nix-build");
    }),
    (Requirement::NixTooOld, "Nix 2.3.7 is too old", |made_up| {
        made_up.program("nix-build", "echo 'nix-build (Nix) 2.3.7'");
    }),
    (
        Requirement::NixBroken,
        "nix-build does not work: it exited with status 127: /lib: no libboost",
        |made_up| {
            made_up.program("nix-build", "echo '/lib: no libboost' >&2; exit 127");
        },
    ),
    (Requirement::NixBroken, "cannot be opened: error: opening lock file", |made_up| {
        made_up.program(
            "nix-store",
            "echo \"error: opening lock file '/nix/var/nix/db/big-lock': Permission denied\" >&2; exit 1",
        );
    }),
    (Requirement::NixBroken, "hangs", |made_up| {
        made_up.machine.patience = Duration::from_millis(300);
        made_up.program("nix-store", "exec sleep 1000");
    }),
    (Requirement::NixStoreMissing, "no Nix store at", |made_up| made_up.without("nix/store")),
    (Requirement::NixFlakesOff, "flakes", |made_up| made_up.file("etc/nix/nix.conf", "sandbox = true\n")),
    (Requirement::UnfreeNotAllowed, "unfree", |made_up| made_up.machine.unfree = false),
    (Requirement::OciRuntimeMissing, "neither `crun` nor `runc`", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/crun");
    }),
    (Requirement::OciRuntimeTooOld, "crun 0.17.0 is too old: 1.0.0", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.program("crun", "echo crun version 0.17");
    }),
    (Requirement::OciRuntimeTooOld, "runc 1.0.0 is too old: 1.1.0", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/crun");
        made_up.program("runc", "echo 'runc version 1.0.0~rc93+ds1'");
    }),
    (Requirement::QemuMissing, "qemu is not installed", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without(&format!("bin/{}", program_name("qemu")));
    }),
    (Requirement::QemuTooOld, "qemu 4.2.1 is too old", |made_up| {
        made_up.program("qemu", "echo 'QEMU emulator version 4.2.1 (Debian 1:4.2-3ubuntu6.30)'");
    }),
    (Requirement::EngineMissing, "neither `podman` nor `docker`", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/podman");
    }),
    (Requirement::EngineMissing, "podman does not work", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.program("podman", "exit 1");
    }),
    (Requirement::MachineKernelMissing, "boot/vmlinuz-*", |made_up| made_up.without("boot/vmlinuz-6.1.0")),
    (Requirement::MachineKernelUnusable, "is not a kernel", |made_up| made_up.file("boot/vmlinuz-6.1.0", "")),
    (Requirement::MachineKernelUnusable, "modules of the kernel 6.1.0 are missing", |made_up| {
        made_up.without("lib/modules/6.1.0");
    }),
    (Requirement::MachineKernelUnusable, "/no/such/kernel cannot be read: No such file", |made_up| {
        made_up.machine.kernel = Some("/no/such/kernel".into());
    }),
    (Requirement::MachineKernelLacks, "6.1.0 has no vsock (CONFIG_VIRTIO_VSOCKETS)", |made_up| {
        made_up.file("lib/modules/6.1.0/modules.builtin", &BUILT_IN.replace("vsock", "other"));
    }),
    (Requirement::KvmMissing, "no /dev/kvm", |made_up| made_up.without("dev/kvm")),
    (Requirement::KvmUnusable, "making a virtual machine", |_| {}),
    (Requirement::VirtiofsdMissing, "virtiofsd is not installed", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/virtiofsd");
    }),
    (Requirement::VirtiofsdNeedsRoot, "the old one of qemu 7.2.9", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.program("virtiofsd", "echo 'virtiofsd version 7.2.9 (Debian 1:7.2+dfsg-7+deb12u3)'");
        let place = made_up.machine.root.join("usr/lib/qemu");
        fs::create_dir_all(&place).unwrap();
        fs::rename(made_up.machine.root.join("bin/virtiofsd"), place.join("virtiofsd")).unwrap();
    }),
    (Requirement::VirtiofsdTooOld, "of version 1.10.1 and has no `--translate-uid`", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.program("virtiofsd", "echo virtiofsd 1.10.1");
    }),
    (
        Requirement::ShareMissing,
        "virtiofsd is not installed, and the kernel for machines has no 9p",
        |made_up| {
            made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
            made_up.without("bin/virtiofsd");
            made_up.file("lib/modules/6.1.0/modules.builtin", &BUILT_IN.replace("9p.ko", "other.ko"));
        },
    ),
    (Requirement::ShareMissing, "no virtiofs, and the kernel for machines has no 9p", |made_up| {
        let none = BUILT_IN.replace("9p.ko", "other.ko").replace("virtiofs", "another");
        made_up.file("lib/modules/6.1.0/modules.builtin", &none);
    }),
    (Requirement::PasstMissing, "passt", |made_up| made_up.program("passt", "exit 1")),
    (Requirement::VsockMissing, "it is not there", |made_up| {
        made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
        made_up.without("bin/vhost-device-vsock");
        made_up.without("dev/vhost-vsock");
    }),
];

fn refuses(made_up: &MadeUp, words: &str) {
    let words = words.replace('\'', "'\\''");
    made_up.program(
        "bwrap",
        &format!(
            "[ \"$1\" = --version ] && {{ echo bubblewrap 0.8.0; exit; }}; echo 'bwrap: {words}' >&2; exit 1"
        ),
    );
}

/// What can only be forced by another user, a full disk or another owner: decided from facts that say so.
type Facing = (Requirement, &'static str, fn(&mut Facts));

const FACING: &[Facing] = &[
    (Requirement::BwrapBroken, "/tmp/bin/bwrap cannot be used", |facts| {
        by_root(facts);
        facts.bwrap = Program::Works { path: "/tmp/bin/bwrap".into(), version: Version(0, 8, 0) };
    }),
    (Requirement::KernelTooOldForRoot, "5.11.22 is older than 5.12.0", |facts| {
        facts.kernel = "5.11.22".to_owned();
        by_root(facts);
    }),
    (Requirement::IdMappedMountsMissing, "/srv/x cannot be mounted under another owner", |facts| {
        by_root(facts);
        facts.id_mapping = vec![("/ok".into(), None), ("/srv/x".into(), Some("Invalid argument".to_owned()))];
    }),
    (Requirement::DiskSpaceLow, "only 63 MiB are free", |facts| {
        facts.data_folder.free_bytes = Some(63 << 20);
    }),
    (Requirement::NixStoreNotWritable, "no Nix daemon", |facts| facts.nix.store_writable = false),
    (Requirement::NixStoreNotWritable, "nor the Nix daemon be asked: /nix/x: Permission denied", |facts| {
        facts.nix.store_writable = false;
        facts.nix.daemon = super::facts::Daemon::Forbidden("/nix/x: Permission denied".to_owned());
    }),
    (Requirement::NixDaemonDown, "Connection refused", |facts| {
        facts.nix.store_writable = false;
        facts.nix.daemon = super::facts::Daemon::Down("/nix/x: Connection refused".to_owned());
    }),
    (Requirement::MachineKernelUnreadable, "cannot be read: Permission denied", |facts| {
        facts.machine_kernel = super::facts::MachineKernel::Not {
            requirement: Requirement::MachineKernelUnreadable,
            why: "the kernel /boot/vmlinuz-6.8.0 cannot be read: Permission denied".to_owned(),
        };
    }),
    (Requirement::KvmNoPermission, "Permission denied", |facts| {
        facts.kvm = super::facts::Device::NoPermission { why: "Permission denied".to_owned() };
    }),
];

fn by_root(facts: &mut Facts) {
    facts.by_root = true;
    facts.bwrap = Program::Works { path: "/usr/bin/bwrap".into(), version: Version(0, 8, 0) };
}

#[test]
fn each_requirement_is_found_missing_where_it_is() {
    for (requirement, words, change) in CASES {
        let mut made_up = MadeUp::new();
        change(&mut made_up);
        check(&made_up.report(), *requirement, words);
    }
}

#[test]
fn each_requirement_is_found_missing_by_facts_that_no_file_makes() {
    let made_up = MadeUp::new();
    for (requirement, words, change) in FACING {
        check(&made_up.report_with(change), *requirement, words);
    }
}

fn check(report: &Report, requirement: Requirement, words: &str) {
    let mut expected = BTreeSet::from([requirement, Requirement::KvmUnusable]);
    // Another state of the same device.
    if requirement.check() == Requirement::KvmUnusable.check() {
        expected = BTreeSet::from([requirement]);
    }
    assert_eq!(found(report), expected, "{requirement}: {report:#?}");
    let finding = report.findings().find(|finding| finding.requirement == requirement).unwrap();
    assert!(finding.what.contains(words), "{requirement}: `{words}` is not in `{}`", finding.what);
    assert!(
        !finding.what.contains('\n') && !finding.what.ends_with('.') || words.contains("No perm"),
        "{finding:?}"
    );
}

#[test]
fn nothing_that_can_be_missing_goes_without_a_test() {
    let tested: BTreeSet<Requirement> =
        CASES.iter().map(|case| case.0).chain(FACING.iter().map(|facing| facing.0)).collect();
    assert_eq!(tested, Requirement::ALL.iter().copied().collect());
}

/// Without bwrap nothing can be tried, and what must be done besides installing it is said at once.
#[test]
fn a_switch_is_found_where_bwrap_is_missing_too() {
    let mut made_up = MadeUp::new();
    made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
    made_up.without("bin/bwrap");
    let apparmor = "proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    made_up.file(apparmor, "1\n");
    assert!(found(&made_up.report()).contains(&Requirement::UserNamespacesApparmor));
    made_up.file("etc/apparmor.d/bwrap", "");
    assert!(!found(&made_up.report()).contains(&Requirement::UserNamespacesApparmor));
    made_up.file("proc/sys/user/max_user_namespaces", "0\n");
    assert!(found(&made_up.report()).contains(&Requirement::UserNamespacesCount));
}

#[test]
fn what_is_asked_for_decides_what_is_required() {
    let mut made_up = MadeUp::new();
    made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
    for program in ["bwrap", "crun", "nix-build", "git", "pasta"] {
        made_up.without(&format!("bin/{program}"));
    }
    made_up.without(&format!("bin/{}", program_name("qemu")));
    let facts = made_up.machine.look();
    let required = |isolation, nix| -> Vec<&'static str> {
        let report = Report::of(&facts, Selection { isolation, nix }, made_up.machine.distribution());
        report.required().map(|finding| finding.requirement.id()).collect()
    };
    assert_eq!(required(Bwrap, false), ["bwrap-missing"]);
    assert_eq!(required(Bwrap, true), ["bwrap-missing", "nix-build-missing"]);
    assert_eq!(required(Oci, false), ["oci-runtime-missing"]);
    assert_eq!(required(Microvm, false), ["qemu-missing"]);
    let report = Report::of(&facts, Selection::default(), made_up.machine.distribution());
    assert_eq!(report.severity(Requirement::QemuMissing), Severity::Optional);
    assert_eq!(report.severity(Requirement::PastaMissing), Severity::Note);
}

#[test]
fn each_layer_says_whether_it_can_be_used() {
    let mut made_up = MadeUp::new();
    let states = made_up.report().layers();
    let found: Vec<_> = states.iter().map(|state| (state.layer, state.found.as_str())).collect();
    let expected = [
        (Bwrap, "bubblewrap 0.8.0"),
        (Oci, "OCI runtime 1.8.1"),
        (Microvm, "qemu 7.2.13, machine's kernel 6.1.0"),
    ];
    assert_eq!(found, expected);
    made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
    made_up.without("bin/vhost-device-vsock");
    made_up.without("dev/vhost-vsock");
    made_up.without("boot/vmlinuz-6.1.0");
    let report = made_up.report();
    let missing: Vec<_> = report.layers().into_iter().map(|state| state.missing).collect();
    let machine = vec![Requirement::MachineKernelMissing, Requirement::VsockMissing];
    assert_eq!(missing, [vec![], vec![], machine]);
    assert_eq!(report.required().count(), 0, "the default layer works");
}

#[test]
fn a_daemon_that_is_set_up_and_not_there_is_down() {
    let mut made_up = MadeUp::new();
    made_up.set("NIX_REMOTE", "daemon");
    let report = made_up.report_with(|facts| facts.nix.store_writable = false);
    assert!(found(&report).contains(&Requirement::NixDaemonDown), "{report:#?}");
    made_up.machine.variables.remove(std::ffi::OsStr::new("NIX_REMOTE"));
    made_up.file("usr/lib/systemd/system/nix-daemon.socket", "");
    let report = made_up.report_with(|facts| facts.nix.store_writable = false);
    assert!(found(&report).contains(&Requirement::NixDaemonDown), "{report:#?}");
}

/// The document lists exactly what the code knows, in the same words.
#[test]
fn the_document_holds_every_requirement() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/doctor.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("## What can be missing").unwrap();
    let documented: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = Requirement::ALL
        .iter()
        .map(|requirement| {
            let purposes: Vec<&str> =
                requirement.purposes().iter().map(|purpose| purpose.asked_by()).collect();
            let weight = match requirement.weight() {
                super::Weight::Needed => "needed",
                super::Weight::Useful => "useful",
            };
            let (id, missing, why) = (requirement.id(), requirement.missing(), requirement.why());
            format!("| `{id}` | {missing} | {why} | {weight} for {} |", purposes.join(", "))
        })
        .collect();
    assert!(documented == expected, "the table should be:\n{}\n", expected.join("\n"));
}

#[test]
fn ids_are_unique_and_never_change_their_kind() {
    let mut by_id = BTreeMap::new();
    for requirement in Requirement::ALL {
        let id = requirement.id();
        assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{id}");
        assert_eq!(by_id.insert(id, requirement), None);
    }
}

/// Right after it was installed, no shell has heard of it.
#[test]
fn nix_is_found_where_it_is_installed() {
    let mut made_up = MadeUp::new();
    made_up.set("PATH", &format!("{}/bin", made_up.machine.root.display()));
    made_up.without("bin/nix-build");
    let lacks = |made_up: &MadeUp| found(&made_up.report()).contains(&Requirement::NixBuildMissing);
    assert!(lacks(&made_up));
    let folder = made_up.machine.root.join("nix/var/nix/profiles/default/bin");
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(made_up.machine.root.join("bin/nix-store"), folder.join("nix-build")).unwrap();
    assert!(!lacks(&made_up));
}
