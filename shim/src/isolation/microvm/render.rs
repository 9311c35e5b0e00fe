//! A plan as the job of a launcher: the processes that are the machine, with their arguments, and what each of them sees. No I/O.

use std::path::{Path, PathBuf};

use super::job::{Job, Numbers, OWN, Part, SOCKETS, TREE, wire};
use super::plan::{Card, Files, MachinePlan, OWN_FOLDER, Processor, TAG, VSOCK_SOCKET, Vsock, addresses};
use super::tree;
use crate::isolation::plan::{Access, Content, LaunchPlan, Origin};
use crate::isolation::rootfs::Bind;
use crate::isolation::sources::Sources;

/// What the kernel is told. It says nothing that is no trouble, and ends the machine where it would otherwise stop for ever.
/// Its tests of its own ciphers, which nobody has changed since it was built, would take half of the time of a boot.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 no_timer_check nowatchdog panic=-1 reboot=t rdinit=/init random.trust_cpu=on cryptomgr.notests";

/// The machine's context id, where nobody else on the host knows it.
const PRIVATE_CID: u32 = 3;

/// Requests that the share takes at once.
const SHARE_QUEUE: u32 = 1024;

/// Folders of the host in which programs lie, with what they need.
const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];

/// Files that programs read, and that anybody may.
const SETTINGS: [&str; 3] = ["/etc/ld.so.cache", "/etc/resolv.conf", "/etc/alternatives"];

/// Devices that every program may use.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// A job, and what has to be in place for it.
#[derive(Debug)]
pub(super) struct Rendered<'a> {
    pub(super) job: Job,
    /// Numbers under which the launcher reads files from.
    pub(super) files: Vec<(i32, &'a Content)>,
    pub(super) sources: Sources<'a>,
    /// Where the launcher is to be found.
    pub(super) launcher: PathBuf,
    /// The number under which the launcher reads its job.
    pub(super) job_fd: i32,
    /// The last number that is given.
    pub(super) last_fd: i32,
}

/// What of the host exists: what a plan does not say.
pub(super) struct Host {
    /// System folders and files, each with what it points to where it is a link.
    pub(super) system: Vec<(PathBuf, Option<PathBuf>)>,
}

/// What a launch brings along: places that a plan does not name.
pub(super) struct Places {
    /// Our own binary.
    pub(super) launcher: PathBuf,
    /// The folder in which the machine is reached.
    pub(super) own: PathBuf,
}

impl Places {
    /// Those of a plan.
    pub(super) fn new(plan: &LaunchPlan, launcher: PathBuf) -> Places {
        Places { launcher, own: plan.folder.join(OWN_FOLDER) }
    }
}

impl Host {
    /// This one.
    pub(super) fn here() -> Host {
        let system = SYSTEM.iter().chain(&SETTINGS).map(PathBuf::from).filter(|path| path.exists());
        let system = system.map(|path| {
            let target = if SETTINGS.iter().any(|setting| path == Path::new(setting)) {
                None
            } else {
                std::fs::read_link(&path).ok()
            };
            (path, target)
        });
        Host { system: system.collect() }
    }
}

/// Makes the job of `plan`, which is one of `machine`. The numbers that a plan promises are those of the spec and the token.
pub(super) fn render<'a>(
    plan: &'a LaunchPlan,
    machine: &'a MachinePlan,
    places: &'a Places,
    host: &Host,
) -> Rendered<'a> {
    let promised = |name| plan.fds.iter().find(|fd| fd.name == name).map_or(-1, |fd| fd.number);
    let last = plan.fds.iter().map(|fd| fd.number).max().unwrap_or(2).max(2);
    let vhost_vsock = matches!(machine.vsock, Vsock::Host { .. }).then_some(last + 6);
    let bridged = matches!(machine.card, Card::Bridge { .. }).then_some(last + 7);
    let numbers = Numbers {
        spec: promised(super::SPEC),
        token: promised(super::TOKEN),
        archive: last + 2,
        kernel: last + 3,
        record: last + 4,
        console: last + 5,
        vhost_vsock,
        bridged,
    };
    let mut sources = Sources::default();
    let place = sources.own_place(plan, "place");
    let launcher = sources.bind(plan, &places.launcher, Access::ReadOnly, Origin::Caller);
    let tree::Halves { tree, files } = tree::host_half(plan, &mut sources, last + 8);
    let mut room = Room { plan, sources, links: Vec::new(), binds: Vec::new() };
    room.system(host);
    let parts = parts(plan, machine, &mut room, &places.own);
    let mut devices: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
    if matches!(machine.processor, Processor::Kvm { .. }) {
        devices.push("/dev/kvm".into());
    }
    let last_fd = last + 7 + i32::try_from(files.len()).unwrap_or(0);
    let job = Job {
        place,
        tree,
        links: room.links,
        room: room.binds,
        devices,
        parts,
        numbers,
        dies_with_parent: plan.dies_with_parent,
    };
    Rendered { job, files, sources: room.sources, launcher, job_fd: last + 1, last_fd }
}

