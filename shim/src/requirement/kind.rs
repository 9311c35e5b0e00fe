//! The closed list of what can be missing.

use std::fmt;

use serde::Serialize;

use super::{Distribution, Fix, fixes};
use crate::isolation::Isolation;

/// What a requirement is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Any sandbox.
    Sandbox,
    /// `--isolation bwrap`.
    Bwrap,
    /// `--isolation oci`.
    Oci,
    /// `--isolation microvm`.
    Microvm,
    /// `--env nix`.
    Nix,
    /// `--memory` and `--cpus`.
    Limits,
    /// `pull`.
    Pull,
    /// A network of the sandbox's own.
    Network,
    /// `--engine`.
    Engine,
    /// A person at a terminal.
    Terminal,
}

/// Whether it goes without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Its purpose cannot be had without it.
    Needed,
    /// It is better, safer or faster with it.
    Useful,
}

/// One line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The labels below say it.
pub enum Check {
    Kernel,
    Bubblewrap,
    UserNamespaces,
    IdMappedMounts,
    AgentInit,
    DataFolder,
    Landlock,
    Limits,
    Terminal,
    Git,
    Pasta,
    Nix,
    OciRuntime,
    Engine,
    Qemu,
    MachineKernel,
    Kvm,
    Virtiofsd,
    Vsock,
    Passt,
}

impl Check {
    /// In the order in which they are shown.
    pub const ALL: [Check; 20] = [
        Check::Kernel,
        Check::Bubblewrap,
        Check::UserNamespaces,
        Check::IdMappedMounts,
        Check::AgentInit,
        Check::DataFolder,
        Check::Landlock,
        Check::Limits,
        Check::Terminal,
        Check::Git,
        Check::Pasta,
        Check::Nix,
        Check::OciRuntime,
        Check::Engine,
        Check::Qemu,
        Check::MachineKernel,
        Check::Kvm,
        Check::Virtiofsd,
        Check::Vsock,
        Check::Passt,
    ];

    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Check::Kernel => "kernel",
            Check::Bubblewrap => "bubblewrap",
            Check::UserNamespaces => "user namespaces",
            Check::IdMappedMounts => "id-mapped mounts",
            Check::AgentInit => "agent-init",
            Check::DataFolder => "data folder",
            Check::Landlock => "Landlock",
            Check::Limits => "limits",
            Check::Terminal => "terminal",
            Check::Git => "git",
            Check::Pasta => "pasta",
            Check::Nix => "Nix",
            Check::OciRuntime => "OCI runtime",
            Check::Engine => "engine",
            Check::Qemu => "qemu",
            Check::MachineKernel => "machine's kernel",
            Check::Kvm => "KVM",
            Check::Virtiofsd => "virtiofsd",
            Check::Vsock => "vsock",
            Check::Passt => "passt",
        }
    }
}

impl From<Isolation> for Purpose {
    fn from(isolation: Isolation) -> Purpose {
        match isolation {
            Isolation::Bwrap => Purpose::Bwrap,
            Isolation::Oci => Purpose::Oci,
            Isolation::Microvm => Purpose::Microvm,
        }
    }
}

impl Purpose {
    /// What a person asks for to need it.
    pub fn asked_by(self) -> &'static str {
        match self {
            Purpose::Sandbox => "every sandbox",
            Purpose::Bwrap => "`--isolation bwrap`",
            Purpose::Oci => "`--isolation oci`",
            Purpose::Microvm => "`--isolation microvm`",
            Purpose::Nix => "`--env nix`",
            Purpose::Limits => "`--memory` and `--cpus`",
            Purpose::Pull => "`pull`",
            Purpose::Network => "a network apart from the host's",
            Purpose::Engine => "`--engine`",
            Purpose::Terminal => "`run` and `attach`",
        }
    }
}

/// One table for everything that does not depend on the machine.
macro_rules! requirements {
    ($($name:ident $id:literal $check:ident $weight:ident [$($purpose:ident),+] $missing:literal, $why:literal;)+) => {
        /// Something that can be missing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Requirement {
            $(#[doc = concat!("`", $id, "`: ", $missing, ".")] $name,)+
        }

        impl Requirement {
            /// Every one, in the order of the table in docs/doctor.md.
            pub const ALL: &[Requirement] = &[$(Requirement::$name,)+];

            /// Its name for programs. It never changes.
            pub fn id(self) -> &'static str {
                match self { $(Requirement::$name => $id,)+ }
            }

            /// To which line of the report it belongs.
            pub fn check(self) -> Check {
                match self { $(Requirement::$name => Check::$check,)+ }
            }

            /// Whether its purposes go without it.
            pub fn weight(self) -> Weight {
                match self { $(Requirement::$name => Weight::$weight,)+ }
            }

            /// What it is needed for.
            pub fn purposes(self) -> &'static [Purpose] {
                match self { $(Requirement::$name => &[$(Purpose::$purpose),+],)+ }
            }

            /// What is wrong, in general.
            pub fn missing(self) -> &'static str {
                match self { $(Requirement::$name => $missing,)+ }
            }

            /// What does not work.
            pub fn why(self) -> &'static str {
                match self { $(Requirement::$name => $why,)+ }
            }
        }
    };
}

