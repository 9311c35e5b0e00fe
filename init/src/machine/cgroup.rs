//! The control groups, reachable for init alone.

use std::os::fd::OwnedFd;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsmount, fsopen,
};

/// Mounts cgroup2 nowhere: the descriptor is the only way to it.
///
/// Needs the privileges that init gives up before anything is started.
pub(crate) fn mount() -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Every program enters a group when it is started, and with this that takes no time (Linux 6.0).
    let _ = fsconfig_set_flag(&filesystem, "favordynmods");
    fsconfig_create(&filesystem)?;
    let hidden = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, hidden)
}
