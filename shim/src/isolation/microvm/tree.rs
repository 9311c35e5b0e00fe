//! The mounts of a plan, dealt out: what the host puts together and shares, and what init makes inside. No I/O.

use agent_protocol::spec::MachineMount;

use super::job::Piece;
use crate::isolation::plan::{Access, Content, LaunchPlan, Mount};
use crate::isolation::rootfs::Entry;
use crate::isolation::sources::Sources;

/// Both halves of a root file system.
#[derive(Debug, Default)]
pub(super) struct Halves<'a> {
    /// What the launcher puts together. It is read-only except for what is writable on the host.
    pub(super) tree: Vec<Piece>,
    /// Files of ours in it, with the numbers under which the launcher reads them.
    pub(super) files: Vec<(i32, &'a Content)>,
}

/// The host's half. Files get numbers from `first_file` on.
pub(super) fn host_half<'a>(plan: &'a LaunchPlan, sources: &mut Sources<'a>, first_file: i32) -> Halves<'a> {
    let mut halves = Halves::default();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let dir = |at: &String, mode| Piece::Entry(Entry::Dir { at: at.clone(), mode });
        let piece = match mount {
            Mount::Bind { at, .. } if in_machines_own(at, &plan.mounts[..index]) => continue,
            Mount::Bind { source, at, access, origin } => Piece::Bind {
                source: sources.bind(plan, source, *access, *origin),
                at: at.clone(),
                read_only: *access == Access::ReadOnly,
            },
            Mount::Store { source, at, view } => {
                Piece::Bind { source: sources.store(plan, source, view), at: at.clone(), read_only: true }
            }
            Mount::Tmpfs { at, .. } | Mount::Dir { at, .. } if in_machines_own(at, &plan.mounts[..index]) => {
                continue;
            }
            Mount::Tmpfs { at, .. } if is_cover(at, &plan.mounts[index..]) => Piece::Empty { at: at.clone() },
            Mount::Proc { at } | Mount::Dev { at } | Mount::Tmpfs { at, .. } => dir(at, 0o755),
            Mount::Dir { at, mode } => dir(at, *mode),
            Mount::Symlink { at, target } => {
                Piece::Entry(Entry::Symlink { at: at.clone(), target: target.clone() })
            }
            Mount::File { at, mode, content } => {
                let fd = first_file + i32::try_from(halves.files.len()).unwrap_or(i32::MAX - first_file);
                halves.files.push((fd, content));
                Piece::Entry(Entry::File { at: at.clone(), mode: *mode, fd })
            }
            Mount::Seal { .. } => continue,
        };
        halves.tree.push(piece);
    }
    halves
}

/// The machine's half, for init.
pub(super) fn machine_half(mounts: &[Mount], kvm: bool) -> Vec<MachineMount> {
    let mut inside = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let (before, from_here) = mounts.split_at(index);
        let made = match mount {
            Mount::Proc { at } => MachineMount::Proc { at: at.clone() },
            Mount::Dev { at } => MachineMount::Dev { at: at.clone(), kvm },
            Mount::Tmpfs { at, size_bytes, mode } if !is_cover(at, from_here) => {
                MachineMount::Tmpfs { at: at.clone(), size_bytes: *size_bytes, mode: *mode }
            }
            Mount::Bind { at, access: Access::ReadOnly, .. } if in_machines_own(at, before) => {
                MachineMount::ReadOnly { at: at.clone() }
            }
            // Over what the host seals, it is sealed there.
            Mount::Seal { at } if is_machines_own(at, before) => MachineMount::ReadOnly { at: at.clone() },
            _ => continue,
        };
        inside.push(made);
    }
    inside
}

/// Whether nothing is ever to be in the empty file system that `mounts` begin with.
fn is_cover(at: &str, mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| matches!(mount, Mount::Seal { at: sealed } if sealed == at))
}

fn is_machines_own(at: &str, mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| match mount {
        Mount::Proc { at: own } | Mount::Dev { at: own } => own == at,
        _ => false,
    })
}

/// Whether it lies below what the machine's own kernel makes.
fn in_machines_own(at: &str, mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| match mount {
        Mount::Proc { at: own } | Mount::Dev { at: own } => std::path::Path::new(at).starts_with(own),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::microvm::testing::plan;

    #[test]
    fn each_mount_is_made_on_one_side() {
        let plan = plan();
        let halves = host_half(&plan, &mut Sources::default(), 20);
        let host: Vec<&str> = halves
            .tree
            .iter()
            .map(|piece| match piece {
                Piece::Bind { at, .. } | Piece::Empty { at } => at.as_str(),
                Piece::Entry(Entry::Dir { at, .. } | Entry::Symlink { at, .. } | Entry::File { at, .. }) => {
                    at.as_str()
                }
            })
            .collect();
        assert_eq!(host, ["/usr", "/etc/passwd", "/proc", "/dev", "/workspace", "/workspace/state"]);
        assert!(matches!(&halves.tree[5], Piece::Empty { .. }), "{:?}", halves.tree[5]);
        let at = |at: &str| at.to_owned();
        let inside = [
            MachineMount::Proc { at: at("/proc") },
            MachineMount::ReadOnly { at: at("/proc/sys") },
            MachineMount::Dev { at: at("/dev"), kvm: false },
            MachineMount::Tmpfs { at: at("/dev/shm"), size_bytes: 4096, mode: 0o1777 },
            MachineMount::ReadOnly { at: at("/dev") },
        ];
        assert_eq!(machine_half(&plan.mounts, false), inside);
    }

    #[test]
    fn files_are_read_under_numbers_of_their_own() {
        let plan = plan();
        let halves = host_half(&plan, &mut Sources::default(), 20);
        assert_eq!(halves.files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [20]);
        assert!(halves.tree.contains(&Piece::Entry(Entry::File {
            at: "/etc/passwd".to_owned(),
            mode: 0o644,
            fd: 20
        })));
    }
}
