//! A machine as a value: what it is made of, decided and not yet there.

use std::path::{Path, PathBuf};

use agent_protocol::{
    address::Address,
    spec::{Interface, Machine, Share, ShareKind},
};
use serde::{Serialize, Serializer};

use super::modules::ModuleFile;
use super::tree;
use crate::isolation::plan::LaunchPlan;

/// The vsock port on which init listens.
pub(super) const PORT: u32 = 1024;

/// What the shared root file system is called.
pub(super) const TAG: &str = "root";

/// The folder in a sandbox's folder that its machine is reached through, and the socket in it.
pub(super) const OWN_FOLDER: &str = "machine";
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";
/// Beside the socket until init listens behind it. Whoever calls earlier is hung up on, and a device that had to do that can be
/// of no use any more.
pub(super) const NOT_YET: &str = "vsock.sock.not-yet";

/// A larger project has as many files.
const FEW_FILES: u64 = 100_000;

/// The second serial port, as the machine's kernel calls it.
const REPORT: &str = "/dev/ttyS1";

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachinePlan {
    /// The kernel's image.
    #[serde(serialize_with = "lossy")]
    pub kernel: PathBuf,
    /// Its own word for its version.
    pub kernel_version: String,
    /// What it has to load, in order.
    #[serde(serialize_with = "names")]
    pub modules: Vec<ModuleFile>,
    /// Init's binary on the host, which goes into the initial file system.
    #[serde(serialize_with = "lossy")]
    pub init: PathBuf,
    /// How much memory it has.
    pub memory_bytes: u64,
    /// How many processors.
    pub vcpus: u32,
    /// What carries out its instructions.
    pub processor: Processor,
    /// How it reaches files of the host.
    pub files: Files,
    /// How the host reaches init.
    pub vsock: Vsock,
    /// Its network card, if it has one.
    pub card: Card,
    /// What programs take from the permissions of what they make: the person's own, as where they inherit it.
    pub umask: u32,
}

/// What carries out a machine's instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Processor {
    /// The host's, by KVM.
    Kvm {
        /// What of it the machine is not to have, so that it makes no machines of its own: `vmx` or `svm`.
        without: Option<&'static str>,
        /// By which of these it makes machines of its own, if it can.
        nested: Option<&'static str>,
    },
    /// A program.
    Tcg {
        /// Why not the host's, where that was not asked for.
        because: Option<String>,
    },
}

/// How a machine reaches files of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Files {
    /// By virtiofsd.
    Virtiofs {
        /// The program.
        #[serde(serialize_with = "lossy")]
        program: PathBuf,
        /// How many files it can know of at once: it keeps each of them open that the machine's kernel remembers.
        most_files: u64,
    },
    /// By qemu itself.
    Plan9,
}

/// How the host reaches init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Vsock {
    /// Through the host's kernel, under this number.
    Host {
        /// The context id.
        cid: u32,
    },
    /// Through a program, and a socket in the sandbox's folder.
    Device {
        /// The program.
        #[serde(serialize_with = "lossy")]
        program: PathBuf,
    },
}

/// A machine's network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Card {
    /// None.
    None,
    /// One from which passt makes connections of the host's, and none to the host itself.
    Passt {
        /// The program.
        #[serde(serialize_with = "lossy")]
        program: PathBuf,
    },
    /// One in a bridge of the host's.
    Bridge {
        /// qemu's program for that.
        #[serde(serialize_with = "lossy")]
        helper: PathBuf,
        /// The bridge.
        name: String,
        /// What the card is called there.
        hardware: [u8; 6],
    },
}

/// Addresses behind passt. Only the machine and passt see them; each machine has the same ones.
pub(super) mod addresses {
    /// The machine's.
    pub(in super::super) const MACHINE: &str = "10.0.2.15";
    /// The length of the prefix, and as a mask.
    pub(in super::super) const PREFIX: u8 = 24;
    pub(in super::super) const MASK: &str = "255.255.255.0";
    /// Where everything else is.
    pub(in super::super) const GATEWAY: &str = "10.0.2.2";
    /// Where names are asked for; passt asks whom the host asks.
    pub(in super::super) const NAMES: &str = "10.0.2.3";
}

impl MachinePlan {
    /// What init has to do first.
    pub(super) fn for_init(&self, plan: &LaunchPlan) -> Machine {
        let kvm = matches!(self.processor, Processor::Kvm { nested: Some(_), .. });
        let network = match &self.card {
            Card::Passt { .. } => Some(Interface {
                address: Some(format!("{}/{}", addresses::MACHINE, addresses::PREFIX)),
                gateway: Some(addresses::GATEWAY.to_owned()),
            }),
            Card::Bridge { .. } => Some(Interface { address: None, gateway: None }),
            Card::None => None,
        };
        Machine {
            modules: self.modules.iter().map(ModuleFile::path_inside).collect(),
            root: Share { tag: TAG.to_owned(), kind: self.files.kind(), most_files: self.files.most() },
            mounts: tree::machine_half(&plan.mounts, kvm),
            network,
            umask: self.umask,
            report: Some(REPORT.to_owned()),
        }
    }

    /// What a person should know of it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Processor::Tcg { because: Some(why) } = &self.processor {
            warnings.push(format!("the machine's processor is emulated, which is many times slower: {why}"));
        }
        if let Files::Virtiofs { most_files: most @ ..FEW_FILES, .. } = self.files {
            warnings.push(format!(
                "the machine can use {most} files at once, and fails to open more: this user may have no more open \
                 (`ulimit -Hn`); `--share 9p` has no such bound"
            ));
        }
        warnings
    }

    /// What to call for init; a path is one in the sandbox's folder.
    pub(super) fn address(&self) -> Address {
        match self.vsock {
            Vsock::Host { cid } => Address::Vsock { cid, port: PORT },
            Vsock::Device { .. } => {
                Address::Hybrid { path: Path::new(OWN_FOLDER).join(VSOCK_SOCKET), port: PORT }
            }
        }
    }
}

impl Files {
    /// The same for init.
    pub(super) fn kind(&self) -> ShareKind {
        match self {
            Files::Virtiofs { .. } => ShareKind::Virtiofs,
            Files::Plan9 => ShareKind::Plan9,
        }
    }

    /// How many of them the host can have open for the machine, where that is bounded.
    fn most(&self) -> Option<u64> {
        match self {
            Files::Virtiofs { most_files, .. } => Some(*most_files),
            Files::Plan9 => None,
        }
    }
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

fn names<S: Serializer>(modules: &[ModuleFile], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(modules.iter().map(|module| &module.name))
}
