//! `docs/protocol.md` says what the code does: its tables are written from the types, its numbers checked.

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
mod support;

use std::fmt::Write;

use agent_protocol::{
    frame::{HEADER_BYTES, Kind, MAX_DATA, MAX_PAYLOAD, OFFSET_BYTES},
    handshake::{HELLO_BYTES, MAGIC, WELCOME_BYTES},
    message::{MAX_ARGV, MAX_ENV, MAX_UNITS, MAX_WARNINGS},
};
use serde_reflection::{ContainerFormat, Format, Named, VariantFormat};
use support::ROOTS;

const BEGIN: &str = "<!-- written by BLESS=1 cargo test -p agent-protocol: do not edit below -->\n";
const END: &str = "<!-- do not edit above -->\n";

fn kind_of(format: &Format) -> String {
    match format {
        Format::TypeName(name) => format!("[{name}](#{})", name.to_lowercase()),
        Format::Bool => "bool".to_owned(),
        Format::U8 => "byte".to_owned(),
        Format::U16 => "u16".to_owned(),
        Format::U32 => "u32".to_owned(),
        Format::U64 => "u64".to_owned(),
        Format::I32 => "i32".to_owned(),
        Format::Str => "string".to_owned(),
        Format::Bytes => "bytes".to_owned(),
        Format::Option(inner) => format!("optional {}", kind_of(inner)),
        Format::Seq(inner) => format!("list of {}", kind_of(inner)),
        Format::TupleArray { content, size } => format!("({})", vec![kind_of(content); *size].join(", ")),
        Format::Tuple(fields) => format!("({})", fields.iter().map(kind_of).collect::<Vec<_>>().join(", ")),
        other => panic!("{other:?} is new on the wire"),
    }
}

fn named(fields: &[Named<Format>]) -> String {
    let fields: Vec<_> =
        fields.iter().map(|field| format!("`{}` {}", field.name, kind_of(&field.value))).collect();
    fields.join("<br>")
}

fn tables() -> String {
    let schema = support::today();
    let mut names: Vec<&str> =
        schema.keys().map(String::as_str).filter(|name| !ROOTS.contains(name)).collect();
    names.splice(..0, ROOTS);
    let mut text = String::new();
    for name in names {
        write!(text, "\n### {name}\n\n").unwrap();
        match &schema[name] {
            ContainerFormat::NewTypeStruct(inner) => {
                writeln!(text, "{}, nothing around it", kind_of(inner)).unwrap();
            }
            ContainerFormat::Struct(fields) => {
                text.push_str("| field, in this order | type |\n| --- | --- |\n");
                for field in fields {
                    writeln!(text, "| `{}` | {} |", field.name, kind_of(&field.value)).unwrap();
                }
            }
            ContainerFormat::Enum(variants) => {
                text.push_str("| number | variant | what follows, in this order |\n| --- | --- | --- |\n");
                for (number, variant) in variants {
                    let follows = match &variant.value {
                        VariantFormat::Unit => "nothing".to_owned(),
                        VariantFormat::NewType(inner) => kind_of(inner),
                        VariantFormat::Struct(fields) => named(fields),
                        other => panic!("{other:?} is new on the wire"),
                    };
                    writeln!(text, "| {number} | {} | {follows} |", variant.name).unwrap();
                }
            }
            other => panic!("{other:?} is new on the wire"),
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_tables_are_those_of_the_types() {
    let path = support::root().join("../docs/protocol.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the tables' first marker is gone");
    let (_, after) = rest.split_once(END).expect("the tables' last marker is gone");
    let expected = [before, BEGIN, &tables(), END, after].concat();
    support::expect_file(&path, &expected, "BLESS=1 cargo test -p agent-protocol writes the tables");
}

#[test]
fn the_examples_are_what_the_codec_reads() {
    let text = std::fs::read_to_string(support::root().join("../docs/protocol.md")).unwrap();
    let start = "Exec(ExecRequest { argv: [[116, 114, 117, 101]], env: [], directory: None, user: None, ";
    for (example, value) in [
        ("00", "Ping".to_owned()),
        ("04 fb2c01 1e", "ExecSignal { exec: ExecId(300), signal: 15 }".to_owned()),
        (
            "02 01 04 74727565 00 00 00 00 01 00",
            format!("{start}stdin: false, stdio: Frames, timeout_ms: None }})"),
        ),
    ] {
        assert!(text.contains(&format!("`{example}`")), "{example}");
        let digits = example.replace(' ', "");
        let bytes: Vec<_> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        assert_eq!(support::inspect("Request", &bytes).unwrap(), (value, bytes));
    }
}

#[test]
fn the_numbers_are_those_of_the_code() {
    let text = std::fs::read_to_string(support::root().join("../docs/protocol.md")).unwrap();
    let mut promises = vec![
        format!("`{}`", String::from_utf8(MAGIC.to_vec()).unwrap()),
        format!("### Hello, {HELLO_BYTES} bytes"),
        format!("### Welcome, {WELCOME_BYTES} bytes"),
        format!("header of {HEADER_BYTES} bytes"),
        format!("| payload of a frame | {MAX_PAYLOAD} bytes"),
        format!("| data in one data frame | {MAX_DATA} bytes"),
        format!("first {OFFSET_BYTES} bytes of its payload"),
        format!("| `argv` of an ExecRequest | {MAX_ARGV} "),
        format!("| `env` of an ExecRequest | {MAX_ENV} "),
        format!("| `units` of a Status | {MAX_UNITS} "),
        format!("| `warnings` of a Status | {MAX_WARNINGS} "),
    ];
    promises.extend(Kind::ALL.iter().map(|kind| format!("| {} | {kind:?} |", *kind as u8)));
    for promise in promises {
        assert!(text.contains(&promise), "docs/protocol.md does not say: {promise}");
    }
}
