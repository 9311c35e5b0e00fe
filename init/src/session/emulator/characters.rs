//! Keeps UTF-8 characters whole where a read cut them.
//!
//! The parser could hold the first part itself, but version 0.15 loses the character after one
//! that was cut in front of its last byte, so it never gets to see a cut.

/// The beginning of a character whose rest is still to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// Three bytes at most: a fourth would make it whole.
    held: Vec<u8>,
}

/// What a beginning without an end is shown as.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

impl Cut {
    /// Passes `bytes` on, after what was held of the last ones; a cut character at the end is held.
    pub(crate) fn join(&mut self, bytes: &[u8], mut pass: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while !self.held.is_empty() {
            match rest.split_first() {
                None => return,
                Some((next @ 0x80..=0xbf, later)) => {
                    self.held.push(*next);
                    rest = later;
                    if cut_character(&self.held).is_empty() {
                        pass(&self.held);
                        self.held.clear();
                    }
                }
                Some(_) => {
                    pass(REPLACEMENT);
                    self.held.clear();
                }
            }
        }
        let cut = cut_character(rest);
        self.held.extend_from_slice(cut);
        let mut whole = &rest[..rest.len() - cut.len()];
        // What now stands at the end may be a beginning too, one that the held one put an end to.
        let mut lost = 0;
        while let cut @ [_, ..] = cut_character(whole) {
            whole = &whole[..whole.len() - cut.len()];
            lost += 1;
        }
        if !whole.is_empty() {
            pass(whole);
        }
        (0..lost).for_each(|_| pass(REPLACEMENT));
    }

    /// What is held.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.held
    }
}

/// The beginning of a character at the end of `bytes`, if it may still become whole.
fn cut_character(bytes: &[u8]) -> &[u8] {
    let last = &bytes[bytes.len().saturating_sub(3)..];
    let Some(at) = last.iter().rposition(|byte| !matches!(byte, 0x80..=0xbf)) else { return &[] };
    let begun = &last[at..];
    if std::str::from_utf8(begun).is_err_and(|error| error.error_len().is_none()) { begun } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_beginning_of_a_character_is_cut() {
        for (bytes, cut) in [
            (&b"abc"[..], &b""[..]),
            (b"a\xe2\x94", b"\xe2\x94"),
            ("│".as_bytes(), b""),
            (b"\x80\x80\x80", b""),
            (b"\xf0\x9f\x98", b"\xf0\x9f\x98"),
            ("😀".as_bytes(), b""),
            (b"ab\xc3", b"\xc3"),
            (b"ab\xff", b""),
            (b"a\xe0\x80", b""),
        ] {
            assert_eq!(cut_character(bytes), cut, "{bytes:x?}");
        }
    }

    proptest! {
        /// However it is cut, the text is the same; only an end that never comes is still held.
        #[test]
        fn joined_text_is_the_text(
            text in prop::collection::vec(prop_oneof![
                "\\PC{0,3}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..4),
            ], 0..12).prop_map(|parts| parts.concat()),
            lengths in prop::collection::vec(1_usize..5, 1..20),
        ) {
            let (mut cut, mut joined) = (Cut::default(), Vec::new());
            let (mut rest, mut lengths) = (&text[..], lengths.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
                cut.join(now, |bytes| {
                    assert!(cut_character(bytes).is_empty(), "passed on a cut: {bytes:x?}");
                    joined.extend_from_slice(bytes);
                });
                rest = later;
            }
            joined.extend_from_slice(cut.bytes());
            prop_assert_eq!(String::from_utf8_lossy(&joined), String::from_utf8_lossy(&text));
        }
    }
}
