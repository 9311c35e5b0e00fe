//! What the host and PID 1 say to each other: types, frames, codec, addresses.
//!
//! Nothing here does I/O, knows a process, a path of ours or a runtime: encoding and decoding are plain
//! functions over bytes, so the shim, init, the tests and the fuzzers all call the same code.
//! The byte-level description is `docs/protocol.md`.

// Where init can be reached: `unix:PATH`, `vsock:CID:PORT`, `hybrid:PATH:PORT`.
pub mod address;
mod bounded;
// Bytes as they arrive become frames, in the memory of one frame.
pub mod buffer;
// Control messages to bytes and back, with a size limit: the only place that knows bincode.
pub mod codec;
// How a process ended, told whole.
pub mod exit;
// Why a request was refused.
pub mod failure;
// The fixed-size frame header and the data frames with their stream offsets.
pub mod frame;
// The first bytes in each direction; their layout never changes.
pub mod handshake;
// Every control message, by operation.
pub mod message;
// Which snapshots are kept.
pub mod retention;
// What init is told to do: the `InitSpec` document.
pub mod spec;
mod words;

pub use buffer::FrameBuffer;
pub use message::{ClientMessage, Request, ServerMessage};
