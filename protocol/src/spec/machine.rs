//! What init does first where it is PID 1 of a machine of its own: the machine has a kernel and nothing else yet.

use serde::{Deserialize, Serialize};

/// A machine, as its host has made it. Paths are those of the root file system, unless another is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Kernel modules in the initial file system, loaded in this order; paths in it.
    #[serde(default)]
    pub modules: Vec<String>,
    /// The root file system, which the host shares.
    pub root: Share,
    /// What lies on top of it, in this order. The folders are there.
    #[serde(default)]
    pub mounts: Vec<MachineMount>,
    /// The network device, where there is one. The loopback device always comes up.
    #[serde(default)]
    pub network: Option<Interface>,
    /// Where init tells how it ended, as one line of JSON: `{"exit-code": 0}`. A serial port, say.
    #[serde(default)]
    pub report: Option<String>,
}

/// A file system of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What the device calls it.
    pub tag: String,
    /// How it is reached.
    pub kind: ShareKind,
}

/// How a file system of the host's is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareKind {
    /// virtio-fs.
    Virtiofs,
    /// 9p over virtio.
    #[serde(rename = "9p")]
    Plan9,
}

/// One file system of the machine's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MachineMount {
    /// The process table.
    Proc {
        /// Where.
        at: String,
    },
    /// null, zero, full, random, urandom, tty, terminals of its own and the usual links to descriptors, and nothing else.
    Dev {
        /// Where.
        at: String,
        /// Whether `kvm` is there too, for machines within the machine.
        #[serde(default)]
        kvm: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where.
        at: String,
        /// Memory it can take.
        size_bytes: u64,
        /// Permissions of its top folder.
        mode: u32,
    },
    /// What is at this path cannot be written to from here on, mounts on top of it excepted.
    ReadOnly {
        /// Where.
        at: String,
    },
}

/// A network device and what it is called in its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// An IPv4 address with the length of its prefix, such as `10.0.2.15/24`.
    pub address: String,
    /// Where everything else is reached, in the same network.
    #[serde(default)]
    pub gateway: Option<String>,
}