/// What the parts see of the host.
struct Room<'a> {
    plan: &'a LaunchPlan,
    sources: Sources<'a>,
    links: Vec<(PathBuf, PathBuf)>,
    binds: Vec<Bind>,
}

impl<'a> Room<'a> {
    fn system(&mut self, host: &Host) {
        for (path, target) in &host.system {
            match target {
                Some(target) => self.links.push((path.clone(), target.clone())),
                None => self.binds.push(Bind { source: path.clone(), at: path.clone(), read_only: true }),
            }
        }
    }

    /// A program is where it is on the host. One that lies elsewhere is shown alone, without what is beside it.
    fn program(&mut self, program: &'a Path) -> PathBuf {
        if !SYSTEM.iter().any(|folder| program.starts_with(folder)) {
            let source = self.sources.bind(self.plan, program, Access::ReadOnly, Origin::Caller);
            self.binds.push(Bind { source, at: program.to_owned(), read_only: true });
        }
        program.to_owned()
    }
}

fn parts<'a>(
    plan: &'a LaunchPlan,
    machine: &'a MachinePlan,
    room: &mut Room<'a>,
    own: &'a Path,
) -> Vec<Part> {
    let mut parts = Vec::new();
    if let Card::Passt { program } = &machine.card {
        parts.push(passt(room.program(program)));
    }
    if let Files::Virtiofs { program, .. } = &machine.files {
        parts.push(virtiofsd(room.program(program)));
    }
    if let Vsock::Device { program } = &machine.vsock {
        let source = room.sources.bind(plan, own, Access::ReadWrite, Origin::Caller);
        room.binds.push(Bind { source, at: OWN.into(), read_only: false });
        parts.push(vsock_device(room.program(program)));
    }
    parts.push(qemu(room.program(&plan.program), plan, machine));
    parts
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Connections go where the host's would, but for its loopback: no address behind passt means that. By its own address the host is one
/// of its network, with what it shows there.
fn passt(program: PathBuf) -> Part {
    let mut args = strings(["--foreground", "--quiet", "--ipv4-only", "--no-map-gw", "--no-dhcp"]);
    for (option, value) in [
        ("--fd", wire::NETWORK.to_string()),
        ("--address", addresses::MACHINE.to_owned()),
        ("--netmask", addresses::MASK.to_owned()),
        ("--gateway", addresses::GATEWAY.to_owned()),
        ("--dns-forward", addresses::NAMES.to_owned()),
        ("--tcp-ports", "none".to_owned()),
        ("--udp-ports", "none".to_owned()),
    ] {
        args.extend([option.to_owned(), value]);
    }
    Part { name: "passt".to_owned(), program, args, wires: vec![wire::NETWORK], listens: None, network: true }
}

/// It has no right but those of the sandbox's user, and every id inside is that one outside: so there is nothing that it could
/// be talked into changing the owner to.
fn virtiofsd(program: PathBuf) -> Part {
    let socket = format!("{SOCKETS}/share.sock");
    let mut args = strings(["--shared-dir", TREE, "--socket-path", &socket]);
    // A sandbox of its own would give it rights to make that with. It is in one already.
    args.extend(strings(["--sandbox", "none", "--inode-file-handles=never", "--log-level", "error"]));
    for ids in ["--translate-uid", "--translate-gid"] {
        let id = crate::isolation::plan::USER_ID;
        args.extend([ids.to_owned(), format!("squash-guest:0:{id}:4294967295")]);
    }
    Part {
        name: "virtiofsd".to_owned(),
        program,
        args,
        wires: Vec::new(),
        listens: Some((socket.into(), wire::SHARE)),
        network: false,
    }
}

fn vsock_device(program: PathBuf) -> Part {
    let socket = format!("{SOCKETS}/vsock.sock");
    let cid = PRIVATE_CID.to_string();
    let path = format!("{OWN}/{VSOCK_SOCKET}");
    let args = strings(["--guest-cid", &cid, "--socket", &socket, "--uds-path", &path]);
    Part {
        name: "vhost-device-vsock".to_owned(),
        program,
        args,
        wires: Vec::new(),
        listens: Some((socket.into(), wire::VSOCK)),
        network: false,
    }
}

fn qemu(program: PathBuf, plan: &LaunchPlan, machine: &MachinePlan) -> Part {
    let name = program.file_name().map_or_else(|| "qemu".into(), |name| name.to_string_lossy()).into_owned();
    let mut qemu = Qemu { args: Vec::new(), wires: Vec::new() };
    qemu.add("-name", format!("agent-shim-{}", plan.hostname));
    for alone in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        qemu.args.push(alone.to_owned());
    }
    qemu.add("-display", "none");
    // No monitor, no way to make processes or to change ids.
    qemu.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    qemu.processor(machine);
    let bytes = machine.memory_bytes;
    // Shared with virtiofsd and the vsock device, who read and write what the machine points to.
    qemu.add("-object", format!("memory-backend-memfd,id=memory,size={bytes},share=on"));
    qemu.add("-kernel", qemu_path(wire::KERNEL));
    qemu.add("-initrd", qemu_path(wire::INITIAL));
    qemu.wires.extend([wire::KERNEL, wire::INITIAL]);
    qemu.add("-append", COMMAND_LINE);
    for (id, number) in [("console", wire::CONSOLE), ("report", wire::REPORT)] {
        qemu.line(id, number);
        qemu.add("-serial", format!("chardev:{id}"));
    }
    qemu.add("-device", "virtio-rng-pci");
    match machine.vsock {
        Vsock::Host { cid } => {
            let fd = wire::VHOST_VSOCK;
            qemu.wires.push(fd);
            qemu.add("-device", format!("vhost-vsock-pci,guest-cid={cid},vhostfd={fd}"));
        }
        Vsock::Device { .. } => {
            qemu.line("vsock", wire::VSOCK);
            qemu.add("-device", "vhost-user-vsock-pci,chardev=vsock");
        }
    }
    match machine.files {
        Files::Virtiofs { .. } => {
            qemu.line("share", wire::SHARE);
            let device = format!("vhost-user-fs-pci,chardev=share,tag={TAG},queue-size={SHARE_QUEUE}");
            qemu.add("-device", device);
        }
        Files::Plan9 => {
            let how = "security_model=none,multidevs=remap";
            qemu.add("-fsdev", format!("local,id=share,path={TREE},{how}"));
            qemu.add("-device", format!("virtio-9p-pci,fsdev=share,mount_tag={TAG}"));
        }
    }
    let fd = wire::NETWORK;
    match machine.card {
        Card::None => {}
        Card::Passt { .. } => qemu.card(format!("socket,id=card,fd={fd}"), ""),
        Card::Bridge { hardware, .. } => {
            let address = hardware.map(|byte| format!("{byte:02x}")).join(":");
            qemu.card(format!("tap,id=card,fd={fd}"), &format!(",mac={address}"));
        }
    }
    Part { name, program, args: qemu.args, wires: qemu.wires, listens: None, network: false }
}

