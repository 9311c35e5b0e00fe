//! Where snapshots are kept: one ref for each, named after its worktree and its moment.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use git2::{Oid, Reference, Repository};

use super::report::{Failure, Why};

/// All of them.
pub(super) const PLACE: &str = "refs/agents/snapshots/";

/// Tries where the agent's git removes the empty folders that we made.
const TRIES: u32 = 5;

/// The snapshots of one worktree.
pub(super) struct Refs<'r> {
    repository: &'r Repository,
    prefix: String,
}

impl<'r> Refs<'r> {
    /// `None`: no ref can be named after this worktree.
    pub(super) fn of(repository: &'r Repository, worktree: &str) -> Option<Self> {
        let prefix = format!("{PLACE}{worktree}/");
        (!worktree.contains('/') && Reference::is_valid_name(&format!("{prefix}1")))
            .then_some(Self { repository, prefix })
    }

    /// All of them: moment and commit, the oldest first.
    pub(super) fn list(&self) -> Result<Vec<(u64, Oid)>, Failure> {
        let mut list = Vec::new();
        for reference in self.repository.references_glob(&format!("{}*", self.prefix))? {
            // One that is broken is nobody's snapshot.
            let Ok(reference) = reference else { continue };
            let name = reference.name_bytes().strip_prefix(self.prefix.as_bytes());
            if let (Some(at), Some(oid)) = (name.and_then(moment), reference.target()) {
                list.push((at, oid));
            }
        }
        list.sort_unstable();
        Ok(list)
    }

    /// The commit of a moment's snapshot.
    pub(super) fn at(&self, at_ms: u64) -> Option<Oid> {
        self.repository.refname_to_id(&format!("{}{at_ms}", self.prefix)).ok()
    }

    /// Makes one. Written by hand: nothing is logged whatever the repository logs, no hook hears of it, and nothing is
    /// left of one that was interrupted but the file at `scratch`.
    pub(super) fn create(&self, at_ms: u64, commit: Oid, scratch: &Path) -> Result<(), Failure> {
        let failed = |doing: &str, error: &io::Error| {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            Failure::new(if full { Why::DiskFull } else { Why::Failed }, format!("{doing} a ref: {error}"))
        };
        fs::write(scratch, format!("{commit}\n")).map_err(|error| failed("writing", &error))?;
        let path: PathBuf = self.repository.commondir().join(format!("{}{at_ms}", self.prefix));
        let folder = path.parent().unwrap_or(&path);
        let mut tries = 1;
        loop {
            let made = fs::create_dir_all(folder).and_then(|()| fs::rename(scratch, &path));
            match made {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                made => return made.map_err(|error| failed("making", &error)),
            }
        }
    }

    /// Removes one. Whoever else is at it may be faster.
    pub(super) fn remove(&self, at_ms: u64) -> bool {
        let found = self.repository.find_reference(&format!("{}{at_ms}", self.prefix));
        found.and_then(|mut reference| reference.delete()).is_ok()
    }
}

/// A moment in a name: digits as we write them.
pub(super) fn moment(name: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(name).ok()?;
    let at: u64 = text.parse().ok()?;
    (at.to_string() == text).then_some(at)
}
