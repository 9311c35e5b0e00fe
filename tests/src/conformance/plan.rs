//! What is run on every layer, and what is excused: the data in `tests/conformance.toml`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::layer::{LAYERS, Layer};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Behaviours that belong together. A test is of the first group that covers it.
    pub group: Vec<Group>,
    /// Test programs that are not about a layer, with the reason. Cargo runs them by itself.
    pub apart: BTreeMap<String, String>,
    /// Tests that fail on a layer, and why that is right.
    #[serde(default)]
    pub waiver: Vec<Exception>,
    /// Tests that are not run on a layer, and why.
    #[serde(default)]
    pub left_out: Vec<Exception>,
}

/// Behaviours that belong together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name, as in the matrix.
    pub title: String,
    /// What is promised, in a sentence.
    pub says: String,
    /// Patterns of tests.
    pub tests: Vec<String>,
}

/// Tests to which something else applies on one layer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The layer's name.
    pub layer: String,
    /// Patterns of tests.
    pub tests: Vec<String>,
    /// Patterns of those among them to which it does not apply.
    #[serde(default)]
    pub but_for: Vec<String>,
    /// Why, in a sentence for people who choose a layer.
    pub reason: String,
}

impl Plan {
    /// Reads the plan of this source tree.
    pub fn load() -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let plan: Self = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        plan.check()?;
        Ok(plan)
    }

    /// The group of a test, by its place in the plan.
    pub fn group_of(&self, test: &str) -> Option<usize> {
        self.group.iter().position(|group| covers(&group.tests, test))
    }

    /// The names of the test programs that hold behaviours.
    pub fn programs(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .group
            .iter()
            .flat_map(|group| &group.tests)
            .filter_map(|test| test.split("::").next())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn check(&self) -> anyhow::Result<()> {
        for exception in self.waiver.iter().chain(&self.left_out) {
            let name = &exception.layer;
            ensure!(Layer::named(name).is_some(), "no layer is called `{name}`");
            ensure!(*name != LAYERS[0].name, "{:?}: the default layer keeps every promise", exception.tests);
            ensure!(exception.reason.ends_with('.'), "the reason for {:?} is no sentence", exception.tests);
            ensure!(!exception.tests.is_empty(), "an exception for no tests: {}", exception.reason);
            for pattern in exception.tests.iter().chain(&exception.but_for) {
                ensure!(self.group_of(pattern).is_some(), "`{pattern}` is in no group");
            }
        }
        for program in self.programs() {
            ensure!(
                !program.contains('*'),
                "a pattern begins with the name of a test program, not `{program}`"
            );
            ensure!(!self.apart.contains_key(program), "`{program}` is both in a group and apart");
        }
        Ok(())
    }
}

/// Whether one of the patterns fits a test. `*` stands for any characters.
pub fn covers(patterns: &[String], test: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, test))
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| fits(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, fits};

    #[test]
    fn a_star_stands_for_anything() {
        assert!(fits("exec::*", "exec::codes::missing"));
        assert!(fits("exec::*::missing", "exec::codes::missing"));
        assert!(fits("*", ""));
        assert!(!fits("exec::codes", "exec::codes::missing"));
        assert!(!fits("exec::*::gone", "exec::codes::missing"));
    }

    /// What the file says holds together, and every test program of the package is in it.
    #[test]
    fn every_test_program_is_in_the_plan_once() -> anyhow::Result<()> {
        let plan = Plan::load()?;
        let inside = plan.programs();
        let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))?;
        let manifest: toml::Value = toml::from_str(&manifest)?;
        let declared = manifest["test"].as_array().map(Vec::as_slice).unwrap_or_default();
        let left_to_us: Vec<&str> = declared
            .iter()
            .filter(|test| test.get("test").and_then(toml::Value::as_bool) == Some(false))
            .filter_map(|test| test["name"].as_str())
            .collect();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))? {
            let path = entry?.path();
            found.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
        for name in &found {
            let here = inside.contains(&name.as_str());
            assert!(here || plan.apart.contains_key(name), "{name} is neither in a group nor apart");
            assert_eq!(
                here,
                left_to_us.contains(&name.as_str()),
                "{name}: `test = false` is for programs in a group"
            );
        }
        for name in inside.iter().copied().chain(plan.apart.keys().map(String::as_str)) {
            assert!(found.iter().any(|found| found == name), "there is no test program {name}");
        }
        Ok(())
    }
}
