//! A terminal without a window: what it holds after the bytes it was sent, and how to paint that.

mod cell;

mod characters;
mod clusters;
mod controls;
mod cursor;
mod graphics;
mod grid;
mod model;
mod modes;
mod reflow;
mod snapshot;

pub(super) use characters::Cut;
pub(super) use model::Model;
pub(super) use snapshot::{blank, excerpt, snapshot};
