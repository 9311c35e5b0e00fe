//! A folder that holds a part of a store: an empty tmpfs with one mount for each package.
//!
//! It is made in the mount namespace of the launch, before bwrap, which then binds it once: as bwrap's own arguments,
//! five hundred mounts would take half a second. An ordinary user needs a user namespace for that, inside of which
//! bwrap makes the sandbox's own; both show the same host ids.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

use super::error::IsolationError;
use super::handover::{self, c_string};
use super::plan::Caller;
use super::sources::Tree;
use super::userns::UsernsSwitch;
use crate::sys::Step;

/// What the child does to make the trees, root's after everything was staged. Looks at the packages; for an ordinary user
/// it makes the folders that the trees will cover.
pub(super) fn steps(caller: Caller, trees: &[Tree<'_>]) -> Result<Vec<Step>, IsolationError> {
    let mut steps = Vec::new();
    if caller == Caller::Ordinary && !trees.is_empty() {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        steps.push(Step::OwnNamespaces {
            uid_map: c_string(format!("{uid} {uid} 1"))?,
            gid_map: c_string(format!("{gid} {gid} 1"))?,
        });
        steps.push(Step::PrivateMounts);
    }
    for tree in trees {
        match caller {
            Caller::Root { .. } => steps.push(Step::MountPoint { at: c_string(&tree.at)?, folder: true }),
            Caller::Ordinary => handover::folder(&tree.at)?,
        }
        fill(tree, &mut steps)?;
    }
    Ok(steps)
}

fn fill(tree: &Tree<'_>, steps: &mut Vec<Step>) -> Result<(), IsolationError> {
    steps.push(Step::Ground(c_string(&tree.at)?));
    for name in tree.closure.names() {
        let found = tree.store.join(name);
        let gone = |source| IsolationError::StorePathGone { path: found.clone(), source };
        let kind = fs::symlink_metadata(&found).map_err(gone)?.file_type();
        let at = c_string(tree.at.join(name))?;
        if kind.is_symlink() {
            steps.push(Step::Link { target: c_string(fs::read_link(&found).map_err(gone)?)?, at });
        } else {
            steps.push(Step::MountPoint { at: at.clone(), folder: kind.is_dir() });
            steps.push(Step::Graft { from: c_string(tree.from.join(name))?, at });
        }
    }
    steps.push(Step::Seal(c_string(&tree.at)?));
    Ok(())
}

/// Whether an ordinary user's namespaces are among them.
pub(super) fn needs_namespaces(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::OwnNamespaces { .. }))
}

/// What it means when such a step fails.
pub(super) fn explain(
    steps: &[Step],
    at: usize,
    error: io::Error,
    trees: &[Tree<'_>],
    switch: impl FnOnce() -> Option<UsernsSwitch>,
) -> Result<IsolationError, io::Error> {
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    match &steps[at] {
        // A path can go while the tree is made.
        Step::Graft { from, .. } if error.kind() == io::ErrorKind::NotFound => {
            let from = Path::new(OsStr::from_bytes(from.as_bytes()));
            let tree = trees.iter().find_map(|tree| Some((tree, from.strip_prefix(&tree.from).ok()?)));
            let path = tree.map_or_else(|| from.to_owned(), |(tree, name)| tree.store.join(name));
            Ok(IsolationError::StorePathGone { path, source: error })
        }
        // AppArmor lets some programs make a user namespace and then do nothing with it.
        Step::OwnNamespaces { .. } | Step::PrivateMounts | Step::Ground(_)
            if refused && needs_namespaces(steps) =>
        {
            let said = format!("agent-shim may not mount the packages of the environment: {error}");
            Ok(IsolationError::NoUserNamespaces { switch: switch(), said })
        }
        _ => Err(error),
    }
}
