//! Work in progress is kept inside, comes home, and can be had back.

mod home;
mod support;
mod take;
