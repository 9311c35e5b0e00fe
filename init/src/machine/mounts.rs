//! What is mounted: for booting, and for the sandbox.

use std::{
    ffi::CString,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use agent_protocol::spec::{MachineMount, User};
use anyhow::{Context, Result};
use rustix::{
    fs::{CWD, FileType, Mode, StatVfsMountFlags, makedev, mknodat},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, mount_move, mount_remount, unmount},
    process::{chdir, chroot},
};

/// Where the root file system is put together before it becomes the root.
pub(super) const NEW_ROOT: &str = "/root";

/// What booting needs: processes, devices by their names, and what the kernel tells of both.
const FOR_BOOTING: [(&str, &str); 3] = [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")];

/// The devices that everybody has, with the numbers that the kernel gave them for all time.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// For machines within the machine.
const KVM: (&str, u32, u32) = ("kvm", 10, 232);

/// Names that programs expect beside the devices.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts what is there until the root is another.
pub(super) fn for_booting() -> Result<()> {
    for (kind, at) in FOR_BOOTING {
        // Some are there.
        let _ = fs::create_dir(at);
        mount(kind, at, kind, MountFlags::NOSUID | MountFlags::NOEXEC, None)
            .with_context(|| format!("mounting {at}"))?;
    }
    Ok(())
}

/// Makes [`NEW_ROOT`] the root. Nothing is left of the old one, which was in memory: not the spec, nor the modules.
pub(super) fn switch_root() -> Result<()> {
    for (_, at) in FOR_BOOTING {
        unmount(at, UnmountFlags::DETACH).with_context(|| format!("unmounting {at}"))?;
    }
    empty(Path::new("/")).context("emptying the initial file system")?;
    chdir(NEW_ROOT).context("entering the root file system")?;
    // The first root cannot be left by pivot_root(2).
    mount_move(".", "/").context("moving the root file system to its place")?;
    chroot(".").context("switching to the root file system")?;
    chdir("/").context("entering the new root")?;
    Ok(())
}

/// Makes the mounts of the spec, in their order.
pub(super) fn make(mounts: &[MachineMount], user: &User, has_kvm: bool) -> Result<()> {
    for mount in mounts {
        match mount {
            MachineMount::Proc { at } => {
                plain("proc", at, MountFlags::NODEV | MountFlags::NOEXEC, "").context("proc")
            }
            MachineMount::Dev { at, kvm } => devices(at, user, *kvm && has_kvm).context("devices"),
            MachineMount::Tmpfs { at, size_bytes, mode } => {
                plain("tmpfs", at, MountFlags::NODEV, &tmpfs_options(*size_bytes, *mode, user))
                    .context("memory")
            }
            MachineMount::ReadOnly { at } => read_only(at).context("read-only"),
        }
        .with_context(|| format!("mounting {}", mount.at()))?;
    }
    Ok(())
}

fn plain(kind: &str, at: &str, flags: MountFlags, options: &str) -> rustix::io::Result<()> {
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    mount(kind, at, kind, flags | MountFlags::NOSUID, options.as_c_str())
}

/// Its top folder is the user's, as everything is that they find in the sandbox.
fn tmpfs_options(size_bytes: u64, mode: u32, user: &User) -> String {
    format!("size={size_bytes},mode={mode:o},uid={},gid={}", user.uid, user.gid)
}

fn devices(at: &str, user: &User, kvm: bool) -> Result<()> {
    plain("tmpfs", at, MountFlags::NOEXEC, "mode=755,size=64k")?;
    for (name, major, minor) in DEVICES.into_iter().chain(kvm.then_some(KVM)) {
        let path = format!("{at}/{name}");
        mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            .with_context(|| format!("making {name}"))?;
    }
    for (name, to) in LINKS {
        symlink(to, format!("{at}/{name}"))?;
    }
    let (terminals, shared) = (format!("{at}/pts"), format!("{at}/shm"));
    fs::create_dir(&terminals)?;
    // For a file system in memory that the host asks for beside this one.
    fs::create_dir(shared)?;
    // Of the user's: a program opens its own terminal by this name.
    let options = format!("uid={},gid={},mode=620,ptmxmode=666", user.uid, user.gid);
    plain("devpts", &terminals, MountFlags::NOEXEC, &options).context("terminals")
}

fn read_only(at: &str) -> rustix::io::Result<()> {
    // The kernel takes all of these anew. Devices are for what had them, and programs are for what had none of those.
    let has = rustix::fs::statvfs(at)?.f_flag;
    let kept =
        [(StatVfsMountFlags::NODEV, MountFlags::NODEV), (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC)];
    let kept = kept.into_iter().filter(|(had, _)| has.contains(*had)).map(|(_, flag)| flag);
    let flags = kept.fold(MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, |all, flag| all | flag);
    match mount_remount(at, flags, c"") {
        // No mount begins here: make one of it. What is mounted below stays as it is.
        Err(Errno::INVAL) => {
            mount_bind_recursive(at, at)?;
            mount_remount(at, flags, c"")
        }
        done => done,
    }
}

/// Removes all that is in a folder, but for what is mounted there.
fn empty(folder: &Path) -> std::io::Result<()> {
    let device = fs::metadata(folder)?.dev();
    for entry in fs::read_dir(folder)?.flatten() {
        let (path, kind) = (entry.path(), entry.metadata()?);
        if kind.dev() != device {
            continue;
        }
        if kind.is_dir() {
            empty(&path)?;
            fs::remove_dir(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal_and_memory_is_bounded() {
        let user = User { uid: 1000, gid: 100, ..User::default() };
        assert_eq!(tmpfs_options(1 << 20, 0o1777, &user), "size=1048576,mode=1777,uid=1000,gid=100");
    }

    #[test]
    fn a_folder_is_emptied_with_everything_below_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("agent/deep")).unwrap();
        fs::write(folder.path().join("agent/deep/token"), "secret").unwrap();
        symlink("/etc", folder.path().join("link")).unwrap();
        empty(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Path::new("/etc").exists());
    }
}
