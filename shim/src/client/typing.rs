//! Bytes on their way to a terminal inside.

/// The key that a terminal takes for the end of input (termios(3), VEOF), unless a program changed it.
const END_OF_FILE: u8 = 0x04;

/// Counts what was typed, and knows how to end input that is no keyboard.
#[derive(Debug, Default)]
pub(crate) struct Typing {
    offset: u64,
    /// Whether the last line was begun and not ended.
    inside_line: bool,
}

impl Typing {
    /// Offset of the next byte, before `bytes` are typed.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> u64 {
        let at = self.offset;
        self.offset += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.inside_line = !matches!(last, b'\n' | b'\r');
        }
        at
    }

    /// What ends the input: the first such key within a line only hands the line over, the second one ends.
    pub(crate) fn end(&self) -> &'static [u8] {
        if self.inside_line { &[END_OF_FILE, END_OF_FILE] } else { &[END_OF_FILE] }
    }
}

#[cfg(test)]
mod tests {
    use super::Typing;

    #[test]
    fn the_end_within_a_line_takes_two_keys() {
        let mut typing = Typing::default();
        assert_eq!(typing.end(), b"\x04");
        assert_eq!(typing.advance(b"ls"), 0);
        assert_eq!(typing.end(), b"\x04\x04");
        assert_eq!(typing.advance(b"\n"), 2);
        assert_eq!(typing.end(), b"\x04");
    }
}
