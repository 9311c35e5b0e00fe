//! Init as the first process of real guests.

mod boot;
mod inside;
mod limits;
mod refusals;
