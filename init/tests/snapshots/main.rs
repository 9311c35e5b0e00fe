//! `agent-git snapshot` on real repositories, with the real git to compare with.

mod kept;
mod odd;
mod patterns;
mod scene;
mod storms;
mod untouched;
