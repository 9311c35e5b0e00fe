//! A plan as the bundle of a container: what its root folder holds, and the runtime's `config.json`
//! (<https://github.com/opencontainers/runtime-spec>). No I/O.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{MountBuilder, Spec};
use serde::{Deserialize, Serialize};

use super::config;
use super::runtime::Runtime;
use crate::isolation::plan::{Access, Content, LaunchPlan, Mount, Origin};
use crate::isolation::rootfs::{Bind, Entry};
use crate::isolation::sources::Sources;

/// The root folder within the bundle.
pub(super) const ROOT: &str = "rootfs";

/// The folder of the bundle with what it shows of the host.
pub(super) const BINDS: &str = "binds";

/// What init reads to its end before it does anything: as long as it gets none, it waits.
const AWAITED: &str = "spec";

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
    pub(super) runtime: Runtime,
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
    /// How many descriptors from 3 on init inherits.
    pub(super) inherited: i32,
    /// The one among them whose content init gets once its number is recorded.
    pub(super) awaited: Option<i32>,
    /// The one among them that tells init whether the launcher lives, where it ends with it.
    pub(super) lease: Option<i32>,
    /// Whether processes inside may make user namespaces.
    pub(super) nested: bool,
    /// Where the record is written.
    pub(super) record_fd: i32,
    /// The process that the sandbox ends with.
    pub(super) ends_with: Option<i32>,
}

/// Makes the bundle of `plan`. `launcher` is our own binary.
pub(super) fn bundle<'a>(
    plan: &'a LaunchPlan,
    runtime: &Runtime,
    launcher: &'a Path,
) -> Result<Bundle<'a>, OciSpecError> {
    let promised = plan.fds.iter().map(|fd| fd.number).max().unwrap_or(2).max(2);
    let lease = plan.dies_with_parent.then_some(promised + 1);
    let last = lease.unwrap_or(promised);
    let (job_fd, record_fd) = (last + 1, last + 2);
    let mut sources = Sources::default();
    let place = sources.own_place(plan, "bundle");
    let (binds, entries, mounts, files, read_only) = Default::default();
    let mut made = Made { place, binds, entries, mounts, files, sources, read_only };
    // The id that root's sandboxes run as may not reach our own binary.
    let launcher = made.sources.bind(plan, launcher, Access::ReadOnly, Origin::Caller);
    for mount in &plan.mounts {
        made.mount(plan, mount, record_fd)?;
    }
    let config = config::config(plan, runtime.kind, lease, made.mounts, made.read_only)?;
    let job = Job {
        runtime: runtime.clone(),
        place: made.place,
        binds: made.binds,
        entries: made.entries,
        config,
        id: plan.hostname.clone(),
        inherited: last - 2,
        awaited: plan.fds.iter().find(|fd| fd.name == AWAITED).map(|fd| fd.number),
        lease,
        nested: plan.namespaces.nested,
        record_fd,
        // Who that is, the process that starts it knows.
        ends_with: None,
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
    read_only: Vec<String>,
}

impl<'a> Made<'a> {
    fn mount(&mut self, plan: &'a LaunchPlan, mount: &'a Mount, before: i32) -> Result<(), OciSpecError> {
        match mount {
            // The runtime covers a part of its own /proc with itself, and lets nothing else be put there.
            Mount::Bind { at, access: Access::ReadOnly, origin: Origin::System, .. }
                if at.starts_with("/proc/") =>
            {
                self.read_only.push(at.clone());
            }
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
