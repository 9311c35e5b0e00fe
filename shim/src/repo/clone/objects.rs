//! The objects of a clone.

use std::{collections::BTreeSet, process::Stdio};

use super::{Making, error::CloneError, layout::Layout, watch::Watch};
use crate::repo::{
    host_git::{GitError, quoted},
    object_id::ObjectId,
};

/// Packs what `tips` reach, and nothing else, straight into the clone.
///
/// Git writes pack and index at once: these are the person's own objects, and need no check on their way. What is a delta in
/// a pack already is taken as it is.
pub(super) fn pack<'a>(
    making: &Making<'_>,
    layout: &Layout,
    cut: &BTreeSet<ObjectId>,
    tips: impl Iterator<Item = &'a ObjectId>,
    watch: &mut Watch<'_>,
) -> Result<(), CloneError> {
    let tips: String = tips.map(|id| format!("{id}\n")).collect();
    if tips.is_empty() {
        return Ok(());
    }
    let lines: String = cut.iter().map(|id| format!("--shallow {id}\n")).collect::<String>() + &tips;
    let mut command = making.git.on(&making.origin.git_dir);
    // A graft is no part of the history, and is not cloned.
    command.env("GIT_GRAFT_FILE", "/dev/null").args(["-c", "advice.graftFileDeprecated=false"]);
    // What is left of a pack that fails is left in the clone, never beside the person's objects.
    command.env("GIT_OBJECT_DIRECTORY", layout.objects());
    command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&making.origin.objects()));
    // What the person's objects say of threads, sizes and bitmaps is for packs that stay there.
    command.args(["-c", "pack.threads=0", "-c", "pack.packSizeLimit=0", "-c", "core.fsync=none"]);
    command.args(["pack-objects", "--revs", "--delta-base-offset", "--progress"]);
    command.arg(layout.packs().join("pack")).stdin(Stdio::piped());
    let mut running = making.git.start(command, "pack-objects", watch.until())?;
    running.write(lines.as_bytes())?;
    watch.wait(&mut running).map_err(|error| match error {
        CloneError::Git(error @ GitError::Refused { .. }) if making.origin.is_partial() => {
            CloneError::Partial(error)
        }
        other => other,
    })
}
