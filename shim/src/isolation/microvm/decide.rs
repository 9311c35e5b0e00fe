//! From what was asked for and what the host has to a machine. Looks at the host, changes nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_protocol::spec::ShareKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::error::MachineError;
use super::kernel::{self, Inventory, KernelError};
use super::kvm;
use super::needs::{ALWAYS, Need};
use super::plan::{Card, Files, MachinePlan, Processor, Vsock};
use crate::isolation::error::IsolationError;
use crate::isolation::{Accelerator, Caller, Network, Request, ids};
use crate::programs::{self, Answer, Question, is_program};

/// How long a program may take to say what it can.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Memory where none is asked for: what a build of a larger project takes, and never more than half of the host's.
const MEMORY_BYTES: u64 = 4 * 1024 * MIB;
/// The least that a distribution's kernel comes up with.
const LEAST_MEMORY_BYTES: u64 = 256 * MIB;
const MIB: u64 = 1024 * 1024;

/// Processors where none are asked for, if the host has as many.
const VCPUS: u32 = 4;
/// As many as qemu's machine takes without further devices.
const MOST_VCPUS: u32 = 255;

/// A mask that nobody chose.
const USUAL_UMASK: u32 = 0o022;

/// What virtiofsd asks for.
const VIRTIOFSD_MOST_FILES: u64 = 1_000_000;

/// What tells one host from another: machine-id(5), or where it has none, its name.
const MACHINE_ID: &str = "/etc/machine-id";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Where virtiofsd is, which nobody is to start by hand.
const VIRTIOFSD: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"];
/// Where qemu's helper is.
const BRIDGE_HELPERS: [&str; 3] = [
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
    "/run/wrappers/bin/qemu-bridge-helper",
];

/// Context ids of our machines; 3 is what a person's first one has, by custom.
const FIRST_CID: u32 = 0x0010_0000;
const CIDS: u32 = 0x7000_0000;

/// Programs as they are found in a list of folders like `PATH`.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    search: OsString,
}

impl Programs {
    pub(super) fn new(search: OsString) -> Programs {
        Programs { search }
    }

    /// The first of this name.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        // Root runs it as an id that may not get through a link in its home.
        programs::find(name, &self.search).and_then(|found| found.canonicalize().ok())
    }

    pub(super) fn searched(&self) -> String {
        self.search.to_string_lossy().into_owned()
    }
}

/// Decides on a machine for `request`.
pub(super) fn decide(request: &Request, programs: &Programs) -> Result<MachinePlan, IsolationError> {
    let wishes = &request.machine;
    let memory_bytes = memory(request.limits.memory_bytes, host_memory())?;
    let vcpus = vcpus(wishes.vcpus, processors())?;
    let kernel = kernel::find(wishes.kernel.as_deref(), Path::new("/"))?;
    let inventory = kernel.inventory()?;
    let files = files(wishes.share, request.caller, programs, &inventory)?;
    let vsock = vsock(request, programs)?;
    let card = card(request, programs)?;
    let processor = processor(request)?;
    let mut needs = ALWAYS.to_vec();
    needs.push(match files {
        Files::Virtiofs { .. } => Need::Virtiofs,
        Files::Plan9 => Need::Plan9,
    });
    if card != Card::None {
        needs.push(Need::Net);
    }
    let mut wants = vec![Need::Rng, Need::Cgroups];
    match processor {
        Processor::Kvm { nested: Some(kvm::VMX), .. } => wants.push(Need::KvmIntel),
        Processor::Kvm { nested: Some(_), .. } => wants.push(Need::KvmAmd),
        Processor::Kvm { nested: None, .. } | Processor::Tcg { .. } => {}
    }
    let modules = inventory.modules_for(&needs, &wants)?;
    Ok(MachinePlan {
        kernel: kernel.image.clone(),
        kernel_version: kernel.version.clone(),
        modules,
        init: request.init.clone(),
        memory_bytes,
        vcpus,
        processor,
        files,
        vsock,
        card,
        umask: own_umask(),
    })
}

/// The mask of this process. There is no system call that tells it and leaves it alone.
fn own_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    umask_in(&status).unwrap_or(USUAL_UMASK)
}

