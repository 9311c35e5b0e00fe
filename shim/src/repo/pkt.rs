//! Pkt-lines, the frames of git's pack protocol (gitprotocol-common(5)): four hexadecimal digits of length, which
//! count themselves, then the data. Functions over bytes: nothing here reads or writes.

/// Longest packet, its four digits included.
pub(crate) const MAX_PACKET_BYTES: usize = 65_520;

/// Digits in front of the data.
const HEAD_BYTES: usize = 4;

/// Ends a message.
pub(crate) const FLUSH: &[u8] = b"0000";

/// Stands between the sections of a message.
pub(crate) const DELIMITER: &[u8] = b"0001";

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Bytes, perhaps none.
    Data(&'a [u8]),
    /// The end of a message.
    Flush,
    /// The end of a section.
    Delimiter,
    /// The end of a response of a stateless server.
    ResponseEnd,
}

/// What stands there is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet")]
pub struct Malformed;

/// The whole packet at the front of `buf` and its length; `None` means "read more".
pub(crate) fn decode(buf: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some((head, _)) = buf.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = head.iter().try_fold(0, |length, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(Malformed)?;
        Ok(length * 16 + digit as usize)
    })?;
    match length {
        0 => Ok(Some((Packet::Flush, HEAD_BYTES))),
        1 => Ok(Some((Packet::Delimiter, HEAD_BYTES))),
        2 => Ok(Some((Packet::ResponseEnd, HEAD_BYTES))),
        HEAD_BYTES..=MAX_PACKET_BYTES => {
            Ok(buf.get(HEAD_BYTES..length).map(|data| (Packet::Data(data), length)))
        }
        _ => Err(Malformed),
    }
}

/// Appends a packet with a line of text.
///
/// # Panics
/// Where the line does not fit into a packet; ours are made of object ids and words.
pub(crate) fn line(text: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    let text = text.as_ref();
    let length = HEAD_BYTES + text.len() + 1;
    assert!(length <= MAX_PACKET_BYTES, "a line of {} bytes", text.len());
    out.extend_from_slice(format!("{length:04x}").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The text of a packet without its line end, which is optional.
pub(crate) fn text(data: &[u8]) -> &[u8] {
    data.strip_suffix(b"\n").unwrap_or(data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_of_a_line() {
        let mut out = Vec::new();
        line("command=fetch", &mut out);
        assert_eq!(out, b"0012command=fetch\n");
        assert_eq!(decode(&out), Ok(Some((Packet::Data(b"command=fetch\n"), 18))));
        for short in 0..out.len() {
            assert_eq!(decode(&out[..short]), Ok(None));
        }
    }

    #[test]
    fn lengths_that_no_packet_has() {
        for wrong in ["0003", "fff1", "ffff", "xxxx", "-001", "+004", " 004"] {
            assert_eq!(decode(wrong.as_bytes()), Err(Malformed), "{wrong}");
        }
        assert_eq!(decode(b"0004"), Ok(Some((Packet::Data(b""), 4))));
        assert_eq!(decode(b"0000"), Ok(Some((Packet::Flush, 4))));
        assert_eq!(decode(b"0001x"), Ok(Some((Packet::Delimiter, 4))));
        assert_eq!(decode(b"fff0"), Ok(None));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_packet_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, used))) = decode(&bytes) {
                prop_assert!((HEAD_BYTES..=bytes.len()).contains(&used));
            }
        }
    }
}
