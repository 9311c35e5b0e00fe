//! The result: behaviour by layer, for people and for programs.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Cell, Plan, programs::in_words};

/// All results of a run.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The columns.
    pub layers: Vec<String>,
    /// One for each behaviour, in the order of the plan.
    pub rows: Vec<Row>,
}

/// One behaviour.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The group's title.
    pub group: String,
    /// The test.
    pub test: String,
    /// By layer.
    pub cells: BTreeMap<String, Cell>,
    /// By layer: how long it took.
    pub seconds: BTreeMap<String, f64>,
}

impl Matrix {
    /// A matrix without results.
    pub fn of(plan: &Plan, layers: &[&str], tests: &[String]) -> Self {
        let mut rows: Vec<(usize, &String)> =
            tests.iter().filter_map(|test| Some((plan.group_of(test)?, test))).collect();
        rows.sort();
        let rows = rows.into_iter().map(|(group, test)| Row {
            group: plan.group[group].title.clone(),
            test: test.clone(),
            cells: BTreeMap::new(),
            seconds: BTreeMap::new(),
        });
        Self { layers: layers.iter().map(|&layer| layer.to_owned()).collect(), rows: rows.collect() }
    }

    /// Puts a result in its place.
    pub fn put(&mut self, layer: &str, test: &str, cell: Cell, seconds: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.test == test) {
            row.cells.insert(layer.to_owned(), cell);
            row.seconds.insert(layer.to_owned(), seconds);
        }
    }

    /// The result that is there.
    pub fn get(&self, layer: &str, test: &str) -> Option<&Cell> {
        self.rows.iter().find(|row| row.test == test)?.cells.get(layer)
    }

    /// Whether every behaviour was looked at on every layer, and is as it should be.
    pub fn is_well(&self) -> bool {
        self.rows
            .iter()
            .all(|row| self.layers.iter().all(|layer| row.cells.get(layer).is_some_and(Cell::is_well)))
    }

    /// As a table, with the reasons below it.
    pub fn to_text(&self) -> String {
        let wide = self.rows.iter().map(|row| line_of(&row.test).chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = &row.group;
                let title = format!("\n{group:wide$}  ");
                text.push_str(&title);
                text.push_str(&self.columns(ToOwned::to_owned));
            }
            text.push_str(&format!("{:wide$}  ", line_of(&row.test)));
            text.push_str(&self.columns(|layer| row.cells.get(layer).map_or("-", Cell::word).to_owned()));
        }
        text.push('\n');
        for layer in &self.layers {
            text.push_str(&self.summary(layer));
        }
        text.push_str(&self.reasons());
        text
    }

    /// What failed, with what it printed.
    pub fn failures(&self) -> Vec<(String, String)> {
        self.cells()
            .filter_map(|(layer, test, cell)| match cell {
                Cell::Failed { printed } => Some((format!("{layer}: {test}"), printed.clone())),
                Cell::WaivedForNothing { reason } => Some((
                    format!("{layer}: {test}"),
                    format!("it passes, and a waiver says that it cannot: {reason}\n"),
                )),
                _ => None,
            })
            .collect()
    }

    /// Reads what an earlier run has written.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("conformance.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes `conformance.txt` and `conformance.json` into a folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::write(folder.join("conformance.txt"), self.to_text())?;
        fs::write(folder.join("conformance.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }

    fn cells(&self) -> impl Iterator<Item = (&str, &str, &Cell)> {
        self.rows
            .iter()
            .flat_map(|row| row.cells.iter().map(|(layer, cell)| (layer.as_str(), row.test.as_str(), cell)))
    }

    fn columns(&self, of: impl Fn(&str) -> String) -> String {
        let columns: Vec<String> = self.layers.iter().map(|layer| format!("{:10}", of(layer))).collect();
        format!("{}\n", columns.join("  ").trim_end())
    }

    fn summary(&self, layer: &str) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut seconds = 0.0;
        for row in &self.rows {
            *counts.entry(row.cells.get(layer).map_or("not run", Cell::word)).or_default() += 1;
            seconds += row.seconds.get(layer).unwrap_or(&0.0);
        }
        let counts: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
        format!("{layer}: {}; {seconds:.0} s of tests\n", counts.join(", "))
    }

    fn reasons(&self) -> String {
        let mut reasons: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
        for (layer, test, cell) in self.cells() {
            match cell {
                Cell::Waived { reason } => reasons.entry((layer, "waived", reason)).or_default().push(test),
                Cell::LeftOut { reason } => {
                    reasons.entry((layer, "left out", reason)).or_default().push(test);
                }
                Cell::Passed { skipped, .. } => {
                    for why in skipped {
                        reasons.entry((layer, "not done here", why)).or_default().push(test);
                    }
                }
                _ => {}
            }
        }
        let told = reasons.into_iter().map(|((layer, what, reason), tests)| {
            format!(
                "\n{layer}, {what}: {reason}\n{}",
                tests.iter().map(|test| format!("  {test}\n")).collect::<String>()
            )
        });
        told.collect()
    }
}

