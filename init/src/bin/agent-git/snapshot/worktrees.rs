//! The worktrees of a repository, by name.

use std::{
    iter,
    path::{Path, PathBuf},
};

use git2::{ErrorCode, Repository, RepositoryOpenFlags};
use rustix::fs::stat;

use super::{
    args::Args,
    files::Inode,
    report::{Failure, Why},
};

/// The main one.
pub(super) const MAIN: &str = "main";

/// What a linked one is called that has the main one's name.
const LINKED_MAIN: &str = "main.linked";

/// Most of one repository.
const MAX_WORKTREES: usize = 256;

/// Where the host makes them, in the main one.
const FOLDER: &str = ".worktrees";

/// One worktree.
pub(super) struct Worktree {
    pub name: String,
    pub folder: PathBuf,
    pub repository: Repository,
}

/// Those that were asked for, and what all there are are for the file system.
pub(super) struct Worktrees {
    pub chosen: Vec<Result<Worktree, (String, Failure)>>,
    pub all: Vec<Inode>,
}

/// Opens the repository of a folder, and none that is around it.
pub(super) fn open(folder: &Path) -> Result<Repository, Failure> {
    Repository::open_ext(folder, RepositoryOpenFlags::NO_SEARCH, iter::empty::<&Path>()).map_err(|error| {
        let message = error.message().to_owned();
        let unsupported = ["unsupported", "unknown object format", "object format", "extension"];
        let why = if error.code() == ErrorCode::NotFound {
            Why::NoRepository
        } else if unsupported.iter().any(|text| message.contains(text)) {
            Why::Unsupported
        } else {
            Why::Failed
        };
        Failure::new(why, message)
    })
}

/// Finds them.
pub(super) fn find(args: &Args) -> Result<Worktrees, Failure> {
    let repository = open(&args.folder)?;
    if is_bare(&repository, &args.folder) {
        return Err(Failure::new(Why::Bare, "it is a bare repository: there are no files to keep"));
    }
    let mut names: Vec<(String, PathBuf)> = Vec::new();
    for name in repository.worktrees()?.iter().flatten().take(MAX_WORKTREES) {
        // One whose folder is gone, or that is not readable, is no worktree any more.
        let Ok(found) = repository.find_worktree(name) else { continue };
        if found.path().join(".git").exists() {
            let name = if name == MAIN { LINKED_MAIN } else { name };
            names.push((name.to_owned(), found.path().to_owned()));
        }
    }
    names.sort();
    let inode = |folder: &Path| stat(folder).ok().map(|found| (device(found.st_dev), found.st_ino));
    let root = inode(&args.folder);
    // The folder that was named may itself be a linked worktree.
    names.retain(|(_, folder)| inode(folder) != root);
    let all = names.iter().filter_map(|(_, folder)| inode(folder)).chain(root).collect();
    let mut chosen = vec![];
    if args
        .worktree
        .as_ref()
        .is_none_or(|wanted| is_meant(wanted, MAIN, &args.folder, &args.folder, Some(&repository)))
    {
        chosen.push(Ok(Worktree { name: MAIN.to_owned(), folder: args.folder.clone(), repository }));
    }
    for (name, folder) in names {
        match (open(&folder), &args.worktree) {
            (opened, Some(wanted))
                if !is_meant(wanted, &name, &folder, &args.folder, opened.as_ref().ok()) => {}
            (Ok(repository), _) => chosen.push(Ok(Worktree { name, folder, repository })),
            (Err(failure), _) => chosen.push(Err((name, failure))),
        }
    }
    match (&args.worktree, chosen.is_empty()) {
        (Some(wanted), true) => Err(Failure::new(Why::NoWorktree, format!("there is no worktree {wanted}"))),
        _ => Ok(Worktrees { chosen, all }),
    }
}

/// A worktree can be called by its name, by the folder that the host made for it, or by its branch.
fn is_meant(wanted: &str, name: &str, folder: &Path, main: &Path, repository: Option<&Repository>) -> bool {
    let branch = || {
        let head = repository?.find_reference("HEAD").ok()?;
        let target = head.symbolic_target()?.strip_prefix("refs/heads/")?.to_owned();
        Some(target == wanted)
    };
    // `main` is the one worktree of that name, whatever is checked out elsewhere.
    if wanted == MAIN || name == wanted {
        return name == wanted;
    }
    folder == main.join(FOLDER).join(wanted) || branch().unwrap_or(false)
}

/// Without a `.git` of its own the folder is the repository. What its configuration says of that is no matter.
fn is_bare(repository: &Repository, folder: &Path) -> bool {
    let same = || Some(repository.path().canonicalize().ok()? == folder.canonicalize().ok()?);
    same().unwrap_or(false)
}

/// As statx(2) has it.
fn device(device: u64) -> u64 {
    u64::from(rustix::fs::major(device)) << 32 | u64::from(rustix::fs::minor(device))
}
