//! The supervisor under test: each transition by itself, and then ten thousand random lives.

mod scene;
mod sim;
mod transitions;
