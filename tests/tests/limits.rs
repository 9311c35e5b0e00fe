//! docs/limits.md is held against the code: every bound in it is there, with that value, and none is missing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What a bound is called. The rest of the table has other names and is nobody's duty.
fn is_bounds_name(name: &str) -> bool {
    let begins = ["MAX_", "KEPT_"].iter().any(|word| name.starts_with(word));
    let ends =
        ["_WITHIN", "_DEADLINE_MS", "RING_BYTES", "ROTATE_BYTES"].iter().any(|word| name.ends_with(word));
    begins || ends || ["BACKLOG", "ASKS", "REAP_BATCH"].contains(&name)
}

/// Bounds of something that is no queue, wait, frame or table: not in the document, and why.
const ELSEWHERE: [(&str, &str); 6] = [
    ("protocol/src/frame.rs", "MAX_DATA"),  // follows from MAX_PAYLOAD
    ("protocol/src/spec/signal.rs", "MAX"), // the kernel's
    ("shim/src/client/dial.rs", "MAX_SOCKET_PATH_BYTES"), // the kernel's
    ("shim/src/sandbox/name.rs", "MAX_NAME_BYTES"), // the spec's
    ("shim/src/terminal/keys.rs", "MAX_KEY_BYTES"), // of one key's sequence as typed
    ("shim/src/terminal/modes.rs", "MAX_PARAMETER_BYTES"), // of one sequence as looked at
];

struct Row {
    name: String,
    bound: String,
    owner: String,
    tests: Vec<String>,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/limits.md")).expect("docs/limits.md");
    let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
    text.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let [name, _, bound, owner, at_the_bound, tests] = cells[..] else { panic!("six cells: {line}") };
            assert!(!at_the_bound.trim().is_empty(), "what happens at the bound: {line}");
            let tests = tests.split(',').map(code).filter(|test| !test.is_empty()).collect();
            Row { name: code(name), bound: code(bound), owner: code(owner), tests }
        })
        .collect()
}

/// The constants of a source file: name and value, as they stand there.
fn constants(source: &str) -> Vec<(String, String)> {
    let declared = source.lines().filter_map(|line| {
        let line = line.trim_start();
        let seen = ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|how| line.strip_prefix(how));
        let line = seen.unwrap_or(line);
        let (name, rest) = line.strip_prefix("const ")?.split_once(": ")?;
        let (_, value) = rest.split_once(" = ")?;
        Some((name.to_owned(), value.split_once(';')?.0.to_owned()))
    });
    declared.collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_bound_in_the_document_is_in_the_code_with_that_value() {
    let rows = rows();
    assert!(rows.len() > 60, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let source = fs::read_to_string(Path::new(ROOT).join(&row.owner)).unwrap_or_default();
        let found: Vec<_> = constants(&source).into_iter().filter(|(name, _)| *name == row.name).collect();
        if !found.iter().any(|(_, value)| *value == row.bound) {
            wrong.push(format!(
                "{} in {}: {} in the document, {found:?} in the code",
                row.name, row.owner, row.bound
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_bound_in_the_code_is_in_the_document() {
    let known: BTreeSet<_> = rows().into_iter().map(|row| (row.owner, row.name)).collect();
    let mut missing = Vec::new();
    for package in ["protocol/src", "init/src", "shim/src"] {
        let mut files = Vec::new();
        sources(&Path::new(ROOT).join(package), &mut files);
        for file in files {
            let owner = file.strip_prefix(ROOT).expect("below the root").display().to_string();
            if owner.contains("/tests") || owner.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a source file");
            for (name, _) in constants(text.split("#[cfg(test)]").next().unwrap_or_default()) {
                let elsewhere = ELSEWHERE.contains(&(owner.as_str(), name.as_str()));
                if is_bounds_name(&name) && !elsewhere && !known.contains(&(owner.clone(), name.clone())) {
                    missing.push(format!("{name} in {owner}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/limits.md: {missing:#?}");
}

#[test]
fn every_test_that_the_document_names_exists() {
    let mut files = Vec::new();
    for folder in ["protocol", "init", "shim", "tests"] {
        for part in ["src", "tests"] {
            let folder = Path::new(ROOT).join(folder).join(part);
            if folder.is_dir() {
                sources(&folder, &mut files);
            }
        }
    }
    let all: String = files.iter().map(|file| fs::read_to_string(file).expect("a source file")).collect();
    let named: BTreeSet<_> = rows().into_iter().flat_map(|row| row.tests).collect();
    let missing: Vec<_> = named.iter().filter(|test| !all.contains(&format!("fn {test}("))).collect();
    assert!(named.len() > 25 && missing.is_empty(), "{missing:?}");
}
