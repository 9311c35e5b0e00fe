//! Init as the first process of real guests, and machines of the shim's whose insides are an attacker's.

mod boot;
mod bridge;
mod guest_root;
mod hostile;
mod inside;
mod limits;
mod refusals;
mod taken_over;