fn umask_in(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

fn memory(asked: Option<u64>, host: u64) -> Result<u64, MachineError> {
    let bytes = match asked {
        Some(asked) if asked > host => {
            return Err(MachineError::TooMuchMemory { asked: asked / MIB, host: host / MIB });
        }
        Some(asked) if asked < LEAST_MEMORY_BYTES => {
            return Err(MachineError::TooLittleMemory {
                asked: asked / MIB,
                needed: LEAST_MEMORY_BYTES / MIB,
            });
        }
        Some(asked) => asked,
        None => MEMORY_BYTES.min(host / 2).max(LEAST_MEMORY_BYTES),
    };
    // In whole pages of any size.
    Ok(bytes / (2 * MIB) * (2 * MIB))
}

fn vcpus(asked: Option<u32>, host: u32) -> Result<u32, MachineError> {
    match asked {
        Some(asked @ 1..=MOST_VCPUS) => Ok(asked),
        Some(asked) => Err(MachineError::Vcpus { asked, most: MOST_VCPUS }),
        None => Ok(host.min(VCPUS)),
    }
}

fn host_memory() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = table.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total
        .and_then(|total| total.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib * 1024)
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

fn files(
    wish: Option<ShareKind>,
    caller: Caller,
    programs: &Programs,
    kernel: &Inventory<'_>,
) -> Result<Files, IsolationError> {
    let lack = |need| kernel.lack(need).map_or(Ok(()), |lack: KernelError| Err(lack));
    let by_virtiofs = || -> Result<Files, IsolationError> {
        let program = virtiofsd(programs).map_err(|why| MachineError::NoShare {
            kind: "virtiofs",
            why,
            other: None,
        })?;
        lack(Need::Virtiofs)?;
        Ok(Files::Virtiofs { program, most_files: most_files(caller) })
    };
    let by_plan9 = || -> Result<Files, IsolationError> {
        lack(Need::Plan9)?;
        Ok(Files::Plan9)
    };
    let (first, second, name) = match wish {
        Some(ShareKind::Plan9) => (by_plan9(), None, "9p"),
        Some(ShareKind::Virtiofs) => (by_virtiofs(), None, "virtiofs"),
        None => match by_virtiofs() {
            Ok(files) => return Ok(files),
            Err(error) => (by_plan9(), Some(error), "virtiofs"),
        },
    };
    match (first, second) {
        (Ok(files), _) => Ok(files),
        (Err(error), None) => {
            let other = match wish {
                Some(ShareKind::Plan9) => by_virtiofs().is_ok().then_some("virtiofs"),
                _ => by_plan9().is_ok().then_some("9p"),
            };
            Err(MachineError::NoShare { kind: name, why: reason(error), other }.into())
        }
        (Err(plan9), Some(virtiofs)) => {
            let why = format!("{}, and {}", reason(virtiofs), reason(plan9));
            Err(MachineError::NoShare { kind: "virtiofs or 9p", why, other: None }.into())
        }
    }
}

/// How many files virtiofsd may have open: its own bound, and what this host allows it.
fn most_files(caller: Caller) -> u64 {
    let may_raise = matches!(caller, Caller::Root { .. })
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    let now = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let allowed = if may_raise { now.max(most_open_files()) } else { now };
    allowed.min(VIRTIOFSD_MOST_FILES)
}

/// As many as a process of root's may have open.
fn most_open_files() -> u64 {
    let setting = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    setting.trim().parse().unwrap_or(VIRTIOFSD_MOST_FILES)
}

/// Lets what is started have as many files open as virtiofsd asks for, where that is ours to allow. The person's own bound
/// on what a process has open stays for all else: it is the lower of two.
pub(super) fn allow_files(caller: Caller) {
    if let Caller::Root { .. } = caller {
        let now = getrlimit(Resource::Nofile);
        let most = Some(most_open_files()).max(now.maximum);
        // What cannot be raised stays as it is, and virtiofsd does with less.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.current, maximum: most });
    }
}

fn reason(error: IsolationError) -> String {
    match error {
        IsolationError::Machine(MachineError::NoShare { why, .. }) => why,
        other => other.to_string(),
    }
}

/// One that can tell ids inside from those outside by itself: others have to be root for that.
fn virtiofsd(programs: &Programs) -> Result<PathBuf, String> {
    let fixed = VIRTIOFSD.iter().map(PathBuf::from).filter(|path| is_program(path));
    let found: Vec<PathBuf> = programs.find("virtiofsd").into_iter().chain(fixed).collect();
    let mut why = format!("there is no `virtiofsd` in {}", programs.searched());
    for program in found {
        match ask(&program, "--help") {
            Ok(help) if help.contains("--translate-uid") => return Ok(program),
            Ok(_) => why = format!("{} is too old: it has no `--translate-uid`", program.display()),
            Err(said) => why = format!("{} does not work: {said}", program.display()),
        }
    }
    Err(why)
}

/// What a program prints.
pub(super) fn ask(program: &Path, question: &str) -> Result<String, String> {
    let args = vec![question.into()];
    let answer =
        Question { program, args, variables: Vec::new(), user: None, patience: ANSWERS_WITHIN }.ask();
    match (answer.complaint(), answer) {
        (None, Answer::Ended { stdout, .. }) => Ok(stdout),
        (complaint, _) => Err(complaint.unwrap_or_default()),
    }
}

fn vsock(request: &Request, programs: &Programs) -> Result<Vsock, MachineError> {
    let device = Path::new("/dev/vhost-vsock");
    let host = match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => {
            use std::os::unix::ffi::OsStrExt;
            let seed = ids::fnv1a(request.folder.as_os_str().as_bytes());
            return Ok(Vsock::Host { cid: FIRST_CID + seed % CIDS });
        }
        Err(error) => format!("{} cannot be opened ({error})", device.display()),
    };
    let program = programs.find("vhost-device-vsock");
    program
        .map(|program| Vsock::Device { program })
        .ok_or_else(|| MachineError::VsockMissing { host, searched: programs.searched() })
}

