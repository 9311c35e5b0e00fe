//! What the launcher of a machine does, as data: it reads this from a file without a name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::isolation::rootfs::{Bind, Entry};

/// The subcommand of ours that is the launcher. It is nobody's to type.
pub(super) const LAUNCHER: &str = "microvm-launcher";

/// Within the place: the root folder that the machine is shown.
pub(super) const TREE: &str = "/tree";
/// Where parts meet each other. Nothing else is there.
pub(super) const SOCKETS: &str = "/run";
/// The folder of the sandbox that the host reaches the machine through.
pub(super) const OWN: &str = "/own";

/// Descriptors of parts, by what they are for. Each part has some of them, always under the same number.
pub(super) mod wire {
    /// What the machine prints.
    pub(in super::super) const CONSOLE: i32 = 3;
    /// Where init tells how it ended.
    pub(in super::super) const REPORT: i32 = 4;
    /// Between the machine's network card and what carries its packets.
    pub(in super::super) const NETWORK: i32 = 5;
    /// The kernel's image.
    pub(in super::super) const KERNEL: i32 = 6;
    /// The initial file system.
    pub(in super::super) const INITIAL: i32 = 7;
    /// The host's own device for vsock.
    pub(in super::super) const VHOST_VSOCK: i32 = 8;
    /// Between the machine and what serves it the files of the host.
    pub(in super::super) const SHARE: i32 = 9;
    /// Between the machine and what carries its connections.
    pub(in super::super) const VSOCK: i32 = 10;
    /// The first number that is nobody's.
    pub(in super::super) const END: i32 = 11;
}

/// The whole of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// A folder that is covered with a file system in memory. That becomes the root of all parts.
    pub(super) place: PathBuf,
    /// What the machine is shown, in this order.
    pub(super) tree: Vec<Piece>,
    /// What its parts are shown, links and folders first.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// The same of the host. Where it appears counts from the place.
    pub(super) room: Vec<Bind>,
    /// Devices that parts use.
    pub(super) devices: Vec<PathBuf>,
    /// Started in this order. The last one is the machine.
    pub(super) parts: Vec<Part>,
    /// Where things are read and written.
    pub(super) numbers: Numbers,
    /// Whether the sandbox ends with the process that started it.
    pub(super) dies_with_parent: bool,
}

/// Numbers of what the launcher inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    /// Init's spec.
    pub(super) spec: i32,
    /// What init knows its host by.
    pub(super) token: i32,
    /// The archive with init and the kernel's modules.
    pub(super) archive: i32,
    /// The kernel's image.
    pub(super) kernel: i32,
    /// Where the record of this start is written.
    pub(super) record: i32,
    /// Where the machine's output is kept.
    pub(super) console: i32,
    /// The host's own device for vsock, where it is used.
    pub(super) vhost_vsock: Option<i32>,
    /// A device of the host's that is in a bridge, where the machine's card is to be there.
    pub(super) bridged: Option<i32>,
}

/// One step on the way to the machine's root folder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Piece {
    /// Something of ours.
    Entry(Entry),
    /// Something of the host's.
    Bind {
        /// Where it is when the launcher starts.
        source: PathBuf,
        /// Path inside.
        at: String,
        /// Whether writing is refused, for all that is mounted in it too.
        read_only: bool,
    },
    /// A folder in which there is nothing and nothing can be made.
    Empty {
        /// Path inside.
        at: String,
    },
}

/// One of the processes that are the machine together.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// What it is called in the record and in messages.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// The descriptors it gets.
    pub(super) wires: Vec<i32>,
    /// Where it has to listen before the next one is started, and under which number that one is connected.
    pub(super) listens: Option<(PathBuf, i32)>,
    /// Whether it needs the host's network. Parts that do come first.
    pub(super) network: bool,
}
