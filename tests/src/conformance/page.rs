//! docs/isolation.md, written from what the layers promise and from what is excused on them.
//!
//! Nothing in it is a result: that every other behaviour is as promised is what the conformance run asserts.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::Plan;
use crate::layer::LAYERS;

/// What `tests/layers.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promises {
    /// What is said before everything else.
    pub introduction: String,
    /// What is promised on every layer, as paragraphs of a list.
    pub promised: Vec<String>,
    /// What no layer promises.
    pub not_promised: Vec<String>,
    /// In what they differ.
    pub difference: Vec<Difference>,
    /// Each layer by itself.
    pub layer: Vec<Itself>,
}

/// One thing in which the layers differ.
#[derive(Debug, Deserialize)]
pub struct Difference {
    /// What it is.
    pub about: String,
    /// What each layer has of it, by name.
    #[serde(flatten)]
    pub layers: BTreeMap<String, String>,
}

/// A layer by itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Itself {
    /// Its name.
    pub name: String,
    /// What it is and whom it is for.
    pub says: String,
    /// What is true of it alone.
    pub facts: Vec<String>,
}

impl Promises {
    /// Reads those of this source tree.
    pub fn load() -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("layers.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let promises: Self = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let names: Vec<&str> = promises.layer.iter().map(|layer| layer.name.as_str()).collect();
        ensure!(names == LAYERS.map(|layer| layer.name), "the layers are {names:?}");
        for difference in &promises.difference {
            let told = difference.layers.keys().all(|name| names.contains(&name.as_str()));
            ensure!(
                told && difference.layers.len() == names.len(),
                "{}: not one for each layer",
                difference.about
            );
        }
        Ok(promises)
    }
}

/// The page.
pub fn write(plan: &Plan, promises: &Promises) -> String {
    let names = LAYERS.map(|layer| layer.name);
    let mut page = String::from("# What each layer keeps apart, and what not\n\n");
    page.push_str(
        "<!-- Written by a test from tests/layers.toml and tests/conformance.toml: change those. -->\n\n",
    );
    page.push_str(&format!("{}\n\n", promises.introduction.trim()));

    page.push_str(
        "## Promised on every layer\n\nEach line is held by tests that try to break it, on every layer.\n\n",
    );
    page.push_str(&list(&promises.promised));
    page.push_str("\n## Promised on none\n\n");
    page.push_str(&list(&promises.not_promised));

    page.push_str("\n## In what they differ\n\n");
    let rows = promises.difference.iter().map(|difference| {
        let cells = names.iter().map(|name| difference.layers[*name].trim().to_owned());
        std::iter::once(difference.about.clone()).chain(cells).collect()
    });
    page.push_str(&table("", &names, rows));
    for layer in &promises.layer {
        page.push_str(&format!(
            "\n### `--isolation {}`\n\n{}\n\n{}",
            layer.name,
            layer.says.trim(),
            list(&layer.facts)
        ));
    }

    page.push_str(
        "\n## Behaviour by layer\n\nThe same tests run on every layer, and a difference is a failure unless it is written \
         here. `yes`: every\ntest passes. A number: all but what the note excuses. The run prints a line for each test, and \
         keeps it in\n`target/conformance.txt`.\n\n",
    );
    let notes: Vec<(&str, &super::Exception)> = plan
        .waiver
        .iter()
        .map(|waiver| ("differs", waiver))
        .chain(plan.left_out.iter().map(|left_out| ("not run there", left_out)))
        .collect();
    let rows = plan.group.iter().enumerate().map(|(at, group)| {
        let cells = names.iter().map(|name| {
            let fitting: Vec<String> = notes
                .iter()
                .enumerate()
                .filter(|(_, (_, note))| {
                    note.layer == *name && note.tests.iter().any(|test| plan.group_of(test) == Some(at))
                })
                .map(|(number, _)| format!("[{}]", number + 1))
                .collect();
            if fitting.is_empty() { "yes".to_owned() } else { fitting.join(" ") }
        });
        std::iter::once(format!("**{}**: {}", group.title, group.says.trim())).chain(cells).collect()
    });
    page.push_str(&table("", &names, rows));
    page.push('\n');
    for (number, (what, note)) in notes.iter().enumerate() {
        let tests: Vec<String> = note.tests.iter().map(|test| format!("`{test}`")).collect();
        page.push_str(&format!(
            "{}. {}, {what}: {} ({}{})\n",
            number + 1,
            note.layer,
            note.reason.trim(),
            tests.join(", "),
            if note.but_for.is_empty() { "" } else { "; some of each are run" }
        ));
    }
    page
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| format!("- {}\n", item.trim().replace('\n', "\n  "))).collect()
}

fn table(first: &str, names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let mut text = format!("| {first} | {} |\n|{}\n", heads.join(" | "), " --- |".repeat(names.len() + 1));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ").replace('\n', " ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Plan, Promises, write};

    /// `BLESS=1` writes it.
    #[test]
    fn the_page_is_what_the_data_says() -> anyhow::Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/isolation.md");
        let page = write(&Plan::load()?, &Promises::load()?);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &page)?;
        }
        let there = fs::read_to_string(&path)?;
        let differs = there.lines().zip(page.lines()).position(|(there, page)| there != page);
        anyhow::ensure!(
            there == page,
            "docs/isolation.md is not what its data says, from line {}: run this test with BLESS=1",
            differs.unwrap_or_else(|| there.lines().count().min(page.lines().count())) + 1
        );
        Ok(())
    }
}
