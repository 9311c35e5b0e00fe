//! No release may change what an earlier one wrote: the frozen schemas are part of today's.

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
mod support;

use agent_protocol::handshake::Generation;
use serde_reflection::{ContainerFormat, Registry};

const ADVICE: &str = "\
To add to the newest generation before its release: append variants (never insert, reorder, rename or remove; \
never touch the fields of a struct or variant), then run
    BLESS=1 cargo test -p agent-protocol
and read the difference of protocol/schema, protocol/tests/golden.txt and docs/protocol.md before you commit it. \
After a release: add the next generation to `Generation` first; that writes a schema file of its own, and the \
older files stay as they are.";

/// What `frozen` promises and `today` does not keep.
fn broken_promises(frozen: &Registry, today: &Registry) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, before) in frozen {
        match (before, today.get(name)) {
            (_, None) => broken.push(format!("{name} is gone")),
            (ContainerFormat::Enum(before), Some(ContainerFormat::Enum(now))) => {
                for (number, variant) in before {
                    match now.get(number) {
                        Some(same) if same == variant => {}
                        Some(other) if other.name == variant.name => {
                            broken.push(format!("{name}::{} has other fields", variant.name));
                        }
                        Some(other) => broken.push(format!(
                            "number {number} of {name} was {} and is {}",
                            variant.name, other.name
                        )),
                        None => broken.push(format!("{name}::{} is gone", variant.name)),
                    }
                }
            }
            (before, Some(now)) if before == now => {}
            (_, Some(_)) => broken.push(format!("{name} has other fields")),
        }
    }
    broken
}

#[test]
fn today_extends_every_frozen_generation() {
    let today = support::today();
    for (generation, frozen) in support::frozen() {
        let broken = broken_promises(&frozen, &today);
        assert!(broken.is_empty(), "generation {generation} is broken:\n  {}\n{ADVICE}", broken.join("\n  "));
    }
}

/// Blessing writes the newest file only, and only after the promises were checked.
#[test]
fn the_newest_generation_is_written_down() {
    today_extends_every_frozen_generation();
    let mut text = serde_json::to_string_pretty(&support::today()).unwrap();
    text.push('\n');
    support::expect_file(&support::schema_path(Generation::NEWEST as u32), &text, ADVICE);
    assert_eq!(support::frozen().len(), Generation::NEWEST as usize - Generation::OLDEST as usize + 1);
}

#[test]
fn the_comparison_sees_what_it_must() {
    let frozen: Registry = serde_json::from_str(
        r#"{"E": {"ENUM": {"0": {"A": "UNIT"}, "1": {"B": {"NEWTYPE": "U8"}}}}, "S": {"STRUCT": [{"a": "U8"}]}}"#,
    )
    .unwrap();
    let against = |json: &str| broken_promises(&frozen, &serde_json::from_str(json).unwrap());
    let s = r#""S": {"STRUCT": [{"a": "U8"}]}"#;
    let appended = r#"{"ENUM": {"0": {"A": "UNIT"}, "1": {"B": {"NEWTYPE": "U8"}}, "2": {"C": "UNIT"}}}"#;
    let reordered = r#"{"ENUM": {"0": {"B": {"NEWTYPE": "U8"}}, "1": {"A": "UNIT"}}}"#;
    let retyped = r#"{"ENUM": {"0": {"A": "UNIT"}, "1": {"B": {"NEWTYPE": "U16"}}}}"#;
    let removed = r#"{"ENUM": {"0": {"A": "UNIT"}}}"#;
    assert_eq!(against(&format!(r#"{{"E": {appended}, {s}}}"#)), [""; 0]);
    let two = ["number 0 of E was A and is B", "number 1 of E was B and is A"];
    assert_eq!(against(&format!(r#"{{"E": {reordered}, {s}}}"#)), two);
    assert_eq!(against(&format!(r#"{{"E": {retyped}, {s}}}"#)), ["E::B has other fields"]);
    assert_eq!(against(&format!(r#"{{"E": {removed}, {s}}}"#)), ["E::B is gone"]);
    assert_eq!(against(&format!(r#"{{"E": {appended}}}"#)), ["S is gone"]);
    let grown = r#""S": {"STRUCT": [{"a": "U8"}, {"b": "U8"}]}"#;
    assert_eq!(against(&format!(r#"{{"E": {appended}, {grown}}}"#)), ["S has other fields"]);
}