/// A behaviour's line: the program or module it stands in, and the rest in words.
fn line_of(test: &str) -> String {
    let place = test.rsplit_once("::").map_or("", |(place, _)| place);
    format!("  {}: {}", place.replace("::", " "), in_words(test))
}

#[cfg(test)]
mod tests {
    use super::{Cell, Matrix, Plan};

    fn matrix() -> Matrix {
        let plan: Plan = toml::from_str(
            "[[group]]\ntitle = \"Ends\"\nsays = \"x\"\ntests = [\"exits::*\"]\n\
             [[group]]\ntitle = \"Commands\"\nsays = \"x\"\ntests = [\"exec::*\"]\n[apart]\n",
        )
        .expect("a plan");
        let tests = ["exec::codes::a_signal", "exits::told", "other::x"].map(str::to_owned);
        Matrix::of(&plan, &["bwrap", "oci"], &tests)
    }

    fn passed() -> Cell {
        Cell::Passed { again: false, skipped: Vec::new() }
    }

    #[test]
    fn a_matrix_is_well_when_every_cell_is() {
        let mut matrix = matrix();
        for layer in ["bwrap", "oci"] {
            matrix.put(layer, "exits::told", passed(), 1.0);
        }
        matrix.put("bwrap", "exec::codes::a_signal", passed(), 1.0);
        assert!(!matrix.is_well(), "one was not run");
        matrix.put("oci", "exec::codes::a_signal", Cell::Waived { reason: "No.".into() }, 1.0);
        assert!(matrix.is_well());
        matrix.put("oci", "exec::codes::a_signal", Cell::Failed { printed: "x".into() }, 1.0);
        assert!(!matrix.is_well());
    }

    #[test]
    fn the_table_has_the_plans_order_and_the_reasons() {
        let mut matrix = matrix();
        matrix.put("oci", "exec::codes::a_signal", Cell::Waived { reason: "No signals.".into() }, 1.0);
        matrix.put("bwrap", "exec::codes::a_signal", passed(), 2.5);
        let expected = "
Ends                    bwrap       oci
  exits: told           -           -

Commands                bwrap       oci
  exec codes: a signal  pass        waived

bwrap: 1 not run, 1 pass; 2 s of tests
oci: 1 not run, 1 waived; 1 s of tests

oci, waived: No signals.
  exec::codes::a_signal
";
        assert_eq!(matrix.to_text(), expected);
    }

    #[test]
    fn what_is_written_is_read_again() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut matrix = matrix();
        matrix.put("oci", "exits::told", Cell::Failed { printed: "x".into() }, 1.0);
        matrix.write(folder.path())?;
        assert_eq!(Matrix::read(folder.path())?, matrix);
        Ok(())
    }
}
