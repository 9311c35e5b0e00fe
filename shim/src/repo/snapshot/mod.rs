//! Work in progress that was kept inside, as commits that no branch holds.
//!
//! The program that keeps it runs inside, as the agent's user, since it reads what the agent wrote: here it is asked, and
//! what it answers is believed by nobody. What came home lies below `refs/agents/NAME/snapshots/` of the person's own
//! repository, and is read by their own git.

mod answer;
mod ask;
mod home;
mod objects;
mod restore;

pub use answer::{LeftOut, Listed, Outcome, Report, Taken};
pub use ask::{Ask, SnapshotError, TakeOptions};
pub use home::{AtHome, AtHomeError, ChangedFile, Made};
pub use objects::Objects;
pub use restore::{RestoreError, Restored, restore};

pub(crate) use answer::INSIDE;
