//! Every message there can be: read back as written, and nothing else is read.
//!
//! The values are made from the frozen schema of each generation, so they are also what an older peer sends.

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
mod support;

use agent_protocol::codec::CodecError;
use proptest::prelude::*;
use support::{ROOTS, Source, Writer, inspect, uint};

/// One message of a generation, the root among [`ROOTS`] and everything inside chosen by the numbers.
fn with_message(numbers: &[u64], check: impl Fn(&'static str, &Writer<'_>)) {
    for schema in support::frozen().values() {
        for root in ROOTS {
            let mut writer = Writer::new(schema, Source::From(Vec::from(numbers).into_iter()));
            writer.named(root, None);
            check(root, &writer);
        }
    }
}

fn replaced(bytes: &[u8], at: std::ops::Range<usize>, by: u64) -> Vec<u8> {
    let mut number = Vec::new();
    uint(by, &mut number);
    [&bytes[..at.start], &number, &bytes[at.end..]].concat()
}

proptest! {
    #[test]
    fn what_was_written_is_read(numbers in prop::collection::vec(any::<u64>(), 0..200)) {
        with_message(&numbers, |root, writer| {
            let (_, again) = inspect(root, &writer.out).unwrap();
            assert_eq!(again, writer.out);
        });
    }

    #[test]
    fn no_prefix_is_a_message(numbers in prop::collection::vec(any::<u64>(), 0..100)) {
        with_message(&numbers, |root, writer| {
            for len in 0..writer.out.len() {
                assert!(matches!(inspect(root, &writer.out[..len]), Err(CodecError::Malformed(_))), "{len}");
            }
        });
    }

    #[test]
    fn nothing_may_follow_a_message(numbers in prop::collection::vec(any::<u64>(), 0..100), more in any::<u8>()) {
        with_message(&numbers, |root, writer| {
            let mut bytes = writer.out.clone();
            bytes.push(more);
            assert!(matches!(inspect(root, &bytes), Err(CodecError::Trailing(1))));
        });
    }

    #[test]
    fn unknown_variants_are_refused(numbers in prop::collection::vec(any::<u64>(), 0..200)) {
        let today = support::today();
        let mut writer = Writer::new(&today, Source::From(numbers.into_iter()));
        for root in ROOTS {
            (writer.out, writer.variants, writer.flags) = Default::default();
            writer.named(root, None);
            for (at, end) in &writer.variants {
                for number in [*end, 250, u32::MAX.into(), u64::MAX] {
                    let bytes = replaced(&writer.out, at.clone(), number);
                    assert!(matches!(inspect(root, &bytes), Err(CodecError::Malformed(_))), "{at:?} {number}");
                }
            }
            for at in &writer.flags {
                for value in 2..=255 {
                    let mut bytes = writer.out.clone();
                    bytes[*at] = value;
                    assert!(matches!(inspect(root, &bytes), Err(CodecError::Malformed(_))), "{at} {value}");
                }
            }
        }
    }

    #[test]
    fn lengths_that_exceed_the_message_are_refused(numbers in prop::collection::vec(any::<u64>(), 0..100)) {
        with_message(&numbers, |root, writer| {
            for at in &writer.lengths {
                let left = (writer.out.len() - at.end) as u64;
                for length in [left + 1, 0xffff, 256 * 1024, 512 * 1024, u32::MAX.into(), u64::MAX / 2, u64::MAX] {
                    let bytes = replaced(&writer.out, at.clone(), length);
                    assert!(matches!(inspect(root, &bytes), Err(CodecError::Malformed(_))), "{at:?} {length}");
                }
            }
        });
    }

    #[test]
    fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for root in ROOTS {
            if let Ok((value, again)) = inspect(root, &bytes) {
                // Numbers may be written longer than needed; nothing else has two forms.
                prop_assert!(again.len() <= bytes.len());
                prop_assert_eq!(inspect(root, &again).unwrap(), (value, again));
            }
        }
    }
}

#[test]
fn numbers_may_be_longer_than_needed_but_not_than_their_type() {
    let (value, bytes) = inspect("ExecId", &[253, 7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!((value.as_str(), bytes), ("ExecId(7)", vec![7]));
    // A u32 of 8 bytes, 16-byte numbers, and what no number begins with.
    assert!(inspect("FailureKind", &[253, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    for first in [254, 255] {
        assert!(inspect("ExecId", &[&[first][..], &[0; 16]].concat()).is_err());
    }
}

#[test]
fn text_is_utf8() {
    let empty_log = inspect("LogRequest", &[1, 0xff, 1, 0, 0]);
    assert!(matches!(empty_log, Err(CodecError::Malformed(_))));
}
