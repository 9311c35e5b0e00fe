//! The statistics and the table, which `cargo bench` does not test.

// What only the rows use is not used here.
#![allow(dead_code)]

mod rounds;
mod stats;
mod table;
