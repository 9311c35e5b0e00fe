//! Where what is mounted comes from, once everything is in place for the layer: root's sandboxes run as an id that could not
//! reach what the caller gave, so that is first put where the id can, and parts of a store are put together.

use std::path::{Path, PathBuf};

use super::plan::{Access, Caller, LaunchPlan, Origin, StoreView};
use super::store::Closure;

/// Covered by an empty tmpfs in the mount table that root makes for a launch; what the caller gave is put there
/// under numbers. It exists everywhere, and nothing of the system that we bind is in it.
pub(super) const STAGE: &str = "/tmp";

/// What has to be in place before the layer's program starts.
#[derive(Debug, Default)]
pub(super) struct Sources<'a> {
    /// Sources that root first puts at a place the sandbox's id can reach.
    pub(super) staged: Vec<Staged<'a>>,
    /// Parts of stores that have to be put together.
    pub(super) trees: Vec<Tree<'a>>,
    /// A folder that the layer's program covers with what it makes.
    pub(super) place: Option<PathBuf>,
}

/// A source that moves to `at` before the layer's program starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Staged<'a> {
    pub(super) source: &'a Path,
    pub(super) access: Access,
    /// Whether it is a folder of packages, whose content everyone may read.
    pub(super) is_store: bool,
    pub(super) at: PathBuf,
}

/// A folder to make of some entries of another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tree<'a> {
    /// The store on the host.
    pub(super) store: &'a Path,
    /// Where it is when the tree is made.
    pub(super) from: PathBuf,
    pub(super) closure: &'a Closure,
    /// Where the tree is made.
    pub(super) at: PathBuf,
}

impl<'a> Sources<'a> {
    /// Where a file or folder will be found.
    pub(super) fn bind(
        &mut self,
        plan: &LaunchPlan,
        source: &'a Path,
        access: Access,
        origin: Origin,
    ) -> PathBuf {
        match (plan.caller, origin) {
            (Caller::Root { .. }, Origin::Caller) => self.stage(source, access, false),
            _ => source.to_owned(),
        }
    }

    /// Where what is to be seen of a store will be found.
    pub(super) fn store(&mut self, plan: &LaunchPlan, source: &'a Path, view: &'a StoreView) -> PathBuf {
        let from = match plan.caller {
            Caller::Root { .. } => self.stage(source, Access::ReadOnly, true),
            Caller::Ordinary => source.to_owned(),
        };
        match view {
            StoreView::Whole => from,
            StoreView::Closure(closure) => self.tree(source, from, closure, plan),
        }
    }

    /// A folder that is the program's own.
    pub(super) fn own_place(&mut self, plan: &LaunchPlan, name: &str) -> PathBuf {
        let place = below(plan).join(name);
        self.place = Some(place.clone());
        place
    }

    fn stage(&mut self, source: &'a Path, access: Access, is_store: bool) -> PathBuf {
        let at = Path::new(STAGE).join(self.staged.len().to_string());
        self.staged.push(Staged { source, access, is_store, at: at.clone() });
        at
    }

    fn tree(&mut self, store: &'a Path, from: PathBuf, closure: &'a Closure, plan: &LaunchPlan) -> PathBuf {
        let at = below(plan).join(format!("store-{}", self.trees.len()));
        self.trees.push(Tree { store, from, closure, at: at.clone() });
        at
    }
}

/// Where folders that get covered are made.
fn below(plan: &LaunchPlan) -> &Path {
    match plan.caller {
        Caller::Root { .. } => Path::new(STAGE),
        // Covers nothing that could be bound: the folder is the shim's own.
        Caller::Ordinary => &plan.folder,
    }
}
