//! What this machine must have, what of it is missing, and how a person gets it.
//!
//! A [`Machine`] is looked at once, which gives [`Facts`]; from these alone [`report`] decides what is missing.
//! Each thing that can be missing is a [`Requirement`] with an id that never changes, and a [`Fix`] for each
//! distribution. `doctor` prints them all; a command that fails because of one prints the same fix as its hint.

mod checks;
mod distribution;
mod facts;
mod fix;
mod fixes;
mod gather;
mod kind;
mod machine;
pub mod report;
mod version;

pub use distribution::{Distribution, Family};
pub use facts::Facts;
pub use fix::{Fix, Step};
pub use kind::{Check, Purpose, Requirement, Weight};
pub use machine::Machine;
pub use report::{Report, Selection, Severity};

/// For a launch that failed: qemu's version and the one that is needed, where what it printed is older.
pub(crate) fn older_qemu(printed: &str) -> Option<(String, String)> {
    let found = version::Version::printed(printed).filter(|found| *found < checks::QEMU)?;
    Some((found.to_string(), checks::QEMU.to_string()))
}

#[cfg(test)]
mod tests;
