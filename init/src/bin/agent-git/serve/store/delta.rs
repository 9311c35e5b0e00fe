//! Differences, as packs have them (gitformat-pack(5)): an object as pieces of another one and what is new.

/// Makes an object of `base` and the difference; `None` where the difference is none, or makes more than `most` bytes.
pub(crate) fn apply(base: &[u8], delta: &[u8], most: u64) -> Option<Vec<u8>> {
    let mut rest = delta;
    let (from, to) = (size(&mut rest)?, size(&mut rest)?);
    if from != base.len() as u64 || to > most {
        return None;
    }
    let to = usize::try_from(to).ok()?;
    let mut made = Vec::with_capacity(to);
    while let Some((&operation, after)) = rest.split_first() {
        rest = after;
        let piece = if operation & 0x80 == 0 {
            // Bytes that stand here; zero of them has no meaning.
            let count = usize::from(operation);
            if count == 0 || count > rest.len() {
                return None;
            }
            let (piece, after) = rest.split_at(count);
            rest = after;
            piece
        } else {
            let offset = number(&mut rest, operation & 0xf, 4)?;
            let count = match number(&mut rest, operation >> 4 & 0x7, 3)? {
                0 => 0x1_0000,
                count => count,
            };
            base.get(offset..offset.checked_add(count)?)?
        };
        if piece.len() > to - made.len() {
            return None;
        }
        made.extend_from_slice(piece);
    }
    (made.len() == to).then_some(made)
}

/// A size: seven bits a byte, lowest first.
pub(crate) fn size(rest: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        if shift > 56 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

/// Bytes of a number, those of them that `present` says, lowest first.
fn number(rest: &mut &[u8], present: u8, bytes: u32) -> Option<usize> {
    let mut value = 0;
    for at in 0..bytes {
        if present >> at & 1 == 1 {
            let (&byte, after) = rest.split_first()?;
            *rest = after;
            value |= usize::from(byte) << (8 * at);
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_of_the_base_and_what_is_new() {
        // Five bytes of ten, "xy", and the last two.
        let delta = [10, 9, 0x91, 2, 5, 2, b'x', b'y', 0x91, 8, 2];
        assert_eq!(apply(b"0123456789", &delta, 9).unwrap(), b"23456xy89");
        assert_eq!(apply(b"0123456789", &delta, 8), None);
        assert_eq!(apply(b"012345678", &delta, 9), None);
        for cut in 0..delta.len() {
            assert_eq!(apply(b"0123456789", &delta[..cut], 9), None, "{cut}");
        }
        assert_eq!(apply(b"", &[0, 0], 0).unwrap(), b"");
        assert_eq!(apply(b"0", &[1, 1, 0], 9), None);
        assert_eq!(apply(b"0", &[1, 1, 0x91, 1, 1], 9), None);
    }

    proptest! {
        #[test]
        fn no_difference_makes_more_than_it_says(delta in prop::collection::vec(any::<u8>(), 0..60)) {
            let base = [1; 10];
            if let Some(made) = apply(&base, &delta, 1000) {
                prop_assert!(made.len() <= 1000);
            }
        }
    }
}
