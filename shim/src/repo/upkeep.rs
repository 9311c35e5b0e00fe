//! Each pull brings a pack, and many packs make every git slow. Git itself looks after that when it fetches.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{home::HomeRepository, host_git::HostGit};

/// Packs from which on git is asked: its own number (`gc.autoPackLimit`).
const MANY_PACKS: usize = 50;

/// For git to begin; it goes on in the background.
const UPKEEP_WITHIN: Duration = Duration::from_secs(10);

/// Has git put packs together where there are many.
pub(crate) fn look_after(git: &HostGit, home: &HomeRepository, until: Instant) {
    let packs = fs::read_dir(home.objects.join("pack")).into_iter().flatten().flatten();
    let packs = packs.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "pack")).count();
    if packs > MANY_PACKS {
        // What came is there. A repository that is not tidied up is no failure to pull.
        let _ = git.maintain(&home.git_dir, until.min(Instant::now() + UPKEEP_WITHIN));
    }
}
