//! From facts to what is missing. Looks at nothing itself.

use serde::Serialize;
use serde_json::{Value, json};

use super::checks::look;
use super::facts::Facts;
use super::{Check, Distribution, Purpose, Requirement, Weight};

/// How sandboxes are to be run, which decides what is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `Bwrap`, `Oci` or `Microvm`.
    pub isolation: Purpose,
    /// Whether environments come from Nix.
    pub nix: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { isolation: Purpose::Bwrap, nix: false }
    }
}

/// How much something that is missing matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// What was asked for does not work.
    Required,
    /// Something else does not work.
    Optional,
    /// Everything works, and could be better.
    Note,
}

/// Something that is missing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub requirement: Requirement,
    /// What is wrong, as it was found.
    pub what: String,
}

/// One line of the report: what was found, or what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What was looked at.
    pub check: Check,
    /// What is there; empty where what matters of it is missing.
    pub found: String,
    /// What is missing.
    pub findings: Vec<Finding>,
}

/// What keeps sandboxes apart, and whether it can here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerState {
    /// `Bwrap`, `Oci` or `Microvm`.
    pub layer: Purpose,
    /// What it would be made of; empty where what it needs is missing.
    pub found: String,
    /// What stands in its way.
    pub missing: Vec<Requirement>,
}

/// What each layer is made of, by the lines of the report that say it.
const LAYERS: [(Purpose, &[Check]); 3] = [
    (Purpose::Bwrap, &[Check::Bubblewrap]),
    (Purpose::Oci, &[Check::OciRuntime]),
    (Purpose::Microvm, &[Check::Qemu, Check::MachineKernel]),
];

/// What was found out about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order of [`Check::ALL`].
    pub checks: Vec<Checked>,
    /// How sandboxes are to be run.
    pub selection: Selection,
    /// For the fixes.
    pub distribution: Distribution,
}

impl Report {
    /// Decides what is missing.
    pub fn of(facts: &Facts, selection: Selection, distribution: Distribution) -> Report {
        let mut checks: Vec<Checked> = Check::ALL.into_iter().map(|check| look(check, facts)).collect();
        // Nobody is told of what does not concern them.
        checks.retain(|checked| !checked.found.is_empty() || !checked.findings.is_empty());
        Report { checks, selection, distribution }
    }

    /// How much a finding matters for the selection.
    pub fn severity(&self, requirement: Requirement) -> Severity {
        let asked_for = |purpose: &Purpose| match purpose {
            Purpose::Sandbox => true,
            Purpose::Nix => self.selection.nix,
            other => *other == self.selection.isolation,
        };
        match requirement.weight() {
            Weight::Useful => Severity::Note,
            Weight::Needed if requirement.purposes().iter().any(asked_for) => Severity::Required,
            Weight::Needed => Severity::Optional,
        }
    }

    /// All findings, in order.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.checks.iter().flat_map(|checked| &checked.findings)
    }

    /// Every layer, whichever was asked for.
    pub fn layers(&self) -> Vec<LayerState> {
        let state = |(layer, parts): &(Purpose, &[Check])| {
            let stands_in_the_way = |requirement: &Requirement| {
                let purposes = requirement.purposes();
                requirement.weight() == Weight::Needed
                    && (purposes.contains(layer) || purposes.contains(&Purpose::Sandbox))
            };
            let mut missing: Vec<_> =
                self.findings().map(|finding| finding.requirement).filter(stands_in_the_way).collect();
            missing.dedup();
            let found = self.checks.iter().filter(|checked| parts.contains(&checked.check));
            let found: Vec<_> = found
                .map(|checked| {
                    let version = checked.found.split(',').next().unwrap_or_default();
                    format!("{} {version}", checked.check.label())
                })
                .collect();
            let found = if missing.is_empty() { found.join(", ") } else { String::new() };
            LayerState { layer: *layer, found, missing }
        };
        LAYERS.iter().map(state).collect()
    }

    /// What stands in the way of what was asked for.
    pub fn required(&self) -> impl Iterator<Item = &Finding> {
        self.findings().filter(|finding| self.severity(finding.requirement) == Severity::Required)
    }

    /// The report for programs, as docs/doctor.md describes it.
    pub fn to_json(&self, facts: &Facts) -> Value {
        let finding = |finding: &Finding| {
            let requirement = finding.requirement;
            let fix = requirement.fix(&self.distribution);
            json!({
                "id": requirement.id(),
                "severity": self.severity(requirement),
                "needed_for": requirement.purposes(),
                "what": finding.what,
                "why": requirement.why(),
                "fix": fix,
                "hint": requirement.hint_for(&self.distribution),
            })
        };
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|checked| {
                let findings: Vec<Value> = checked.findings.iter().map(finding).collect();
                json!({ "check": checked.check, "found": checked.found, "findings": findings })
            })
            .collect();
        let layers: Vec<Value> = self
            .layers()
            .iter()
            .map(|state| {
                let LayerState { layer, found, missing } = state;
                json!({ "layer": layer, "usable": missing.is_empty(), "found": found, "missing": missing })
            })
            .collect();
        json!({
            "version": 1,
            "ok": self.required().next().is_none(),
            "isolation": self.selection.isolation,
            "nix": self.selection.nix,
            "distribution": self.distribution,
            "layers": layers,
            "checks": checks,
            "facts": facts,
        })
    }
}