/// What it inherits, as a file.
fn qemu_path(number: i32) -> String {
    format!("/proc/self/fd/{number}")
}

struct Qemu {
    args: Vec<String>,
    wires: Vec<i32>,
}

impl Qemu {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.args.extend([option.to_owned(), value.into()]);
    }

    /// A line that is open already.
    fn line(&mut self, id: &str, number: i32) {
        self.wires.push(number);
        self.add("-chardev", format!("socket,id={id},fd={number}"));
    }

    fn card(&mut self, backend: String, more: &str) {
        self.wires.push(wire::NETWORK);
        self.add("-netdev", backend);
        self.add("-device", format!("virtio-net-pci,netdev=card,romfile={more}"));
    }

    fn processor(&mut self, machine: &MachinePlan) {
        self.add("-machine", "q35,memory-backend=memory,usb=off,vmport=off,smbus=off,sata=off");
        match &machine.processor {
            Processor::Kvm { without, .. } => {
                self.add("-accel", "kvm");
                let less = without.map(|feature| format!(",-{feature}")).unwrap_or_default();
                self.add("-cpu", format!("host{less}"));
            }
            Processor::Tcg { .. } => {
                self.add("-accel", "tcg,thread=multi");
                self.add("-cpu", "max");
            }
        }
        self.add("-smp", machine.vcpus.to_string());
        self.add("-m", format!("{}M", machine.memory_bytes >> 20));
    }
}

#[cfg(test)]
mod tests;
