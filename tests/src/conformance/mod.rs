//! Every behaviour of the product on every layer: what is run, what came of it, and what is written about it.
//!
//! `tests/conformance.toml` is the plan. [`Plan`] reads it, [`programs`] finds the tests, [`run`] runs one on a layer,
//! [`judge()`] holds the results against the plan's waivers, [`Matrix`] shows them, and [`page`] writes docs/isolation.md.

mod judge;
mod matrix;
pub mod page;
mod plan;
pub mod programs;
pub mod run;

pub use judge::{Cell, judge};
pub use matrix::{Matrix, Row};
pub use plan::{Exception, Group, Plan, covers};
pub use programs::Test;
pub use run::{Came, Ran};
