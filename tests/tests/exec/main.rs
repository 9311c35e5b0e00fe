//! One-off commands in a running sandbox, through the real shim.

mod codes;
mod ends;
mod environment;
mod many;
mod signals;
mod stdio;
mod streams;
mod terminal;
