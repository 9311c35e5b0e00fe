//! The exact bytes of every variant of every type on the wire, kept in `golden.txt`.
//!
//! Each is there twice: with the least that it can hold and with the most interesting. The bytes come from
//! the second writer in `support`; the codec must read them as the value beside them, and write them again.

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
mod support;

use std::fmt::Write;

use support::{Source, Writer};

const HEAD: &str = "\
# type.variant: bytes = value
# A line never changes once it was released. New ones are written by `BLESS=1 cargo test -p agent-protocol`.
";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn every_variant_has_its_bytes_in_the_file() {
    let schema = support::today();
    let mut text = HEAD.to_owned();
    for (name, container) in &schema {
        for (variant, label) in support::choices(container) {
            for source in [Source::Least, Source::Most(name.len())] {
                let mut writer = Writer::new(&schema, source);
                writer.named(name, variant);
                let (value, _) = support::inspect(name, &writer.out)
                    .unwrap_or_else(|error| panic!("{name}{label} {}: {error}", hex(&writer.out)));
                writeln!(text, "{name}{label}: {} = {value}", hex(&writer.out)).unwrap();
            }
        }
    }
    let path = support::root().join("tests/golden.txt");
    support::expect_file(&path, &text, "the bytes on the wire have changed; see the test `schema`");
}

#[test]
fn the_file_is_read_and_written_alike() {
    every_variant_has_its_bytes_in_the_file();
    let text = std::fs::read_to_string(support::root().join("tests/golden.txt")).unwrap();
    let mut lines = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (label, rest) = line.split_once(": ").unwrap();
        let (bytes, value) = rest.split_once(" = ").unwrap();
        let bytes = unhex(bytes);
        let (found, again) = support::inspect(label.split('.').next().unwrap(), &bytes).unwrap();
        assert_eq!(found, value, "{label}");
        assert_eq!(again, bytes, "{label}");
        lines += 1;
    }
    assert!(lines > 200, "{lines} lines");
}
