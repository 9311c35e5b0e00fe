//! docs/configuration.md is held against the tables of keys: every row of it is one of them, and none is missing.

use std::fs;

use super::schema::{
    BACKOFF_KEYS, FAST_FAIL_KEYS, HEALTH_KEYS, KEYS, Key, PREFIX, READINESS_KEYS, RESTART_KEYS, SERVICE_KEYS,
    STEP_KEYS, STOP_KEYS, UnitKey,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

fn row(key: &Key) -> String {
    let Key { name, kind, default, flag, project, merge, about } = key;
    let flag = flag.map_or(String::new(), |flag| format!("`{flag}`"));
    format!("| `{name}` | {kind} | {default} | {flag} | {project} | {merge} | {about} |")
}

fn unit_row((name, kind, default, about): &UnitKey) -> String {
    format!("| `{name}` | {kind} | {default} | {about} |")
}

fn rows() -> Vec<String> {
    let units = [STEP_KEYS, SERVICE_KEYS, RESTART_KEYS, READINESS_KEYS, HEALTH_KEYS, STOP_KEYS];
    KEYS.iter().map(row).chain(units.into_iter().flatten().map(unit_row)).collect()
}

#[test]
fn the_document_and_the_tables_say_the_same() {
    let document = fs::read_to_string(DOCUMENT).unwrap();
    let written: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let rows = rows();
    let missing: Vec<&String> = rows.iter().filter(|row| !written.contains(&row.as_str())).collect();
    assert!(
        missing.is_empty(),
        "not in docs/configuration.md:\n{}",
        missing.iter().map(|row| format!("{row}\n")).collect::<String>()
    );
    let more: Vec<&&str> = written.iter().filter(|line| !rows.iter().any(|row| row == *line)).collect();
    assert!(more.is_empty(), "there is no such key:\n{more:#?}");
    // Keys of tables in tables are named in the rows of those.
    for key in BACKOFF_KEYS.iter().chain(FAST_FAIL_KEYS) {
        assert!(document.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn every_flag_in_the_table_is_one() {
    let command = crate::cli::launch_command();
    let known = |flag: &str| {
        command.get_arguments().any(|argument| {
            let long = argument.get_long().map(|long| format!("--{long}"));
            let short = argument.get_short().map(|short| format!("-{short}"));
            long.as_deref() == Some(flag) || short.as_deref() == Some(flag)
        })
    };
    for key in KEYS {
        if let Some(flag) = key.flag.filter(|flag| *flag != "--") {
            assert!(known(flag), "{flag}");
        }
        assert!(key.variable().starts_with(PREFIX));
    }
}
