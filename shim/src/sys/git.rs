//! libgit2's own state, which is one for the whole process.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use git2::ConfigLevel;

/// Has libgit2 look for no configuration of the machine's or the person's, from now on: what stands there can name programs.
/// Whoever opens a repository with it calls this first; false where it does not obey.
pub(crate) fn git_without_configuration() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        let levels = [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global];
        levels.into_iter().all(|level| {
            // SAFETY: the lock lets one thread in here and makes the others wait, and every use of libgit2 comes after it.
            unsafe { git2::opts::set_search_path(level, "") }.is_ok()
        })
    })
}
