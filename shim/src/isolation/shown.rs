//! What comes before a layer's program, as comments for a person to read.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::plan::{Caller, LaunchPlan};
use super::sources::Sources;
use crate::terminal::sanitize::{Sanitized, sanitized};

/// The descriptors that are inherited.
pub(super) fn descriptors(out: &mut String, plan: &LaunchPlan) -> fmt::Result {
    plan.fds.iter().try_for_each(|fd| writeln!(out, "# descriptor {} is inherited: {}", fd.number, fd.name))
}

/// What has to be in place: the cgroup, what root shows to the sandbox's id, and parts of a store.
pub(super) fn surroundings(out: &mut String, plan: &LaunchPlan, sources: &Sources<'_>) -> fmt::Result {
    if let Some(cgroup) = &plan.limits.cgroup {
        writeln!(out, "# in the cgroup {}", path(&cgroup.folder))?;
        for (file, value) in &cgroup.settings {
            writeln!(out, "#   {file} = {value}")?;
        }
    }
    if let Caller::Root { runs_as } = plan.caller {
        writeln!(out, "# as user and group {runs_as}, without capabilities, in a mount namespace in which")?;
        for staged in &sources.staged {
            let (at, source) = (path(&staged.at), path(staged.source));
            // A store is everyone's to read as it is.
            let owner =
                if staged.is_store { String::new() } else { format!(" with its owner shown as {runs_as}") };
            writeln!(out, "#   {at} is {source}{owner}")?;
        }
    }
    if let Some((store, _)) = plan.readable.first().and_then(|path| path.rsplit_once('/')) {
        let (store, count) = (sanitized(store), plan.readable.len());
        writeln!(out, "# of {store}, init lets {count} paths be used and no others, by Landlock")?;
    }
    for tree in &sources.trees {
        let (at, count, store) = (path(&tree.at), tree.closure.names().len(), path(tree.store));
        writeln!(out, "# in a mount namespace in which {at} holds {count} paths of {store}")?;
    }
    Ok(())
}

/// A path in a comment, which ends with its line.
pub(super) fn path(path: &Path) -> Sanitized<'_> {
    sanitized(path.as_os_str().as_encoded_bytes())
}
