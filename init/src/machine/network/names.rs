//! Whom the machine asks for names, where the network tells it.

use std::{
    fs::{self, File, OpenOptions},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
};

use anyhow::{Context, Result};
use rustix::{
    fs::CWD,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount},
};

/// Where it is made while the first file system is the root.
const DRAFT: &str = "/names";

/// Where programs look (resolv.conf(5)).
const PLACE: &str = "/etc/resolv.conf";

/// A file in memory, and a mount of it that is nowhere yet.
pub(super) struct Names {
    file: File,
    mount: OwnedFd,
}

impl Names {
    /// Has to be done while the first file system is the root. That one is emptied, and what has no name can be mounted nowhere: so
    /// the file has a file system of its own.
    pub(super) fn open() -> Result<Self> {
        fs::create_dir(DRAFT).with_context(|| format!("making {DRAFT}"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tmpfs", DRAFT, "tmpfs", flags, c"size=64k,mode=755").context("mounting memory")?;
        let path = format!("{DRAFT}/resolv.conf");
        // For init alone to write, whatever is masked at this time.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        let file = file.with_context(|| format!("making {path}"))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, &path, flags).with_context(|| format!("taking {path} along"))?;
        unmount(DRAFT, UnmountFlags::DETACH).with_context(|| format!("unmounting {DRAFT}"))?;
        let names = Self { file, mount };
        names.write(&[]).with_context(|| format!("writing {path}"))?;
        Ok(names)
    }

    /// Shows it to the sandbox, if that has anything to look at. Programs may read it, as root's.
    pub(super) fn show(&self) -> rustix::io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        match move_mount(self.mount.as_fd(), "", CWD, PLACE, flags) {
            // An environment without names.
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Writes it anew.
    pub(super) fn write(&self, servers: &[Ipv4Addr]) -> std::io::Result<()> {
        let text = text(servers);
        self.file.set_len(0)?;
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

fn text(servers: &[Ipv4Addr]) -> String {
    if servers.is_empty() {
        return "# The network names no server.\n".to_owned();
    }
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_line_for_each_server() {
        assert_eq!(
            text(&[Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::LOCALHOST]),
            "nameserver 9.9.9.9\nnameserver 127.0.0.1\n"
        );
        assert!(text(&[]).starts_with('#'));
    }
}
