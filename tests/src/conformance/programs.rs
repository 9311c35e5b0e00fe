//! Finds the tests: has cargo build their programs, and asks each what is in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::layer::target;

/// This package.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// One test function: one behaviour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// Its program and its path in there, as in `exec::codes::a_signal_is_128_and_its_number`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
}

impl Test {
    /// What the program calls it.
    pub fn path(&self) -> &str {
        self.name.split_once("::").map_or("", |(_, path)| path)
    }

    /// The behaviour in words.
    pub fn words(&self) -> String {
        in_words(&self.name)
    }
}

/// A test's name as a person would say it.
pub fn in_words(name: &str) -> String {
    name.rsplit("::").next().unwrap_or(name).replace('_', " ")
}

/// All tests of these programs, in order.
///
/// Cargo builds them as it built this process: for the whole workspace, because a selection of packages is a selection of
/// features, and everything would be built twice. For the same reason the programs under test are built here: whoever runs
/// one of these tests need not.
pub fn find(names: &[&str]) -> anyhow::Result<Vec<Test>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--no-run", "--message-format=json", "--target-dir"]).arg(target());
    if is_release()? {
        cargo.arg("--release");
    }
    // With the tests of the programs' own packages come the programs, as `cargo test` builds them.
    for name in ["tini", "fuzz"].iter().chain(names) {
        cargo.args(["--test", name]);
    }
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let built = cargo.output().context("starting cargo")?;
    ensure!(built.status.success(), "building the tests: {}", built.status);
    let mut tests = Vec::new();
    for name in names {
        let program =
            executable(&built.stdout, name).with_context(|| format!("cargo built no test {name}"))?;
        let listed = Command::new(&program).args(["--list", "--format", "terse"]).output()?;
        ensure!(listed.status.success(), "listing the tests of {}: {}", program.display(), listed.status);
        tests.extend(
            listed_tests(&String::from_utf8_lossy(&listed.stdout))
                .map(|path| Test { name: format!("{name}::{path}"), program: program.clone() }),
        );
    }
    tests.sort();
    Ok(tests)
}

/// The program that cargo says it made for a test target.
fn executable(messages: &[u8], name: &str) -> Option<PathBuf> {
    let messages =
        messages.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut made = messages.filter(|message| {
        message["reason"] == "compiler-artifact"
            // Another package may have one of the same name.
            && message["manifest_path"] == MANIFEST
            && message["target"]["name"] == name
            && message["target"]["kind"][0] == "test"
    });
    made.find_map(|message| Some(Path::new(message["executable"].as_str()?).to_owned()))
}

fn listed_tests(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| line.strip_suffix(": test"))
}

fn is_release() -> anyhow::Result<bool> {
    let test = std::env::current_exe()?;
    match test.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("debug") => Ok(false),
        Some("release") => Ok(true),
        other => bail!("a profile of its own, {other:?}: run the tests with `debug` or `release`"),
    }
}

#[cfg(test)]
mod tests {
    use super::{MANIFEST, executable, in_words, listed_tests};

    #[test]
    fn the_names_of_tests_are_sentences() {
        assert_eq!(in_words("exec::codes::a_signal_is_told"), "a signal is told");
        assert_eq!(in_words("stuck"), "stuck");
    }

    #[test]
    fn only_tests_are_taken_from_the_list() {
        let listed = "codes::a: test\nb: benchmark\n\nc: test\n";
        assert_eq!(listed_tests(listed).collect::<Vec<_>>(), ["codes::a", "c"]);
    }

    #[test]
    fn cargo_says_what_it_built() {
        let made = |manifest: &str, kind: &str, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}","target":{{"name":"exec","kind":["{kind}"]}},"executable":"{path}"}}"#
            )
        };
        let all = [
            made("/other", "test", "/t/1"),
            made(MANIFEST, "lib", "/t/2"),
            made(MANIFEST, "test", "/t/exec-1"),
        ];
        let messages = format!("no json\n{}", all.join("\n"));
        let messages = messages.as_bytes();
        assert_eq!(executable(messages, "exec").as_deref(), Some("/t/exec-1".as_ref()));
        assert_eq!(executable(messages, "git"), None);
    }
}