fn card(request: &Request, programs: &Programs) -> Result<Card, MachineError> {
    match &request.network {
        Network::None => Ok(Card::None),
        // There is no sharing the host's network with another kernel.
        Network::Host | Network::Nat => programs
            .find("passt")
            .map(|program| Card::Passt { program })
            .ok_or_else(|| MachineError::PasstMissing { searched: programs.searched() }),
        Network::Bridge(name) => {
            let fixed = BRIDGE_HELPERS.iter().map(PathBuf::from).find(|path| is_program(path));
            programs
                .find("qemu-bridge-helper")
                .or(fixed)
                .map(|helper| Card::Bridge { helper, name: name.clone(), hardware: hardware(request) })
                .ok_or_else(|| MachineError::BridgeHelperMissing { name: name.clone() })
        }
    }
}

/// The same at each start, so that the network knows the machine again, and another one for each sandbox of each host.
fn hardware(request: &Request) -> [u8; 6] {
    let known = |path| fs::read(path).ok().filter(|content| !content.is_empty());
    let host = known(MACHINE_ID).or_else(|| known(HOST_NAME)).unwrap_or_default();
    hardware_of(&[&host, request.folder.as_os_str().as_encoded_bytes()])
}

/// In the range of qemu's machines: 52:54:00.
fn hardware_of(parts: &[&[u8]]) -> [u8; 6] {
    let [.., a, b, c] = ids::fnv1a(&parts.join(&0)).to_be_bytes();
    [0x52, 0x54, 0, a, b, c]
}

fn processor(request: &Request) -> Result<Processor, MachineError> {
    let wishes = &request.machine;
    let user = match request.caller {
        Caller::Ordinary => None,
        Caller::Root { runs_as } => Some(runs_as),
    };
    match wishes.accelerator {
        Accelerator::Tcg => Ok(Processor::Tcg { because: None }),
        Accelerator::Auto => Ok(match kvm::look(user) {
            Ok(found) => found.processor(wishes.no_nested),
            Err(why) => Processor::Tcg { because: Some(why) },
        }),
        Accelerator::Kvm => {
            kvm::look(user).map(|found| found.processor(wishes.no_nested)).map_err(MachineError::NoKvm)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_of_each_host_has_a_hardware_address_of_its_own() {
        let one = hardware_of(&[b"host", b"/a"]);
        assert_eq!(one[..3], [0x52, 0x54, 0]);
        assert_eq!(one, hardware_of(&[b"host", b"/a"]));
        assert_ne!(one, hardware_of(&[b"host", b"/b"]));
        assert_ne!(one, hardware_of(&[b"tsoh", b"/a"]));
    }

    #[test]
    fn memory_is_what_was_asked_for_or_a_part_of_the_hosts() {
        assert_eq!(memory(None, 64 << 30).unwrap(), 4 << 30);
        assert_eq!(memory(None, 4 << 30).unwrap(), 2 << 30);
        assert_eq!(memory(None, 100 << 20).unwrap(), LEAST_MEMORY_BYTES);
        assert_eq!(memory(Some((1 << 30) + 1), 2 << 30).unwrap(), 1 << 30);
        assert!(matches!(
            memory(Some(3 << 30), 2 << 30),
            Err(MachineError::TooMuchMemory { asked: 3072, host: 2048 })
        ));
        assert!(matches!(memory(Some(1 << 20), 2 << 30), Err(MachineError::TooLittleMemory { .. })));
    }

    #[test]
    fn processors_are_what_was_asked_for_or_few() {
        assert_eq!(vcpus(None, 64).unwrap(), 4);
        assert_eq!(vcpus(None, 2).unwrap(), 2);
        assert_eq!(vcpus(Some(8), 2).unwrap(), 8);
        assert!(vcpus(Some(0), 2).is_err() && vcpus(Some(256), 2).is_err());
    }

    #[test]
    fn the_mask_of_permissions_is_read_as_the_kernel_writes_it() {
        assert_eq!(umask_in("Name:\tsh\nUmask:\t0077\nState:\tR"), Some(0o077));
        assert_eq!(umask_in("Name:\tUmask: 0077\n"), None);
        assert!(own_umask() <= 0o777);
    }
}
