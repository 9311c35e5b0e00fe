//! Limits on memory, processor time and processes: a cgroup of its own for the sandbox.
//!
//! Needs cgroup v2 with the controllers handed down to where we may create a group. Where that is
//! not so, a limit on memory or processor time is an error, never silently dropped; one on
//! processes falls back to RLIMIT_NPROC, which init sets: it counts per user namespace (Linux 5.14).

mod group;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use self::group::Made;
pub(crate) use self::group::memory_files;
pub use self::group::{remove, usage};

/// Length of a processor accounting period; the kernel's own default.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// What a sandbox may use; `None` is as much as the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, swap included.
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of one processor.
    pub milli_cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// How limits will be enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitPlan {
    /// The group to create.
    pub cgroup: Option<CgroupPlan>,
    /// RLIMIT_NPROC for init to set, where there is no controller for it.
    pub init_max_processes: Option<u64>,
}

/// A cgroup to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CgroupPlan {
    /// Its folder.
    pub folder: PathBuf,
    /// Controllers to hand down in the folder above it first.
    pub enable: Vec<Controller>,
    /// Files to write, in this order.
    pub settings: Vec<(String, String)>,
}

/// A cgroup controller we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processor time.
    Cpu,
    /// Number of processes.
    Pids,
}

/// Why a limit cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The machine offers no such limit to us.
    #[error("{option} cannot be enforced here because {why}")]
    NotHere {
        /// The option that asked for it.
        option: &'static str,
        /// What is missing.
        why: String,
    },
    /// It should have worked.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// The cgroup v2 tree, and where in it this process is.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Where it is mounted; `None` on a host without cgroup v2.
    mount: Option<PathBuf>,
    /// Our own group, relative to the mount.
    own: PathBuf,
}

impl Cgroups {
    /// The tree of this machine.
    pub fn here() -> io::Result<Cgroups> {
        Cgroups::below(Path::new("/"))
    }

    /// That of the machine whose files are below `root`.
    pub(crate) fn below(root: &Path) -> io::Result<Cgroups> {
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo"))?;
        let groups = fs::read_to_string(root.join("proc/self/cgroup"))?;
        let mount = cgroup2_mount(&mounts).map(|mount| root.join(mount.strip_prefix("/").unwrap_or(&mount)));
        Ok(Cgroups { mount, own: own_group(&groups) })
    }

    /// Decides how to enforce `limits` for the sandbox `name`; changes nothing.
    pub fn plan(&self, limits: &Limits, name: &str) -> Result<LimitPlan, LimitError> {
        let must: Vec<Controller> =
            [limits.memory_bytes.map(|_| Controller::Memory), limits.milli_cpus.map(|_| Controller::Cpu)]
                .into_iter()
                .flatten()
                .collect();
        let mut wanted = must.clone();
        wanted.extend(limits.pids.map(|_| Controller::Pids));
        if wanted.is_empty() {
            return Ok(LimitPlan::default());
        }

        let place = self.place_for(&wanted);
        let (place, pids_by_rlimit) = match place {
            Ok(place) => (Some(place), false),
            Err(why) => match (must.first(), limits.pids) {
                (None, Some(_)) => (None, true),
                (Some(first), _) => match self.place_for(&must) {
                    Ok(place) => (Some(place), limits.pids.is_some()),
                    Err(why) => return Err(LimitError::NotHere { option: first.option(), why }),
                },
                (None, None) => return Err(LimitError::NotHere { option: Controller::Pids.option(), why }),
            },
        };
        let init_max_processes = if pids_by_rlimit { limits.pids } else { None };
        let cgroup = place.map(|(parent, enable)| CgroupPlan {
            folder: parent.join(format!("agent-shim-{name}.scope")),
            enable,
            settings: settings(limits, pids_by_rlimit),
        });
        Ok(LimitPlan { cgroup, init_max_processes })
    }

    /// The nearest group from ours upwards in which a child can be limited, and what to hand down there first.
    fn place_for(&self, wanted: &[Controller]) -> Result<(PathBuf, Vec<Controller>), String> {
        let Some(mount) = &self.mount else { return Err("cgroup v2 is not mounted".to_owned()) };
        let offered = words(&mount.join("cgroup.controllers"));
        if let Some(missing) = wanted.iter().find(|c| !offered.contains(&c.name().to_owned())) {
            return Err(format!(
                "this machine's cgroup v2 has no {} controller (it may be bound to cgroup v1)",
                missing.name()
            ));
        }
        let own = mount.join(&self.own);
        let mut refused = None;
        for group in own.ancestors().take_while(|group| group.starts_with(mount)) {
            let handed_down = words(&group.join("cgroup.subtree_control"));
            let available = words(&group.join("cgroup.controllers"));
            let missing: Vec<Controller> =
                wanted.iter().copied().filter(|c| !handed_down.contains(&c.name().to_owned())).collect();
            // A group with processes of its own cannot hand controllers down; only the root may.
            let can_enable = missing.iter().all(|c| available.contains(&c.name().to_owned()))
                && (group == mount || words(&group.join("cgroup.procs")).is_empty());
            if !missing.is_empty() && !can_enable {
                continue;
            }
            // Moving a process needs write access to cgroup.procs of the group above both places.
            if writable(group) && writable(&group.join("cgroup.procs")) {
                return Ok((group.to_owned(), missing));
            }
            refused.get_or_insert_with(|| group.to_owned());
        }
        Err(match refused {
            Some(group) => format!(
                "{} may not be changed by this user; start under `systemd-run --user --scope`",
                group.display()
            ),
            None => format!("no group above {} hands its controllers down", own.display()),
        })
    }
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Controller::Memory => "--memory",
            Controller::Cpu => "--cpus",
            Controller::Pids => "--pids",
        }
    }
}

