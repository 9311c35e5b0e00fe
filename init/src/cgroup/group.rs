//! The files of one cgroup.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    rc::Rc,
};

use agent_protocol::{message::Resources, spec::Limits};
use rustix::{
    fs::{Mode, OFlags, mkdirat, openat},
    io::Errno,
};

use super::pressure::{High, Seen};
use crate::tree;

/// The group's name.
const NAME: &str = "inside";

/// Length of an accounting period of processor time; the kernel's own default.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The longest of the files is `memory.stat`, with some 2000 bytes.
const MAX_FILE_BYTES: usize = 8192;

/// A cgroup whose memory is bounded.
pub(crate) struct Group {
    events: File,
    high: File,
    current: File,
    stat: File,
    /// Where init has made it.
    made: Option<Made>,
}

/// What there is to a group that init has made. All of it is open before init confines itself.
struct Made {
    entrance: Rc<File>,
    /// Linux 5.19.
    peak: Option<File>,
    cpu: Option<File>,
    pids: Option<File>,
}

impl Group {
    /// One that somebody else has made, with init in it.
    pub(crate) fn given(events: OwnedFd, high: OwnedFd, current: OwnedFd, stat: OwnedFd) -> Self {
        let (events, high, current, stat) = (events.into(), high.into(), current.into(), stat.into());
        Self { events, high, current, stat, made: None }
    }

    /// Makes one in a machine of our own, whose cgroups' file system this is, and bounds its memory as `limits` say,
    /// or so that enough is left for the kernel and for init.
    pub(crate) fn of_machine(root: BorrowedFd<'_>, limits: &mut Limits) -> io::Result<Self> {
        let total = std::fs::read_to_string("/proc/meminfo")?;
        let total = field(&total, "MemTotal:").ok_or(io::ErrorKind::InvalidData)? * 1024;
        let most = Limits::memory_of_machine(total);
        limits.memory_bytes = Some(limits.memory_bytes.map_or(most, |wanted| wanted.min(most)));
        Self::make(root, limits)
    }

