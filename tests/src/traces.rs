//! What a person's sandboxes leave on the host: processes, mounts, sockets and files.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{Home, parts::is_alive};

/// Everything on the host that has to do with one person, at one moment. Compared before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Living processes that name the person's folder, or have something of it mounted or open.
    pub processes: BTreeSet<String>,
    /// Mounts of the tests' own namespace.
    pub mounts: BTreeSet<String>,
    /// Unix sockets bound below the person's folder, and those that [`Traces::with_sockets`] was given.
    pub sockets: BTreeSet<String>,
    /// Files, folders and links below the person's folder and, by name, in the places for temporary ones.
    pub files: BTreeSet<String>,
}

impl Traces {
    /// What there is now.
    pub fn of(home: &Home) -> anyhow::Result<Self> {
        let mut traces = Self::default();
        let text = unique_name(home);
        for pid in pids() {
            // One without a command line has given up its memory: it is ending, and waits for nothing but the kernel.
            if is_alive(pid) && !command(pid).is_empty() && names_it(pid, &text) {
                traces.processes.insert(format!("{pid}: {}", command(pid)));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(&text)) {
            traces.mounts.insert(line.to_owned());
        }
        for line in fs::read_to_string("/proc/net/unix")?.lines().filter(|line| line.contains(&text)) {
            traces.sockets.insert(line.to_owned());
        }
        tree(home.path(), &mut traces.files)?;
        for place in ["/tmp", "/run", "/var/tmp", "/dev/shm"] {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if ["agent-shim", "agent-init", "bwrap"].iter().any(|ours| name.contains(ours)) {
                    traces.files.insert(format!("{place}/{name}"));
                }
            }
        }
        Ok(traces)
    }

    /// The same, with those of these sockets that are still there.
    pub fn with_sockets(mut self, inodes: &BTreeSet<u64>) -> anyhow::Result<Self> {
        for line in fs::read_to_string("/proc/net/unix")?.lines() {
            let inode = line.split_ascii_whitespace().nth(6).and_then(|inode| inode.parse().ok());
            if inode.is_some_and(|inode| inodes.contains(&inode)) {
                self.sockets.insert(line.to_owned());
            }
        }
        Ok(self)
    }
}

/// The Unix sockets that living processes of the person have open now, as far as the tests may look.
///
/// The name that nothing but this person's folder has. Not its whole path: where /tmp is a file system of its own,
/// mountinfo counts from there.
fn unique_name(home: &Home) -> String {
    home.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The control socket is bound by a relative name, so its path in /proc/net/unix tells nothing.
pub fn sockets_of(home: &Home) -> BTreeSet<u64> {
    let text = unique_name(home);
    let ours = pids().into_iter().filter(|pid| names_it(*pid, &text));
    ours.flat_map(|pid| links(pid, "fd"))
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// The living processes that have to do with any folder whose name has this in it.
pub(crate) fn of_tag(tag: &str) -> Vec<i32> {
    let named = |pid: &i32| {
        ["cmdline", "environ", "mountinfo"].iter().any(|file| holds(*pid, file, tag))
            || links(*pid, "fd").iter().any(|link| link.to_string_lossy().contains(tag))
    };
    pids().into_iter().filter(|pid| is_alive(*pid)).filter(named).collect()
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let me = std::process::id().cast_signed();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != me).collect()
}

fn names_it(pid: i32, text: &str) -> bool {
    let opened = |link: PathBuf| link.components().any(|part| part.as_os_str() == text);
    ["cmdline", "environ", "mountinfo"].into_iter().any(|file| holds(pid, file, text))
        || ["cwd", "root"]
            .into_iter()
            .any(|name| fs::read_link(format!("/proc/{pid}/{name}")).is_ok_and(opened))
        || links(pid, "fd").into_iter().any(opened)
}

fn holds(pid: i32, file: &str, text: &str) -> bool {
    fs::read(format!("/proc/{pid}/{file}"))
        .is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn links(pid: i32, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/{folder}")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

fn command(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Path, kind, owner and size of everything below a folder. No link is followed, and caches are no traces.
fn tree(path: &Path, into: &mut BTreeSet<String>) -> anyhow::Result<()> {
    if path.ends_with(".cache") {
        return Ok(());
    }
    let found = fs::symlink_metadata(path)?;
    let size = if found.is_dir() { 0 } else { found.len() };
    into.insert(format!("{} {:o} {} {size}", path.display(), found.mode(), found.uid()));
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            tree(&entry?.path(), into)?;
        }
    }
    Ok(())
}
