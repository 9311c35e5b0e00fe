//! Work in progress is kept inside, comes home, and can be had back.

mod support;
mod take;
