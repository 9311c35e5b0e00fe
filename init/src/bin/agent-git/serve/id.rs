//! Names of git objects.

use std::fmt;

/// Bytes of a name.
pub(crate) const ID_BYTES: usize = 20;

/// The name of an object: the SHA-1 of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) [u8; ID_BYTES]);

impl Id {
    /// What stands where there is no object: a ref that is to be made, or to be deleted.
    pub(crate) const ZERO: Self = Self([0; ID_BYTES]);

    /// From forty hexadecimal digits, and nothing else.
    pub(crate) fn from_hex(text: &[u8]) -> Option<Self> {
        if text.len() != ID_BYTES * 2 {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut id = [0; ID_BYTES];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(id))
    }

    /// From the first bytes of something that holds a name.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|id| Self(*id))
    }

    pub(crate) fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; ID_BYTES * 2];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_forty_digits() {
        let text = b"0123456789abcdef0123456789ABCDEF01234567";
        assert_eq!(Id::from_hex(text).unwrap().to_string().as_bytes(), text.to_ascii_lowercase());
        assert_eq!(Id::from_hex(&text[1..]), None);
        assert_eq!(Id::from_hex(&[b'g'; 40]), None);
        assert_eq!(Id::from_hex(&[b'+'; 40]), None);
    }
}
