//! The cgroup of one sandbox: made, handed over, read and removed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use agent_protocol::{message::Resources, spec::MemoryFiles};

use super::super::plan::PromisedFd;
use super::{CgroupPlan, LimitError, LimitPlan};

/// Files of the group that init gets, open: it cannot see them where it runs. By them it knows that memory is short, and
/// whom the kernel has ended for that.
const FOR_INIT: [(&str, &str); 4] = [
    ("memory-events", "memory.events"),
    ("memory-high", MEMORY_HIGH),
    ("memory-current", "memory.current"),
    ("memory-stat", "memory.stat"),
];

/// The one that init writes to.
const MEMORY_HIGH: &str = "memory.high";

impl LimitPlan {
    /// What init inherits besides, numbered from `first` on.
    pub(in crate::isolation) fn promised(&self, first: i32) -> Vec<PromisedFd> {
        let bounds_memory = self.cgroup.as_ref().is_some_and(CgroupPlan::bounds_memory);
        let files = FOR_INIT.iter().zip(first..).filter(|_| bounds_memory);
        files.map(|((name, _), number)| PromisedFd { name, number }).collect()
    }

    /// Creates the group, where there is to be one. It is removed again unless it is kept.
    pub(in crate::isolation) fn make(&self) -> Result<Option<Made<'_>>, LimitError> {
        self.cgroup.as_ref().map(CgroupPlan::create).transpose()
    }
}

/// Where init finds the files of its group, if it gets them.
pub(crate) fn memory_files(fds: &[PromisedFd]) -> Option<MemoryFiles> {
    let mut numbers = FOR_INIT.iter().map(|(name, _)| Some(fds.iter().find(|fd| fd.name == *name)?.number));
    let mut next = || numbers.next().flatten();
    Some(MemoryFiles { events: next()?, high: next()?, current: next()?, stat: next()? })
}

/// A group that was created and is empty.
#[derive(Debug)]
pub(in crate::isolation) struct Made<'plan> {
    plan: &'plan CgroupPlan,
    procs: fs::File,
    kept: bool,
}

impl Made<'_> {
    /// `cgroup.procs`, for a process to enter by writing `0`.
    pub(in crate::isolation) fn entrance(&self) -> RawFd {
        self.procs.as_raw_fd()
    }

    /// What init was promised of it.
    pub(in crate::isolation) fn for_init(&self) -> Result<Vec<(&'static str, OwnedFd)>, LimitError> {
        let files = FOR_INIT.iter().filter(|_| self.plan.bounds_memory());
        let open = |(name, file): &(&'static str, &str)| {
            let is_written = *file == MEMORY_HIGH;
            let opened = fs::OpenOptions::new()
                .read(!is_written)
                .write(is_written)
                .open(self.plan.folder.join(file))
                .map_err(|source| self.plan.failed("opening files of the cgroup", source))?;
            Ok((*name, OwnedFd::from(opened)))
        };
        files.map(open).collect()
    }

    /// From now on somebody else removes it; its folder.
    pub(in crate::isolation) fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.plan.folder.clone()
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is an empty group.
            let _ = remove(&self.plan.folder);
        }
    }
}

impl CgroupPlan {
    fn bounds_memory(&self) -> bool {
        self.settings.iter().any(|(file, _)| file == "memory.max")
    }

    /// Creates the group.
    fn create(&self) -> Result<Made<'_>, LimitError> {
        if let Some(parent) = self.folder.parent().filter(|_| !self.enable.is_empty()) {
            let line: Vec<String> = self.enable.iter().map(|c| format!("+{}", c.name())).collect();
            write(&parent.join("cgroup.subtree_control"), &line.join(" "))?;
        }
        match fs::create_dir(&self.folder) {
            // Left by a sandbox of this name whose remains were not cleaned up; its settings are written anew.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|source| self.failed("creating the cgroup", source))?,
        }
        for (file, value) in &self.settings {
            let path = self.folder.join(file);
            // The swap controller may be compiled out; memory.max alone is then the whole truth.
            if file == "memory.swap.max" && !path.exists() {
                continue;
            }
            write(&path, value)?;
        }
        let procs = self.folder.join("cgroup.procs");
        let procs = fs::OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(|source| self.failed("entering the cgroup", source))?;
        Ok(Made { plan: self, procs, kept: false })
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> LimitError {
        LimitError::Io { doing, path: self.folder.clone(), source }
    }
}