    /// Makes one in the folder `root` of a cgroup file system, which is nobody else's, with these bounds.
    pub(crate) fn make(root: BorrowedFd<'_>, limits: &Limits) -> io::Result<Self> {
        let write = |folder, file: &str, value: &str| {
            open(folder, file, OFlags::WRONLY)
                .and_then(|file| file.write_at(value.as_bytes(), 0))
                .map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
        };
        let wanted =
            [("memory", true), ("cpu", limits.cpus_milli.is_some()), ("pids", limits.pids.is_some())];
        for (controller, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
            write(root, "cgroup.subtree_control", &format!("+{controller}"))?;
        }
        if limits.cpus_milli.is_none() {
            // However many they are, together they get as much processor time as init alone, should it want as much
            // (cgroup-v2.rst, cpu.weight). Nobody asked for it, so a kernel may be without.
            let _ = write(root, "cgroup.subtree_control", "+cpu");
        }
        match mkdirat(root, NAME, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = openat(root, NAME, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let at = folder.as_fd();
        if let Some(bytes) = limits.memory_bytes {
            write(at, "memory.max", &bytes.to_string())?;
            // A bound that lets the rest go to swap is not the one that was asked for. Without swap there is no such file.
            let _ = write(at, "memory.swap.max", "0");
        }
        if let Some(milli) = limits.cpus_milli {
            let quota = milli.saturating_mul(CPU_PERIOD_MICROS) / 1000;
            write(at, "cpu.max", &format!("{quota} {CPU_PERIOD_MICROS}"))?;
        }
        if let Some(pids) = limits.pids {
            write(at, "pids.max", &pids.to_string())?;
        }
        let read = |file| open(at, file, OFlags::RDONLY);
        let made = Made {
            entrance: Rc::new(open(at, "cgroup.procs", OFlags::RDWR)?),
            peak: read("memory.peak").ok(),
            cpu: read("cpu.stat").ok(),
            pids: read("pids.current").ok(),
        };
        let high = open(at, "memory.high", OFlags::WRONLY)?;
        let (events, current, stat) = (read("memory.events")?, read("memory.current")?, read("memory.stat")?);
        Ok(Self { events, high, current, stat, made: Some(made) })
    }

    /// What the kernel has counted.
    pub(super) fn seen(&self) -> io::Result<Seen> {
        let events = text(&self.events)?;
        let stat = text(&self.stat)?;
        let given_back = ["active_file", "inactive_file", "slab_reclaimable"];
        Ok(Seen {
            high: field(&events, "high").unwrap_or(0),
            kills: field(&events, "oom_kill").unwrap_or(0),
            used_bytes: text(&self.current)?.trim().parse().unwrap_or(0),
            spare_bytes: given_back.iter().filter_map(|name| field(&stat, name)).sum(),
        })
    }

    /// Sets where memory is short.
    pub(super) fn set_high(&self, high: High) -> io::Result<()> {
        let value = match high {
            High::At(bytes) => bytes.to_string(),
            High::Nowhere => "max".to_owned(),
        };
        self.high.write_at(value.as_bytes(), 0).map(drop)
    }

    /// The file that has news when something was counted. It has to be the one that is read.
    pub(super) fn events(&self) -> io::Result<OwnedFd> {
        Ok(self.events.try_clone()?.into())
    }

    /// What is used.
    pub(super) fn used(&self) -> Resources {
        let mut used = Resources { memory_bytes: number(&self.current), ..Resources::default() };
        if let Some(made) = &self.made {
            used.memory_peak_bytes = made.peak.as_ref().and_then(number);
            used.pids = made.pids.as_ref().and_then(number);
            let cpu = made.cpu.as_ref().and_then(|file| text(file).ok());
            used.cpu_ms = cpu.and_then(|cpu| field(&cpu, "usage_usec")).map(|micros| micros / 1000);
        }
        used
    }

    /// The processes in it but init.
    pub(super) fn members(&self) -> Vec<i32> {
        match &self.made {
            Some(made) => {
                let listed = whole(&made.entrance).unwrap_or_default();
                listed.lines().filter_map(|line| line.parse().ok()).collect()
            }
            // Whatever we start is where we are.
            None => tree::everything(),
        }
    }

    /// Where a process enters by writing 0.
    pub(super) fn entrance(&self) -> Option<Rc<File>> {
        self.made.as_ref().map(|made| Rc::clone(&made.entrance))
    }
}

fn open(folder: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<File> {
    Ok(openat(folder, name, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// From its beginning, every time: the kernel writes it anew.
fn text(file: &File) -> io::Result<String> {
    let mut buffer = vec![0; MAX_FILE_BYTES];
    let read = file.read_at(&mut buffer, 0)?;
    buffer.truncate(read);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// A list of numbers can be longer.
fn whole(file: &File) -> io::Result<String> {
    let mut all = Vec::new();
    let mut piece = [0; MAX_FILE_BYTES];
    loop {
        match file.read_at(&mut piece, all.len() as u64)? {
            0 => return Ok(String::from_utf8_lossy(&all).into_owned()),
            read => all.extend_from_slice(&piece[..read]),
        }
    }
}

fn number(file: &File) -> Option<u64> {
    text(file).ok()?.trim().parse().ok()
}

/// The number behind a name that begins a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// A folder of plain files that looks like a cgroup. A real one, where there is a folder to make it in.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("agent-init-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join(NAME)).unwrap();
            fs::write(path.join("cgroup.subtree_control"), "").unwrap();
            let files = [
                ("memory.max", "max\n"),
                ("memory.high", "max\n"),
                ("memory.swap.max", "max\n"),
                ("memory.current", "5000\n"),
                ("memory.peak", "7000\n"),
                ("memory.events", "low 0\nhigh 3\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n"),
                ("memory.stat", "anon 1\nfile 9\ninactive_anon 7\ninactive_file 40\nactive_file 2\n"),
                ("cpu.max", "max 100000\n"),
                ("cpu.stat", "usage_usec 12345678\nuser_usec 1\n"),
                ("pids.max", "max\n"),
                ("pids.current", "4\n"),
                ("cgroup.procs", "1\n22\n333\n"),
            ];
            for (file, content) in files {
                fs::write(path.join(NAME).join(file), content).unwrap();
            }
            Self(path)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_group_is_made_with_its_bounds_and_read() {
        let folder = Folder::new("group");
        let root = File::open(&folder.0).unwrap();
        let limits = Limits {
            pids: Some(100),
            memory_bytes: Some(64 << 20),
            cpus_milli: Some(1500),
            ..Limits::default()
        };
        let group = Group::make(root.as_fd(), &limits).unwrap();
        // Plain files keep what was behind.
        assert!(folder.read("inside/memory.max").starts_with("67108864"));
        assert!(folder.read("inside/memory.swap.max").starts_with('0'));
        assert!(folder.read("inside/cpu.max").starts_with("150000 100000"));
        assert!(folder.read("inside/pids.max").starts_with("100"));
        assert_eq!(group.seen().unwrap(), Seen { high: 3, kills: 1, used_bytes: 5000, spare_bytes: 42 });
        assert_eq!(group.members(), [1, 22, 333]);
        let expected = Resources {
            memory_bytes: Some(5000),
            memory_peak_bytes: Some(7000),
            cpu_ms: Some(12_345),
            pids: Some(4),
            ..Resources::default()
        };
        assert_eq!(group.used(), expected);
        group.set_high(High::At(60 << 20)).unwrap();
        assert!(folder.read("inside/memory.high").starts_with("62914560"));
    }

    #[test]
    fn processor_time_is_shared_with_init_whatever_is_bounded() {
        for cpus_milli in [None, Some(500)] {
            let folder = Folder::new("sharing");
            let limits = Limits { cpus_milli, ..Limits::default() };
            Group::make(File::open(&folder.0).unwrap().as_fd(), &limits).unwrap();
            // Plain files keep what was written last.
            assert!(folder.read("cgroup.subtree_control").starts_with("+cpu"), "{cpus_milli:?}");
        }
        let folder = Folder::new("none to share");
        fs::remove_file(folder.0.join("cgroup.subtree_control")).unwrap();
        let limits = Limits { cpus_milli: Some(500), ..Limits::default() };
        assert!(Group::make(File::open(&folder.0).unwrap().as_fd(), &limits).is_err());
    }

    #[test]
    fn what_the_kernel_lacks_is_named() {
        let folder = Folder::new("lacking");
        fs::remove_file(folder.0.join("inside/cpu.max")).unwrap();
        let root = File::open(&folder.0).unwrap();
        let limits = Limits { cpus_milli: Some(500), ..Limits::default() };
        let error = Group::make(root.as_fd(), &limits).err().unwrap();
        assert!(error.to_string().starts_with("cpu.max: "), "{error}");
    }
}
