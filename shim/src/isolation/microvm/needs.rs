//! What a machine can need of its kernel, and what the kernel's own papers call it.

/// Something a kernel may have or lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Devices that qemu makes for guests, on a PCI bus.
    VirtioPci,
    /// The connection to init.
    Vsock,
    /// Files of the host, by virtiofsd.
    Virtiofs,
    /// Files of the host, by qemu itself.
    Plan9,
    /// A network card.
    Net,
    /// Random numbers of the host's, so that nothing waits for them.
    Rng,
    /// Machines within the machine, on a processor of Intel's.
    KvmIntel,
    /// The same on one of AMD's.
    KvmAmd,
    /// The initial file system that init is in.
    Initrd,
    /// The output that is kept as a log.
    SerialConsole,
    /// File systems in memory.
    Tmpfs,
    /// Init's filter on system calls.
    Seccomp,
    /// Sockets that programs inside talk over.
    UnixSockets,
    /// Limits inside.
    Cgroups,
}

/// Without these no machine of ours runs, whatever is asked for.
pub const ALWAYS: &[Need] = &[
    Need::Initrd,
    Need::SerialConsole,
    Need::Tmpfs,
    Need::Seccomp,
    Need::UnixSockets,
    Need::VirtioPci,
    Need::Vsock,
];

/// One thing that has to be there: a switch of the kernel's configuration and the module it makes.
pub(super) struct Part {
    /// As in the configuration, with `CONFIG_`.
    pub(super) option: &'static str,
    /// The module's name, normalised. Nothing where it can only be built in.
    pub(super) module: Option<&'static str>,
}

impl Need {
    /// In a sentence: "the kernel has no ...".
    pub fn words(self) -> &'static str {
        match self {
            Need::VirtioPci => "virtio devices on PCI",
            Need::Vsock => "vsock",
            Need::Virtiofs => "virtiofs",
            Need::Plan9 => "9p over virtio",
            Need::Net => "virtio network card",
            Need::Rng => "virtio random numbers",
            Need::KvmIntel => "KVM for Intel",
            Need::KvmAmd => "KVM for AMD",
            Need::Initrd => "initial file system",
            Need::SerialConsole => "console on a serial port",
            Need::Tmpfs => "tmpfs",
            Need::Seccomp => "seccomp filters",
            Need::UnixSockets => "Unix sockets",
            Need::Cgroups => "control groups",
        }
    }

    pub(super) fn parts(self) -> &'static [Part] {
        const fn either(option: &'static str, module: &'static str) -> Part {
            Part { option, module: Some(module) }
        }
        const fn built_in(option: &'static str) -> Part {
            Part { option, module: None }
        }
        match self {
            Need::VirtioPci => const { &[either("CONFIG_VIRTIO_PCI", "virtio_pci")] },
            Need::Vsock => const { &[either("CONFIG_VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport")] },
            Need::Virtiofs => const { &[either("CONFIG_VIRTIO_FS", "virtiofs")] },
            Need::Plan9 => {
                const { &[either("CONFIG_NET_9P_VIRTIO", "9pnet_virtio"), either("CONFIG_9P_FS", "9p")] }
            }
            Need::Net => const { &[either("CONFIG_VIRTIO_NET", "virtio_net")] },
            Need::Rng => const { &[either("CONFIG_HW_RANDOM_VIRTIO", "virtio_rng")] },
            Need::KvmIntel => const { &[either("CONFIG_KVM_INTEL", "kvm_intel")] },
            Need::KvmAmd => const { &[either("CONFIG_KVM_AMD", "kvm_amd")] },
            Need::Initrd => const { &[built_in("CONFIG_BLK_DEV_INITRD")] },
            Need::SerialConsole => const { &[built_in("CONFIG_SERIAL_8250_CONSOLE")] },
            Need::Tmpfs => const { &[built_in("CONFIG_TMPFS")] },
            Need::Seccomp => const { &[built_in("CONFIG_SECCOMP_FILTER")] },
            Need::UnixSockets => const { &[either("CONFIG_UNIX", "unix")] },
            Need::Cgroups => const { &[built_in("CONFIG_CGROUPS")] },
        }
    }
}