/// What the group at `folder` uses now, and has used.
pub fn usage(folder: &Path) -> Resources {
    let text = |file| fs::read_to_string(folder.join(file)).ok();
    let number = |file| text(file)?.trim().parse().ok();
    let field = |file, name: &str| {
        let text = text(file)?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    Resources {
        memory_bytes: number("memory.current"),
        // Linux 5.19.
        memory_peak_bytes: number("memory.peak"),
        // `max` is no number, and no bound.
        memory_limit_bytes: number("memory.max"),
        cpu_ms: field("cpu.stat", "usage_usec").map(|micros| micros / 1000),
        cpu_limit_milli: text("cpu.max").as_deref().and_then(milli_cpus),
        pids: number("pids.current"),
        pids_limit: number("pids.max"),
        out_of_memory: field("memory.events", "oom_kill"),
    }
}

/// `QUOTA PERIOD` in microseconds, as thousandths of a processor.
fn milli_cpus(cpu_max: &str) -> Option<u64> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    (quota.parse::<u64>().ok()?.checked_mul(1000)?).checked_div(period.parse().ok()?)
}

/// Removes the group of a sandbox that is gone; fine if there is none.
///
/// `ResourceBusy` while a process in it is not reaped yet: try again within your deadline.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write(path: &Path, value: &str) -> Result<(), LimitError> {
    fs::write(path, value).map_err(|source| LimitError::Io {
        doing: "writing",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Controller;
    use super::*;

    /// The plan of a group that is there already, as a kernel would have filled it.
    fn group(settings: &[(&str, &str)]) -> (tempfile::TempDir, LimitPlan) {
        let folder = tempfile::tempdir().unwrap();
        let files = FOR_INIT.map(|(_, file)| file);
        for file in files.into_iter().chain(["cgroup.procs"]) {
            fs::write(folder.path().join(file), file).unwrap();
        }
        let settings =
            settings.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect();
        let plan =
            CgroupPlan { folder: folder.path().to_owned(), enable: Vec::<Controller>::new(), settings };
        (folder, LimitPlan { cgroup: Some(plan), ..LimitPlan::default() })
    }

    #[test]
    fn init_gets_the_files_that_it_was_promised() {
        let (_folder, plan) = group(&[("memory.max", "4096")]);
        let promised = plan.promised(5);
        let numbers: Vec<i32> = promised.iter().map(|fd| fd.number).collect();
        assert_eq!(numbers, [5, 6, 7, 8]);
        assert_eq!(
            memory_files(&promised),
            Some(MemoryFiles { events: 5, high: 6, current: 7, stat: 8 }),
            "{promised:?}"
        );
        assert_eq!(memory_files(&promised[1..]), None);
        let made = plan.make().unwrap().unwrap();
        let names: Vec<_> = made.for_init().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, promised.iter().map(|fd| fd.name).collect::<Vec<_>>());
    }

    #[test]
    fn a_group_that_bounds_no_memory_has_nothing_for_init() {
        let (_folder, plan) = group(&[("pids.max", "9")]);
        assert!(plan.promised(5).is_empty());
        assert!(plan.make().unwrap().unwrap().for_init().unwrap().is_empty());
        assert!(LimitPlan::default().make().unwrap().is_none());
    }

    #[test]
    fn an_empty_group_that_nobody_keeps_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("web.scope");
        let plan = CgroupPlan { folder: folder.clone(), enable: Vec::new(), settings: Vec::new() };
        let made = || {
            fs::create_dir(&folder).unwrap();
            Made { plan: &plan, procs: tempfile::tempfile().unwrap(), kept: false }
        };
        drop(made());
        assert!(!folder.exists());
        assert_eq!(made().keep(), folder);
        assert!(folder.exists());
    }

    #[test]
    fn usage_shows_what_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 2\nmax 7\noom 3\noom_kill 1\noom_group_kill 0\n"),
            ("cpu.stat", "usage_usec 17000\nuser_usec 9\n"),
            ("cpu.max", "150000 100000\n"),
            ("pids.max", "64\n"),
        ] {
            fs::write(folder.path().join(file), content).unwrap();
        }
        let expected = Resources {
            memory_bytes: Some(4096),
            cpu_ms: Some(17),
            cpu_limit_milli: Some(1500),
            pids_limit: Some(64),
            out_of_memory: Some(1),
            ..Resources::default()
        };
        assert_eq!(usage(folder.path()), expected);
        assert_eq!(["max 100000", "1 0", "", "x y"].map(milli_cpus), [None; 4]);
    }
}
