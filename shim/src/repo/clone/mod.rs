//! The project's repository goes in: a clone of its own for the sandbox.
//!
//! It is made with the host's git from the person's own objects, before the agent runs for the first time. Nothing in it is
//! shared with the host unless that was asked for, nothing of the person's configuration is in it but their name, and no
//! hook, filter or driver of anybody takes part. Once the agent ran, the host never opens it again.

mod checkout;
mod dirty;
mod error;
mod index;
mod layout;
mod objects;
/// The repository that is cloned.
pub mod origin;
mod places;
mod shallow;
/// How far a clone is, and whether it goes on.
pub mod watch;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use checkout::{LeftOut, Several};
pub use dirty::{Dirty, DirtyError};
pub use error::CloneError;
use layout::{Layout, Person};
use origin::{Head, Origin};
use watch::Watch;

use super::{host_git::HostGit, object_id::ObjectId, refs::RefName};
use crate::sandbox::{
    record::{CloneRecord, Cloned},
    remove::{empty_tree, remove_tree},
};

/// For a whole clone.
pub const CLONE_WITHIN: Duration = Duration::from_hours(1);

/// Private memory of each git, bytes.
const MEMORY_BYTES: u64 = 4 << 30;

/// Most bytes of a list of refs. It is the person's own, so this is only where something must be wrong.
const MAX_LIST_BYTES: usize = 256 * 1024 * 1024;

/// What a folder is called in which a clone is made, before its process id.
const DRAFT: &str = "work.new-";

/// Where the branches of a clone began: never pulled, so that `git log refs/agent-shim/base..` is what was done inside.
pub const BASE: &str = "refs/agent-shim/base";

/// A clone that was made.
#[derive(Debug)]
pub struct Made {
    /// What it is.
    pub cloned: Cloned,
    /// What it lacks.
    pub left_out: LeftOut,
    /// What the person has not committed, where that can be told.
    pub dirty: Option<Result<Dirty, DirtyError>>,
}

/// Clones `origin` as `wish` has it into the folder `work` of a sandbox, which holds nothing that anybody needs.
///
/// `hidden` is the state of all sandboxes: no part of the project, wherever it lies. The clone is made beside `work` and moved there once it is whole: who is killed on the way leaves no half of it.
pub fn clone(
    origin: &Origin,
    wish: &CloneRecord,
    sandbox: &Path,
    hidden: &Path,
    watch: &mut Watch<'_>,
) -> Result<Made, CloneError> {
    remove_drafts(sandbox).map_err(CloneError::io("removing what was left of a clone"))?;
    let draft = Draft::new(sandbox)?;
    let making = Making { git: HostGit::find(MEMORY_BYTES)?, origin, wish, work: &draft.folder, hidden };
    let made = making.make(watch)?;
    let work = sandbox.join("work");
    match empty_tree(&work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CloneError::io("emptying the sandbox's work")(error));
        }
        _ => {}
    }
    fs::rename(&draft.folder, &work).map_err(CloneError::io("moving the clone to its place"))?;
    watch.done();
    Ok(made)
}

/// One clone in the making.
struct Making<'a> {
    git: HostGit,
    origin: &'a Origin,
    wish: &'a CloneRecord,
    /// Where it is made.
    work: &'a Path,
    hidden: &'a Path,
}

