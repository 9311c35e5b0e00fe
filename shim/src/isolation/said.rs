//! What a program said before it failed, as far as an error of ours passes it on.

/// Longest complaint that is passed on.
pub(crate) const SAID_MAX_CHARS: usize = 400;

/// The beginning of it, without what a terminal would obey.
pub(super) fn short(said: &str) -> String {
    said.chars().take(SAID_MAX_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}
