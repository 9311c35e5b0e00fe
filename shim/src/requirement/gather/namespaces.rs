//! User namespaces and mounts that show another owner: tried as a launch would.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::programs::trial;
use super::{DataDir, line};
use crate::isolation::Caller;
use crate::programs::{Answer, Question};
use crate::requirement::facts::UserNamespaces;
use crate::requirement::machine::Machine;
use crate::sys;

/// Files below /proc/sys that switch user namespaces off.
const SETTINGS: [&str; 3] = [
    "kernel/unprivileged_userns_clone",
    "user/max_user_namespaces",
    "kernel/apparmor_restrict_unprivileged_userns",
];

/// AppArmor's profiles for bwrap: one made by hand, and the one that newer releases of AppArmor bring.
const PROFILES: [&str; 3] =
    ["etc/apparmor.d/bwrap", "etc/apparmor.d/usr.bin.bwrap", "etc/apparmor.d/bwrap-userns-restrict"];

pub(super) fn user_namespaces(machine: &Machine) -> UserNamespaces {
    let setting = |name: &'static str| Some((name, line(&machine.file("proc/sys").join(name))?));
    UserNamespaces {
        built: machine.file("proc/self/ns/user").symlink_metadata().is_ok(),
        settings: SETTINGS.into_iter().filter_map(setting).collect(),
        profile: PROFILES.iter().any(|path| machine.file(path).exists()),
        container: container(machine),
        tried: machine.program("bwrap").map(|bwrap| trial(&try_one(machine, &bwrap))),
    }
}

/// All that a sandbox is made of, in front of the one program of which we know that it is there.
fn try_one(machine: &Machine, bwrap: &Path) -> Answer {
    // Root runs it as an id that may not get through a link in its home.
    let bwrap = bwrap.canonicalize().unwrap_or_else(|_| bwrap.to_owned());
    let mut args: Vec<OsString> = [
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--disable-userns",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
        "--unshare-net",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--",
    ]
    .map(OsString::from)
    .to_vec();
    args.extend([bwrap.clone().into_os_string(), "--version".into()]);
    let variables = machine.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    let user = match machine.caller {
        Caller::Root { runs_as } => Some(runs_as),
        Caller::Ordinary => None,
    };
    Question { program: &bwrap, args, variables: variables.collect(), user, patience: machine.patience }.ask()
}

/// Engines leave a mark, or a name.
fn container(machine: &Machine) -> Option<String> {
    if let Some(name) = line(&machine.file("run/systemd/container")).filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let marks = [("run/.containerenv", "podman"), (".dockerenv", "docker")];
    marks.iter().find(|(mark, _)| machine.file(mark).exists()).map(|(_, name)| (*name).to_owned())
}

/// Tries it on the folders that root would lend: the data folder, or where it would be made, and the project.
pub(super) fn id_mapping(machine: &Machine) -> Vec<(PathBuf, Option<String>)> {
    let Caller::Root { runs_as } = machine.caller else { return Vec::new() };
    let data = DataDir::from_variables(|name| machine.variable(name).map(ToOwned::to_owned)).ok();
    let data = data.map(|data| machine.file(data.path()));
    let data = data.and_then(|data| data.ancestors().find(|folder| folder.exists()).map(Path::to_owned));
    let mut folders: Vec<PathBuf> = data.into_iter().chain([machine.project.clone()]).collect();
    folders.dedup();
    folders
        .into_iter()
        .map(|folder| {
            let refused = lend(&folder, runs_as).err().map(|error| error.to_string());
            (folder, refused)
        })
        .collect()
}

/// Makes the mount and drops it: it is attached nowhere.
fn lend(folder: &Path, id: u32) -> std::io::Result<()> {
    let found = fs::metadata(folder)?;
    let mount = open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let mapping = sys::id_mapping((found.uid(), found.gid()), id)?;
    sys::map_ids(mount.as_fd(), mapping.as_fd())
}
