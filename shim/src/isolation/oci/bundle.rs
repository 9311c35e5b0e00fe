//! A plan as the bundle of a container: what its root folder holds, and the runtime's `config.json`
//! (<https://github.com/opencontainers/runtime-spec>). No I/O.

use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use serde::{Deserialize, Serialize};

use crate::isolation::plan::{Access, Content, LaunchPlan, Mount, Network, Origin, USER_ID};
use crate::isolation::rootfs::{Bind, Entry};
use crate::isolation::sources::Sources;

/// The version of the specification that the oldest runtime we take knows.
const SPEC_VERSION: &str = "1.0.0";

/// The root folder within the bundle.
pub(super) const ROOT: &str = "rootfs";

/// The folder of the bundle with what it shows of the host.
pub(super) const BINDS: &str = "binds";

/// What tells of the host and no program inside needs. Files that only the host's root may read need no cover.
const MASKED: [&str; 5] =
    ["/proc/acpi", "/proc/kcore", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi"];

/// The same for what may be read.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"];

/// A bundle, and what has to be in place for it.
#[derive(Debug)]
pub(super) struct Bundle<'a> {
    pub(super) job: Job,
    /// Numbers under which the launcher reads files from.
    pub(super) files: Vec<(i32, &'a Content)>,
    pub(super) sources: Sources<'a>,
    /// Where the launcher is to be found.
    pub(super) launcher: PathBuf,
    /// The number under which the launcher reads its job.
    pub(super) job_fd: i32,
    /// The number under which the launcher writes the record of this start.
    pub(super) record_fd: i32,
}

/// What the launcher does. It is ours, and reads this from a file without a name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The OCI runtime.
    pub(super) runtime: PathBuf,
    /// A folder that is covered with a file system in memory, for the bundle and the runtime's own state.
    pub(super) place: PathBuf,
    /// What is made in the root folder, in this order.
    pub(super) entries: Vec<Entry>,
    /// What the container is shown of the host.
    pub(super) binds: Vec<Bind>,
    /// `config.json`.
    pub(super) config: Spec,
    /// The container's name; it is known in this place alone.
    pub(super) id: String,
    /// Descriptors from 3 on that init inherits.
    pub(super) inherited: i32,
    /// Whether processes inside may make user namespaces.
    pub(super) nested: bool,
    /// Where the record is written.
    pub(super) record_fd: i32,
    /// Whether the sandbox ends with the process that started it.
    pub(super) dies_with_parent: bool,
}

/// Makes the bundle of `plan`. `launcher` is our own binary.
pub(super) fn bundle<'a>(
    plan: &'a LaunchPlan,
    launcher: &'a std::path::Path,
) -> Result<Bundle<'a>, OciSpecError> {
    let last = plan.fds.iter().map(|fd| fd.number).max().unwrap_or(2).max(2);
    let (job_fd, record_fd) = (last + 1, last + 2);
    let mut sources = Sources::default();
    let place = sources.own_place(plan, "bundle");
    let (binds, entries, mounts, files) = Default::default();
    let mut made = Made { place, binds, entries, mounts, files, sources };
    // The id that root's sandboxes run as may not reach our own binary.
    let launcher = made.sources.bind(plan, launcher, Access::ReadOnly, Origin::Caller);
    for mount in &plan.mounts {
        made.mount(plan, mount, record_fd)?;
    }
    let config = config(plan, made.mounts)?;
    let job = Job {
        runtime: plan.program.clone(),
        place: made.place,
        binds: made.binds,
        entries: made.entries,
        config,
        id: plan.hostname.clone(),
        inherited: last - 2,
        nested: plan.namespaces.nested,
        record_fd,
        dies_with_parent: plan.dies_with_parent,
    };
    Ok(Bundle { job, files: made.files, sources: made.sources, launcher, job_fd, record_fd })
}

struct Made<'a> {
    place: PathBuf,
    binds: Vec<Bind>,
    entries: Vec<Entry>,
    mounts: Vec<oci_spec::runtime::Mount>,
    files: Vec<(i32, &'a Content)>,
    sources: Sources<'a>,
}

