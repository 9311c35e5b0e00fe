//! Why there is no machine, and what a person can do about it.

use crate::requirement::Requirement;

/// What a machine cannot be made without, or of.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No qemu in PATH.
    #[error("qemu is not installed: there is no `{program}` in {searched}")]
    QemuMissing {
        /// The program for this processor.
        program: String,
        /// The PATH that was searched.
        searched: String,
    },
    /// One without the devices that we need.
    #[error("qemu {found} is too old: {needed} or later is needed")]
    QemuTooOld {
        /// Its version.
        found: String,
        /// The oldest that works.
        needed: String,
    },
    /// One that does not even say its version.
    #[error("qemu does not work: {0}")]
    QemuBroken(String),
    /// No way to share files, or not the one that was asked for.
    #[error("a machine cannot be shown files of the host by {kind}: {why}")]
    NoShare {
        /// `virtiofs` or `9p`, or both.
        kind: &'static str,
        /// The reason.
        why: String,
        /// The other way, where it works.
        other: Option<&'static str>,
    },
    /// No way to init.
    #[error("the host cannot reach a machine: {host}, and there is no `vhost-device-vsock` in {searched}")]
    VsockMissing {
        /// Why not through the host's kernel.
        host: String,
        /// The PATH that was searched.
        searched: String,
    },
    /// Nothing to carry a machine's packets.
    #[error("a machine cannot be given a network: there is no `passt` in {searched}")]
    PasstMissing {
        /// The PATH that was searched.
        searched: String,
    },
    /// Nothing to put it into a bridge.
    #[error("a machine cannot be put into the bridge {name}: there is no `qemu-bridge-helper` here")]
    BridgeHelperMissing {
        /// The bridge.
        name: String,
    },
    /// It is there, and did not.
    #[error("a machine cannot be put into the bridge {name}: {why}")]
    NotBridged {
        /// The bridge.
        name: String,
        /// The helper.
        helper: String,
        /// Its words, or what happened to it.
        why: String,
    },
    /// The processor was asked for.
    #[error("KVM cannot be used here: {0}")]
    NoKvm(String),
    /// More than there is.
    #[error("the machine cannot have {asked} MiB of memory: the host has {host} MiB")]
    TooMuchMemory {
        /// In MiB.
        asked: u64,
        /// In MiB.
        host: u64,
    },
    /// Less than a kernel boots with.
    #[error("the machine cannot do with {asked} MiB of memory: it needs {needed} MiB")]
    TooLittleMemory {
        /// In MiB.
        asked: u64,
        /// In MiB.
        needed: u64,
    },
    /// More processors than qemu makes.
    #[error("the machine cannot have {asked} processors: it can have 1 to {most}")]
    Vcpus {
        /// How many were asked for.
        asked: u32,
        /// How many there may be.
        most: u32,
    },
    /// It was made, and its kernel or init gave up.
    #[error("the machine did not come up: {said}")]
    Boot {
        /// What its console showed last.
        said: String,
    },
}

impl MachineError {
    /// Whether it is about what was asked for, and not about the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::TooLittleMemory { .. } | Self::Vcpus { .. })
    }

    /// What to do about it, where no requirement says it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoShare { other: Some(other), .. } => format!("use `--share {other}`"),
            Self::BridgeHelperMissing { .. } => {
                "it comes with qemu; `--network nat` needs passt instead".to_owned()
            }
            Self::NotBridged { name, helper, .. } => format!(
                "{helper} has to be set-user-id root (`sudo chmod u+s {helper}`), and `allow {name}` has to be in \
                 /etc/qemu/bridge.conf; the bridge itself is made by `ip link add {name} type bridge`"
            ),
            Self::NoKvm(_) => "leave out `--accel kvm`, and the processor is emulated".to_owned(),
            Self::TooMuchMemory { .. } | Self::TooLittleMemory { .. } => {
                "give it another amount by `--memory`".to_owned()
            }
            Self::Boot { .. } => {
                "these are the last lines of its console; another kernel is taken by `--kernel`".to_owned()
            }
            _ => return None,
        };
        Some(hint)
    }

    /// What the host lacks, for `doctor` to name it too.
    pub fn requirement(&self) -> Option<Requirement> {
        match self {
            Self::QemuMissing { .. } => Some(Requirement::QemuMissing),
            Self::QemuTooOld { .. } => Some(Requirement::QemuTooOld),
            Self::VsockMissing { .. } => Some(Requirement::VsockMissing),
            Self::NoShare { .. } => Some(Requirement::ShareMissing),
            Self::PasstMissing { .. } => Some(Requirement::PasstMissing),
            _ => None,
        }
    }
}