impl Making<'_> {
    fn make(&self, watch: &mut Watch<'_>) -> Result<Made, CloneError> {
        if self.wish.include_dirty && self.origin.has_work_tree && !self.origin.is_checked_out {
            return Err(CloneError::Elsewhere);
        }
        let person = Person::ask(&self.git, &self.origin.folder, watch.until())?;
        let refs = self.refs(watch)?;
        let layout = Layout::make(self.work, self.origin.format)?;
        let tips = || refs.iter().map(|(id, _)| id).chain(&self.origin.commit);
        let cut = match self.wish.depth {
            Some(depth) => shallow::cut(self, tips(), depth, watch)?,
            None => BTreeSet::new(),
        };
        let objects = objects::fill(self, &layout, &cut, tips, watch)?;
        let identity = person.answer()?;
        layout.write_config(&identity)?;
        layout.write_refs(
            &self.origin.head,
            self.origin.commit.as_ref(),
            self.origin.commit.as_ref(),
            &refs,
        )?;
        let ends = if self.wish.depth.is_none() && self.origin.is_shallow {
            shallow::inherited(self, &layout, watch)?
        } else {
            cut
        };
        layout.write_ends(&ends)?;
        let looking = dirty::Look::new(self, &layout, &identity).map(dirty::Look::begin);
        let (tip, looking, taken) = match looking {
            Some(looking) if self.wish.include_dirty => {
                let taken = looking.wait(true, watch)?.map_err(CloneError::Dirty)?;
                let id =
                    taken.commit.as_ref().and_then(|id| ObjectId::parse(id.as_bytes(), self.origin.format));
                (id.or_else(|| self.origin.commit.clone()), None, Some(taken))
            }
            looking => (self.origin.commit.clone(), looking, None),
        };
        if tip != self.origin.commit {
            layout.write_refs(&self.origin.head, self.origin.commit.as_ref(), tip.as_ref(), &refs)?;
        }
        let left_out = match &tip {
            Some(_) => checkout::check_out(self, &layout, watch)?,
            None => LeftOut::default(),
        };
        checkout::make_folder(self.work, self.wish.folder.as_deref())
            .map_err(CloneError::io("making the project's folder in the clone"))?;
        let cloned = Cloned {
            branch: self.origin.head.branch().map(|name| String::from_utf8_lossy(name).into_owned()),
            commit: self.origin.commit.as_ref().map(ToString::to_string),
            dirty: taken.as_ref().and_then(|taken| taken.commit.clone()),
            objects,
        };
        // What stays outside is only told: where it cannot be, the clone is a good one.
        let dirty = match looking {
            Some(looking) => Some(looking.wait(false, watch)?),
            None => taken.map(Ok),
        };
        layout.write_alternates(self.wish.shared.len())?;
        Ok(Made { cloned, left_out, dirty })
    }

    /// Every branch and tag, where they were asked for; otherwise the one that is checked out.
    fn refs(&self, watch: &Watch<'_>) -> Result<Vec<(ObjectId, RefName)>, CloneError> {
        if !self.wish.all_branches {
            let one = match (&self.origin.commit, &self.origin.head) {
                (Some(commit), Head::Branch(name)) => Some((commit.clone(), name.clone())),
                _ => None,
            };
            return Ok(one.into_iter().collect());
        }
        let mut command = self.git.on(&self.origin.git_dir);
        command.args(["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"]);
        let said = self.git.start(command, "for-each-ref", watch.until())?.output(MAX_LIST_BYTES)?;
        let parse = |line: &[u8]| {
            let mut words = line.splitn(2, |byte| *byte == b' ');
            Some((ObjectId::parse(words.next()?, self.origin.format)?, RefName::parse(words.next()?)?))
        };
        // What git lists and we would not make has no part in this.
        Ok(said.split(|byte| *byte == b'\n').filter_map(parse).collect())
    }
}

/// Where a clone is made. Removed on drop, unless it was moved away.
struct Draft {
    folder: PathBuf,
}

impl Draft {
    fn new(sandbox: &Path) -> Result<Self, CloneError> {
        let folder = sandbox.join(format!("{DRAFT}{}", std::process::id()));
        layout::make_private(&folder).map_err(CloneError::io("making a folder for the clone"))?;
        Ok(Self { folder })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What stays is removed by the next clone, or with the sandbox.
        let _ = remove_tree(&self.folder);
    }
}

/// What a clone that was killed has left. Whoever calls this holds the sandbox's lock.
fn remove_drafts(sandbox: &Path) -> io::Result<()> {
    for entry in fs::read_dir(sandbox)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes()) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}
