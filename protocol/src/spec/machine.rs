//! What init does first where it is PID 1 of a machine of its own: the machine has a kernel and nothing else yet.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::User;

/// Modules of the kernel, and mounts. A kernel whose drivers are all modules needs some twenty.
const MAX_ENTRIES: usize = 256;

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
    /// The permissions that programs take from what they make, unless they say otherwise: umask(2).
    #[serde(default = "usual_umask")]
    pub umask: u32,
    /// Where init tells that it listens, and how it ended, each as one line of JSON: `{"ready": true}`, `{"exit-code": 0}`. A
    /// serial port, say.
    #[serde(default)]
    pub report: Option<String>,
}

fn usual_umask() -> u32 {
    0o022
}

/// A file system of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What the device calls it.
    pub tag: String,
    /// How it is reached.
    pub kind: ShareKind,
    /// How many of its files the host can have open for the machine. Absent: there is no such bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_files: Option<u64>,
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
#[serde(tag = "kind", rename_all = "kebab-case", try_from = "Written")]
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

/// A mount as it is written down: with what no kind needs it is refused, as an unknown field is. Serde's own way to read
/// an enum by its tag would take 100 kB of init.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: MountKind,
    at: String,
    kvm: Option<bool>,
    size_bytes: Option<u64>,
    mode: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MountKind {
    Proc,
    Dev,
    Tmpfs,
    ReadOnly,
}

impl TryFrom<Written> for MachineMount {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { kind, at, kvm, size_bytes, mode } = written;
        match (kind, kvm, size_bytes, mode) {
            (MountKind::Proc, None, None, None) => Ok(Self::Proc { at }),
            (MountKind::Dev, kvm, None, None) => Ok(Self::Dev { at, kvm: kvm.unwrap_or(false) }),
            (MountKind::Tmpfs, None, Some(size_bytes), Some(mode)) => {
                Ok(Self::Tmpfs { at, size_bytes, mode })
            }
            (MountKind::ReadOnly, None, None, None) => Ok(Self::ReadOnly { at }),
            (MountKind::Tmpfs, None, _, _) => Err("a mount of kind `tmpfs` needs `size_bytes` and `mode`"),
            _ => Err("`kvm` is for a mount of kind `dev`, `size_bytes` and `mode` for one of kind `tmpfs`"),
        }
    }
}

/// A network device and what it is called in its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// An IPv4 address with the length of its prefix, such as `10.0.2.15/24`. Absent: init asks the network for one, by DHCP
    /// (RFC 2131), and for a gateway and whom to ask for names; these are then in `/etc/resolv.conf`, if there is such a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where everything else is reached, in the same network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

impl MachineMount {
    /// Where it is.
    pub fn at(&self) -> &str {
        match self {
            Self::Proc { at } | Self::Dev { at, .. } | Self::Tmpfs { at, .. } | Self::ReadOnly { at } => at,
        }
    }
}

impl Interface {
    /// The address and the length of its prefix; `None` where there is none, or what is there is none.
    pub fn parse(&self) -> Option<(Ipv4Addr, u8)> {
        let (address, prefix) = self.address.as_ref()?.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
        Some((address.parse().ok()?, prefix))
    }
}

impl Machine {
    /// Everything that is wrong with it: where, and what.
    pub(super) fn problems(&self, user: Option<&User>) -> Vec<(String, &'static str)> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, at: String, what: &'static str| {
            if !holds {
                problems.push((at, what));
            }
        };
        require(
            user.is_some_and(|user| user.uid != 0 && user.gid != 0),
            "user".to_owned(),
            "must be an ordinary one: nothing runs as root in a machine",
        );
        require(self.modules.len() <= MAX_ENTRIES, "machine.modules".to_owned(), "are too many");
        for (i, module) in self.modules.iter().enumerate().take(MAX_ENTRIES) {
            require(is_absolute(module), format!("machine.modules[{i}]"), "is not an absolute path");
        }
        let tag = &self.root.tag;
        // One that 9p and virtio-fs both have room for.
        let fits = (1..=31).contains(&tag.len()) && !tag.contains('\0');
        require(fits, "machine.root.tag".to_owned(), "must have 1 to 31 bytes");
        require(self.mounts.len() <= MAX_ENTRIES, "machine.mounts".to_owned(), "are too many");
        for (i, mount) in self.mounts.iter().enumerate().take(MAX_ENTRIES) {
            require(is_absolute(mount.at()), format!("machine.mounts[{i}].at"), "is not an absolute path");
            if let MachineMount::Tmpfs { size_bytes, mode, .. } = mount {
                // The kernel takes 0 for "without a bound".
                require(*size_bytes > 0, format!("machine.mounts[{i}].size_bytes"), "must be at least 1");
                require(*mode <= 0o1777, format!("machine.mounts[{i}].mode"), "is no mode of a folder");
            }
        }
        if let Some(network) = &self.network {
            let what = "must be an IPv4 address with its prefix, as 10.0.2.15/24";
            let address = network.address.is_none() || network.parse().is_some();
            require(address, "machine.network.address".to_owned(), what);
            let gateway = network.gateway.as_ref().is_none_or(|text| text.parse::<Ipv4Addr>().is_ok());
            require(gateway, "machine.network.gateway".to_owned(), "must be an IPv4 address");
            let both = network.gateway.is_none() || network.address.is_some();
            require(both, "machine.network.gateway".to_owned(), "comes with an address, or from the network");
        }
        require(self.umask <= 0o777, "machine.umask".to_owned(), "is no mask of permissions");
        if let Some(report) = &self.report {
            require(is_absolute(report), "machine.report".to_owned(), "is not an absolute path");
        }
        problems
    }
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && path.len() < 4096
}
