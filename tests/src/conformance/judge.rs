//! Holds what came of a test against what the plan says of it.

use serde::{Deserialize, Serialize};

use super::{Came, Exception, Plan, Ran, covers};

/// One behaviour on one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "came", rename_all = "snake_case")]
pub enum Cell {
    /// It is as promised.
    Passed {
        /// Only when it was tried again, alone: this machine was too busy, or the test is not what it should be.
        again: bool,
        /// What of it could not be done on this machine.
        skipped: Vec<String>,
    },
    /// The test is marked as not to be run.
    Ignored,
    /// It is not, and that is written down.
    Waived {
        /// Why.
        reason: String,
    },
    /// It was not run here, and that is written down.
    LeftOut {
        /// Why.
        reason: String,
    },
    /// It is not.
    Failed {
        /// The end of what the test printed.
        printed: String,
    },
    /// It passes, and a waiver says that it cannot.
    WaivedForNothing {
        /// Why it should not.
        reason: String,
    },
}

impl Cell {
    /// Whether all is as it should be.
    pub fn is_well(&self) -> bool {
        !matches!(self, Self::Failed { .. } | Self::WaivedForNothing { .. })
    }

    /// How it stands in the matrix.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed { again: true, .. } => "pass (2nd)",
            Self::Passed { again: false, skipped } if skipped.is_empty() => "pass",
            Self::Passed { .. } => "in part",
            Self::Ignored => "ignored",
            Self::Waived { .. } => "waived",
            Self::LeftOut { .. } => "left out",
            Self::Failed { .. } => "FAILED",
            Self::WaivedForNothing { .. } => "NOT WAIVED",
        }
    }
}

impl Plan {
    /// Why a test is not run on a layer, if it is not.
    pub fn left_out(&self, layer: &str, test: &str) -> Option<&str> {
        first(&self.left_out, layer, test)
    }

    /// Why a test may fail on a layer, if it may.
    pub fn waiver(&self, layer: &str, test: &str) -> Option<&str> {
        first(&self.waiver, layer, test)
    }

    /// The exceptions that no test is an exception of.
    pub fn without_effect(&self, tests: &[String]) -> Vec<String> {
        let all = self.waiver.iter().chain(&self.left_out);
        all.flat_map(|exception| {
            exception.tests.iter().chain(&exception.but_for).map(move |pattern| (exception, pattern))
        })
        .filter(|(_, pattern)| !tests.iter().any(|test| covers(std::slice::from_ref(pattern), test)))
        .map(|(exception, pattern)| format!("{}: `{pattern}` is no test", exception.layer))
        .collect()
    }
}

/// The cell of a test that was run.
pub fn judge(plan: &Plan, layer: &str, test: &str, ran: Ran) -> Cell {
    let waiver = plan.waiver(layer, test).map(str::to_owned);
    match (ran.came, waiver) {
        (Came::Ignored, _) => Cell::Ignored,
        (Came::Passed, None) => Cell::Passed { again: ran.again, skipped: ran.skipped },
        (Came::Passed, Some(reason)) => Cell::WaivedForNothing { reason },
        (Came::Failed, Some(reason)) => Cell::Waived { reason },
        (Came::Failed, None) => Cell::Failed { printed: ran.printed },
    }
}

fn first<'a>(exceptions: &'a [Exception], layer: &str, test: &str) -> Option<&'a str> {
    let mut fitting = exceptions
        .iter()
        .filter(|one| one.layer == layer && covers(&one.tests, test) && !covers(&one.but_for, test));
    fitting.next().map(|exception| exception.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::{Came, Cell, Plan, Ran, judge};

    fn plan() -> Plan {
        toml::from_str(
            r#"
            [[group]]
            title = "Commands"
            says = "They run."
            tests = ["exec::*"]
            [apart]
            [[waiver]]
            layer = "microvm"
            tests = ["exec::host*", "exec::gone"]
            reason = "The host sees no process."
            "#,
        )
        .expect("a plan")
    }

    fn ran(came: Came) -> Ran {
        Ran { came, printed: "x".into(), skipped: Vec::new(), again: false, seconds: 1.0 }
    }

    #[test]
    fn a_failure_is_one_unless_it_is_waived_on_that_layer() {
        let reason = "The host sees no process.".to_owned();
        assert_eq!(
            judge(&plan(), "microvm", "exec::host_pid", ran(Came::Failed)),
            Cell::Waived { reason: reason.clone() }
        );
        assert_eq!(
            judge(&plan(), "oci", "exec::host_pid", ran(Came::Failed)),
            Cell::Failed { printed: "x".into() }
        );
        assert_eq!(
            judge(&plan(), "microvm", "exec::codes", ran(Came::Failed)),
            Cell::Failed { printed: "x".into() }
        );
    }

    /// A waiver that is no longer needed has to go, or the next real failure hides behind it.
    #[test]
    fn a_waiver_for_a_test_that_passes_is_an_error() {
        let cell = judge(&plan(), "microvm", "exec::host_pid", ran(Came::Passed));
        assert!(!cell.is_well());
        assert!(judge(&plan(), "oci", "exec::host_pid", ran(Came::Passed)).is_well());
    }

    #[test]
    fn a_waiver_for_no_test_is_an_error() {
        let tests = ["exec::host_pid".to_owned(), "exec::codes".to_owned()];
        assert_eq!(plan().without_effect(&tests), ["microvm: `exec::gone` is no test"]);
    }
}
