//! The control groups, reachable for init alone.

use std::os::fd::OwnedFd;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Mounts cgroup2 nowhere: the descriptor is the only way to it. Its files belong to root, so what is opened later is
/// opened with [`super::as_root`].
///
/// Needs the privileges that init gives up before anything is started.
#[allow(dead_code)] // Whoever bounds the sandbox asks for it.
pub(crate) fn mount() -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let hidden = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, hidden)
}
