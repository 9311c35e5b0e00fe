//! Work in progress that was kept inside, as commits that no branch holds.
//!
//! The program that keeps it runs inside, as the agent's user, since it reads what the agent wrote: here it is asked, and
//! what it answers is believed by nobody. What came home lies below `refs/agents/NAME/snapshots/`.

mod answer;
/// What is asked inside.
pub mod ask;

pub use answer::{LeftOut, Listed, Outcome, Report, Taken};
pub use ask::{Ask, SnapshotError, TakeOptions};
