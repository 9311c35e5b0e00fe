//! Root's preparation: what the caller gave, as detached mounts that show the sandbox's id as the owner.
//!
//! The sandbox runs as an id that owns nothing and cannot even enter /root. So each folder is cloned while
//! we still may read everything, its owner is mapped to that id, and it is attached at a place the id can
//! reach. On disk nothing changes hands: what the id creates there belongs to the folder's owner.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::error::IsolationError;
use super::handover::c_string;
use super::plan::Access;
use super::sources::Staged;
use crate::sys::{self, Step};

/// A mount that is not attached anywhere yet.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) mount: OwnedFd,
    pub(super) folder: bool,
}

/// Clones every source and maps its owner to `id`. Each is opened before anything is covered up.
pub(super) fn detach(staged: &[Staged<'_>], id: u32) -> Result<Vec<Detached>, IsolationError> {
    // Most folders of a sandbox have one owner, and a namespace for the mapping costs a process.
    let mut mappings: Vec<((u32, u32), OwnedFd)> = Vec::new();
    let mut detached = Vec::with_capacity(staged.len());
    for Staged { source, access, is_store, .. } in staged {
        // A link is refused, for an agent that may write to a folder above could plant one after the plan was made,
        // and we read with root's rights.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(CWD, *source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(|error| failed("opening", source, error.into()))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(&found, "", flags)
            .map_err(|error| failed("cloning the mount of", source, error.into()))?;
        let found = fstat(&mount).map_err(|error| failed("looking at", source, error.into()))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        // Such a file, init's binary above all, needs no mapping, and then may lie on any file system.
        let file_for_all = kind == FileType::RegularFile
            && found.st_mode & 0o004 != 0
            && (found.st_mode & 0o100 == 0 || found.st_mode & 0o001 != 0);
        // Nor does a store: what is in it is made to be read by everyone.
        let store_for_all = *is_store && found.st_mode & 0o005 == 0o005;
        if *access == Access::ReadWrite || !(file_for_all || store_for_all) {
            let owner = (found.st_uid, found.st_gid);
            let known = mappings.iter().position(|(of, _)| *of == owner);
            let known = if let Some(known) = known {
                known
            } else {
                let mapping = sys::id_mapping(owner, id)
                    .map_err(|error| failed("making an id mapping for", source, error))?;
                mappings.push((owner, mapping));
                mappings.len() - 1
            };
            sys::map_ids(mount.as_fd(), mappings[known].1.as_fd())
                .map_err(|error| IsolationError::NoIdMapping { path: source.to_path_buf(), source: error })?;
        }
        detached.push(Detached { mount, folder: kind == FileType::Directory });
    }
    Ok(detached)
}

/// Attaches what was detached, each at its place below the folder `cover`, in a mount table of the new process's own.
pub(super) fn steps(
    cover: &Path,
    staged: &[Staged<'_>],
    detached: &[Detached],
) -> Result<Vec<Step>, IsolationError> {
    let mut steps = vec![Step::PrivateMounts, Step::Cover(c_string(cover)?)];
    for (staged, detached) in staged.iter().zip(detached) {
        let at = c_string(&staged.at)?;
        steps.push(Step::MountPoint { at: at.clone(), folder: detached.folder });
        steps.push(Step::Attach { mount: detached.mount.as_raw_fd(), at });
    }
    Ok(steps)
}

/// Whether root here is the machine's root with `id` at its disposal: not so in most containers.
pub(super) fn maps_to_itself(uid_map: &str, id: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) => {
                inside == 0 && outside == 0 && u64::from(id) < count
            }
            _ => false,
        }
    })
}

fn failed(doing: &str, path: &Path, source: std::io::Error) -> IsolationError {
    if source.raw_os_error() == Some(libc::EPERM) {
        let said = format!("root here may not change mounts ({doing} {}: {source})", path.display());
        return IsolationError::NoUserNamespaces { switch: None, said };
    }
    IsolationError::Step { doing: format!("{doing} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_id_range_counts_as_the_machines_root() {
        assert!(maps_to_itself("         0          0 4294967295\n", 0x7a00_0000));
        assert!(!maps_to_itself("         0       1000          1\n", 0x7a00_0000));
        assert!(!maps_to_itself("0 0 65536\n", 0x7a00_0000));
        assert!(!maps_to_itself("0 100000 65536\n", 0x7a00_0000));
    }
}