fn settings(limits: &Limits, pids_by_rlimit: bool) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut set = |file: &str, value: String| settings.push((file.to_owned(), value));
    if let Some(bytes) = limits.memory_bytes {
        set("memory.max", bytes.to_string());
        // A limit that lets the rest go to swap is not the one that was asked for.
        set("memory.swap.max", "0".to_owned());
    }
    if let Some(milli) = limits.milli_cpus {
        let quota = u64::from(milli) * CPU_PERIOD_MICROS / 1000;
        set("cpu.max", format!("{quota} {CPU_PERIOD_MICROS}"));
    }
    if let Some(pids) = limits.pids.filter(|_| !pids_by_rlimit) {
        set("pids.max", pids.to_string());
    }
    settings
}

/// Field 5 of the first line whose file system type, behind the ` - `, is cgroup2.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The v2 line of /proc/self/cgroup, `0::/path`, as a relative path.
fn own_group(cgroups: &str) -> PathBuf {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    // A cgroup namespace shows groups above its root as `..`; from there only the mount itself is left.
    if path.split('/').any(|part| part == "..") { PathBuf::new() } else { PathBuf::from(path) }
}

fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn writable(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(path, Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Limits = Limits { memory_bytes: Some(1 << 30), milli_cpus: None, pids: None };

    /// Builds a tree of plain files that looks like a cgroup mount.
    fn tree(groups: &[(&str, &str, &str, &str)], own: &str) -> (tempfile::TempDir, Cgroups) {
        let root = tempfile::tempdir().unwrap();
        for (group, controllers, handed_down, procs) in groups {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup.controllers"), controllers).unwrap();
            fs::write(folder.join("cgroup.subtree_control"), handed_down).unwrap();
            fs::write(folder.join("cgroup.procs"), procs).unwrap();
        }
        let cgroups = Cgroups { mount: Some(root.path().to_owned()), own: own.into() };
        (root, cgroups)
    }

    #[test]
    fn no_limits_ask_nothing_of_the_machine() {
        let nowhere = Cgroups { mount: None, own: PathBuf::new() };
        assert_eq!(nowhere.plan(&Limits::default(), "web").unwrap(), LimitPlan::default());
    }

    #[test]
    fn the_group_is_made_beside_ours_where_controllers_are_handed_down() {
        let all = "cpu memory pids";
        let (root, cgroups) = tree(
            &[("", all, all, ""), ("user", all, all, ""), ("user/term.scope", all, "", "42\n")],
            "user/term.scope",
        );
        let limits = Limits { memory_bytes: Some(64 << 20), milli_cpus: Some(1500), pids: Some(100) };
        let plan = cgroups.plan(&limits, "web").unwrap();
        let cgroup = plan.cgroup.unwrap();
        assert_eq!(cgroup.folder, root.path().join("user/agent-shim-web.scope"));
        assert!(cgroup.enable.is_empty());
        assert_eq!(plan.init_max_processes, None);
        let expected = [
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("cpu.max", "150000 100000"),
            ("pids.max", "100"),
        ];
        assert_eq!(cgroup.settings, expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
    }

    #[test]
    fn an_empty_delegated_group_hands_down_what_it_has() {
        let (root, cgroups) = tree(
            &[("", "memory", "memory", "1\n"), ("mine", "memory", "", ""), ("mine/me", "memory", "", "7\n")],
            "mine/me",
        );
        let cgroup = cgroups.plan(&MEMORY, "web").unwrap().cgroup.unwrap();
        assert_eq!(cgroup.folder, root.path().join("mine/agent-shim-web.scope"));
        assert_eq!(cgroup.enable, [Controller::Memory]);

        // The fake has no kernel that would fill the new folder with files.
        fs::create_dir(&cgroup.folder).unwrap();
        fs::write(cgroup.folder.join("cgroup.procs"), "").unwrap();
        LimitPlan { cgroup: Some(cgroup.clone()), ..LimitPlan::default() }.make().unwrap();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(root.path().join("mine/cgroup.subtree_control")), "+memory");
        assert_eq!(read(cgroup.folder.join("memory.max")), "1073741824");
        assert!(!cgroup.folder.join("memory.swap.max").exists());
    }

    #[test]
    fn a_missing_controller_is_said_and_processes_fall_back() {
        let (_root, cgroups) = tree(&[("", "", "", "")], "");
        let error = cgroups.plan(&MEMORY, "web").unwrap_err().to_string();
        assert!(error.starts_with("--memory cannot be enforced here because "), "{error}");
        assert!(error.contains("no memory controller"), "{error}");

        let pids = Limits { pids: Some(64), ..Limits::default() };
        let plan = cgroups.plan(&pids, "web").unwrap();
        assert_eq!(plan, LimitPlan { cgroup: None, init_max_processes: Some(64) });
    }

    #[test]
    fn memory_by_cgroup_and_processes_by_rlimit_can_be_mixed() {
        let (_root, cgroups) = tree(&[("", "memory", "memory", "")], "");
        let plan = cgroups.plan(&Limits { pids: Some(9), ..MEMORY }, "web").unwrap();
        assert_eq!(plan.init_max_processes, Some(9));
        assert!(plan.cgroup.unwrap().settings.iter().all(|(file, _)| file != "pids.max"));
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(own_group("4:memory:/x\n0::/user.slice/a.scope\n"), PathBuf::from("user.slice/a.scope"));
        assert_eq!(own_group("0::/../x\n"), PathBuf::new());
    }
}