impl<'a> Made<'a> {
    fn mount(&mut self, plan: &'a LaunchPlan, mount: &'a Mount, before: i32) -> Result<(), OciSpecError> {
        match mount {
            Mount::Bind { source, at, access, origin } => {
                let source = self.sources.bind(plan, source, *access, *origin);
                self.bind(at, source, *access == Access::ReadOnly)?;
            }
            Mount::Store { source, at, view } => {
                let source = self.sources.store(plan, source, view);
                self.bind(at, source, true)?;
            }
            Mount::Tmpfs { at, size_bytes, mode } => {
                let (mode, size) = (format!("mode={mode:o}"), format!("size={size_bytes}"));
                self.add(at, "tmpfs", "tmpfs".into(), &["nosuid", "nodev", &mode, &size])?;
            }
            Mount::Proc { at } => self.add(at, "proc", "proc".into(), &["nosuid", "nodev", "noexec"])?,
            Mount::Dev { at } => {
                self.add(at, "tmpfs", "tmpfs".into(), &["nosuid", "strictatime", "mode=755", "size=1m"])?;
                let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
                self.add(&format!("{at}/pts"), "devpts", "devpts".into(), &options)?;
            }
            Mount::Dir { at, mode } => self.entries.push(Entry::Dir { at: at.clone(), mode: *mode }),
            Mount::Symlink { target, at } => {
                self.entries.push(Entry::Symlink { at: at.clone(), target: target.clone() });
            }
            Mount::File { at, mode, content } => {
                let fd = before + 1 + i32::try_from(self.files.len()).unwrap_or(i32::MAX);
                self.files.push((fd, content));
                self.entries.push(Entry::File { at: at.clone(), mode: *mode, fd });
            }
            Mount::Seal { at } => self.seal(at),
        }
        Ok(())
    }

    fn add(&mut self, at: &str, kind: &str, source: PathBuf, options: &[&str]) -> Result<(), OciSpecError> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mount =
            MountBuilder::default().destination(at).typ(kind).source(source).options(options).build()?;
        self.mounts.push(mount);
        Ok(())
    }

    /// Runtimes differ in what they make of a bind's options, so the launcher applies them before.
    fn bind(&mut self, at: &str, source: PathBuf, read_only: bool) -> Result<(), OciSpecError> {
        let prepared = self.place.join(format!("{BINDS}/{}", self.binds.len()));
        self.add(at, "bind", prepared.clone(), &["rbind"])?;
        self.binds.push(Bind { source, at: prepared, read_only });
        Ok(())
    }

    /// The root folder is sealed by the runtime, once everything is in it.
    fn seal(&mut self, at: &str) {
        let mount = self.mounts.iter_mut().find(|mount| mount.destination().as_os_str() == at);
        if let Some(mount) = mount {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push("ro".to_owned());
            mount.set_options(Some(options));
        }
    }
}

fn config(plan: &LaunchPlan, mounts: Vec<oci_spec::runtime::Mount>) -> Result<Spec, OciSpecError> {
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let mut namespaces = vec![
        namespace(LinuxNamespaceType::User)?,
        namespace(LinuxNamespaceType::Pid)?,
        namespace(LinuxNamespaceType::Ipc)?,
        namespace(LinuxNamespaceType::Uts)?,
        namespace(LinuxNamespaceType::Mount)?,
        namespace(LinuxNamespaceType::Cgroup)?,
    ];
    if plan.namespaces.network == Network::None {
        namespaces.push(namespace(LinuxNamespaceType::Network)?);
    }
    // The launcher is root of a namespace whose only id is ours.
    let id = LinuxIdMappingBuilder::default().container_id(USER_ID).host_id(0u32).size(1u32).build()?;
    let none = std::collections::HashSet::new;
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none())
        .effective(none())
        .inheritable(none())
        .permitted(none())
        .ambient(none())
        .build()?;
    let env: Vec<String> = plan.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(USER_ID).gid(USER_ID).build()?)
        .args(plan.command.clone())
        .env(env)
        .cwd("/")
        .capabilities(capabilities)
        .rlimits(Vec::new())
        .no_new_privileges(true)
        .build()?;
    // The kernel lets nobody mount a new /proc, as nested namespaces need, who does not see a whole one.
    let (masked, read_only) =
        if plan.namespaces.nested { (&[][..], &[][..]) } else { (&MASKED[..], &READ_ONLY[..]) };
    let texts = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .uid_mappings(vec![id])
        .gid_mappings(vec![id])
        .masked_paths(texts(masked))
        .readonly_paths(texts(read_only))
        .devices(Vec::new())
        .build()?;
    SpecBuilder::default()
        .version(SPEC_VERSION)
        .root(RootBuilder::default().path(ROOT).readonly(true).build()?)
        .hostname(&plan.hostname)
        .process(process)
        .mounts(mounts)
        .linux(linux)
        .build()
}