requirements! {
    KernelTooOld "kernel-too-old" Kernel Needed [Sandbox]
        "the kernel is older than Linux 5.11",
        "nothing of the host may be open in a sandbox, and older kernels cannot be asked to see to that";
    KernelTooOldForRoot "kernel-too-old-for-root" Kernel Needed [Bwrap]
        "the kernel is older than Linux 5.12, and root starts the sandbox",
        "root's files can only be lent to a sandbox through mounts that show another owner";
    BwrapMissing "bwrap-missing" Bubblewrap Needed [Bwrap]
        "there is no `bwrap` in PATH",
        "bubblewrap makes the sandbox";
    BwrapTooOld "bwrap-too-old" Bubblewrap Needed [Bwrap]
        "bubblewrap is older than 0.8.0",
        "it cannot forbid user namespaces inside, from which much of the kernel can be attacked";
    BwrapBroken "bwrap-broken" Bubblewrap Needed [Bwrap]
        "`bwrap` is there and does not work",
        "bubblewrap makes the sandbox";
    UserNamespacesNotBuilt "user-namespaces-not-built" UserNamespaces Needed [Bwrap, Oci]
        "the kernel was built without user namespaces",
        "a sandbox without root's rights is made of one";
    UserNamespacesSysctl "user-namespaces-sysctl" UserNamespaces Needed [Bwrap, Oci]
        "`kernel.unprivileged_userns_clone` is 0",
        "a sandbox without root's rights is made of a user namespace";
    UserNamespacesCount "user-namespaces-count" UserNamespaces Needed [Bwrap, Oci]
        "`user.max_user_namespaces` is 0",
        "a sandbox without root's rights is made of a user namespace";
    UserNamespacesApparmor "user-namespaces-apparmor" UserNamespaces Needed [Bwrap, Oci]
        "AppArmor takes what user namespaces are for from programs without a profile",
        "a sandbox without root's rights is made of a user namespace";
    UserNamespacesRefused "user-namespaces-refused" UserNamespaces Needed [Bwrap, Oci]
        "user namespaces are refused, most often by a container engine",
        "a sandbox without root's rights is made of a user namespace";
    IdMappedMountsMissing "id-mapped-mounts-missing" IdMappedMounts Needed [Bwrap]
        "the file system of a folder cannot be mounted under another owner, and root starts the sandbox",
        "root's files can only be lent to a sandbox through such mounts";
    AgentInitMissing "agent-init-missing" AgentInit Needed [Sandbox]
        "agent-init, or agent-git beside it, is not where it is looked for, or cannot be executed",
        "one is the first process of every sandbox, the other serves its repository";
    DataFolderUnknown "data-folder-unknown" DataFolder Needed [Sandbox]
        "nothing says where sandboxes are kept",
        "every sandbox has a folder";
    DataFolderNotWritable "data-folder-not-writable" DataFolder Needed [Sandbox]
        "the data folder cannot be written to",
        "every sandbox has a folder in it";
    DataFolderForeign "data-folder-foreign" DataFolder Needed [Sandbox]
        "others can change the data folder",
        "what its files say is done with our rights, so they are not used";
    DiskSpaceLow "disk-space-low" DataFolder Useful [Sandbox]
        "less than 1 GiB is free where sandboxes are kept",
        "an agent's home and temporary files are there";
    LandlockMissing "landlock-missing" Landlock Useful [Sandbox]
        "the kernel has no Landlock",
        "what else is inside is closed all the same; agents lose a tool for sandboxes of their own, and `--store closure` takes longer";
    LimitsNotDelegated "limits-not-delegated" Limits Needed [Limits]
        "no control group with the controllers for memory and processors may be made",
        "a limit that cannot be kept is refused";
    TerminalUnknown "terminal-unknown" Terminal Useful [Terminal]
        "TERM is not set, or says that the terminal can do nothing",
        "agents draw their screen for the terminal that TERM names";
    GitMissing "git-missing" Git Needed [Pull]
        "there is no `git` in PATH",
        "an agent's commits reach the project through the host's git";
    GitTooOld "git-too-old" Git Needed [Pull]
        "git is older than 2.32",
        "it cannot be told to leave every configuration file alone, which a pull from a sandbox must";
    PastaMissing "pasta-missing" Pasta Useful [Network]
        "there is no `pasta` in PATH",
        "a sandbox has the host's network or none";
    NixBuildMissing "nix-build-missing" Nix Needed [Nix]
        "there is no `nix-build` in PATH",
        "Nix builds the environment";
    NixTooOld "nix-too-old" Nix Needed [Nix]
        "Nix is older than 2.4",
        "the expressions of environments are written for 2.4 and later";
    NixBroken "nix-broken" Nix Needed [Nix]
        "Nix is there and does not work",
        "Nix builds the environment";
    NixStoreMissing "nix-store-missing" Nix Needed [Nix]
        "there is no Nix store",
        "environments are kept in it";
    NixStoreNotWritable "nix-store-not-writable" Nix Needed [Nix]
        "the Nix store may not be written to, and no daemon does it for us",
        "environments are built into it";
    NixDaemonDown "nix-daemon-down" Nix Needed [Nix]
        "the Nix daemon does not answer",
        "it writes to the Nix store for everybody but its owner";
    NixFlakesOff "nix-flakes-off" Nix Useful [Nix]
        "flakes are switched off",
        "`--nixpkgs` cannot name a flake; a path, or a commit and its hash, needs none";
    UnfreeNotAllowed "unfree-not-allowed" Nix Useful [Nix]
        "packages under an unfree licence are not allowed",
        "environments have only those that a preset names itself";
    OciRuntimeMissing "oci-runtime-missing" OciRuntime Needed [Oci]
        "there is neither `crun` nor `runc` in PATH",
        "one of them makes the container";
    OciRuntimeTooOld "oci-runtime-too-old" OciRuntime Needed [Oci]
        "crun is older than 1.0, or runc than 1.1",
        "the bundle asks for what came with them";
    EngineMissing "engine-missing" Engine Needed [Engine]
        "there is neither `podman` nor `docker` in PATH",
        "one of them runs a container from an image";
    QemuMissing "qemu-missing" Qemu Needed [Microvm]
        "there is no `qemu-system` for this processor in PATH",
        "qemu is the machine";
    QemuTooOld "qemu-too-old" Qemu Needed [Microvm]
        "qemu is older than 5.1",
        "it has no device through which the host reaches init";
    MachineKernelMissing "machine-kernel-missing" MachineKernel Needed [Microvm]
        "there is no kernel for a machine, neither in /boot nor where NixOS has it",
        "a machine boots a kernel of its own";
    MachineKernelUnreadable "machine-kernel-unreadable" MachineKernel Needed [Microvm]
        "the kernel for machines may not be read",
        "a machine boots a kernel of its own, and qemu loads it with your rights";
    MachineKernelUnusable "machine-kernel-unusable" MachineKernel Needed [Microvm]
        "the kernel for machines is none, or its modules are missing or damaged",
        "a machine boots a kernel of its own, with modules of the same version";
    MachineKernelLacks "machine-kernel-lacks" MachineKernel Needed [Microvm]
        "the kernel for machines cannot do what init needs",
        "the host reaches init over vsock, on devices that virtio describes";
    KvmMissing "kvm-missing" Kvm Useful [Microvm]
        "there is no /dev/kvm",
        "the processor is emulated, and a microVM is many times slower";
    KvmNoPermission "kvm-no-permission" Kvm Useful [Microvm]
        "/dev/kvm may not be opened",
        "the processor is emulated, and a microVM is many times slower";
    KvmUnusable "kvm-unusable" Kvm Useful [Microvm]
        "/dev/kvm is there, and machines do not run by it",
        "the processor is emulated, and a microVM is many times slower";
    ShareMissing "share-missing" Virtiofsd Needed [Microvm]
        "there is no virtiofsd that can be used, and the kernel for machines has no 9p",
        "one of them shows the project to a microVM";
    VirtiofsdMissing "virtiofsd-missing" Virtiofsd Useful [Microvm]
        "there is no virtiofsd",
        "the project is shown to a microVM by qemu's own 9p instead";
    VirtiofsdNeedsRoot "virtiofsd-needs-root" Virtiofsd Useful [Microvm]
        "virtiofsd is the old one of qemu, which only root can run",
        "the project is shown to a microVM by qemu's own 9p instead";
    VirtiofsdTooOld "virtiofsd-too-old" Virtiofsd Useful [Microvm]
        "virtiofsd has no `--translate-uid`",
        "the project is shown to a microVM by qemu's own 9p instead";
    VsockMissing "vsock-missing" Vsock Needed [Microvm]
        "/dev/vhost-vsock cannot be used, and there is no `vhost-device-vsock` in PATH",
        "through it the host reaches init in a microVM";
    PasstMissing "passt-missing" Passt Needed [Microvm]
        "there is no `passt` in PATH",
        "it carries the packets of a microVM; without it there is only `--network none`";
}

impl Requirement {
    /// How to get it on this distribution.
    pub fn fix(self, distribution: &Distribution) -> Fix {
        fixes::fix(self, distribution)
    }

    /// What a command that fails for want of it tells the person, on the machine it runs on.
    pub fn hint(self) -> String {
        self.hint_for(&Distribution::here())
    }

    /// The same for another distribution: the fix on one line, and where to look it up.
    pub fn hint_for(self, distribution: &Distribution) -> String {
        format!("{} ({}; `agent-shim doctor` checks everything)", self.fix(distribution), self.id())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Requirement {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}
