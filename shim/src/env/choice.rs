//! What a person says about an environment, before anything is filled in.

use super::{
    catalog::DEFAULT_PRESET,
    pin::Nixpkgs,
    spec::{EnvSpec, SpecError},
};

/// One layer of wishes: a command line, an image, a file. What is absent was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvChoice {
    /// What everything else is added to.
    pub preset: Option<String>,
    /// Groups of packages.
    pub sets: Vec<String>,
    /// Single packages.
    pub packages: Vec<String>,
    /// Whether no preset comes with the packages unless one is named.
    pub exact: Option<bool>,
    /// Where packages come from.
    pub nixpkgs: Option<Nixpkgs>,
    /// Whether unfree packages are allowed.
    pub unfree: Option<bool>,
}

/// What holds where nothing was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvDefaults {
    /// The preset of those who name none.
    pub preset: String,
    /// The nixpkgs of those who name none.
    pub nixpkgs: Nixpkgs,
}

impl Default for EnvDefaults {
    fn default() -> Self {
        Self { preset: DEFAULT_PRESET.to_owned(), nixpkgs: Nixpkgs::default() }
    }
}

impl EnvChoice {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This layer on top of a `lower` one: what is single replaces, lists are added. Exact packages begin anew, or "these
    /// and no others" would depend on what is below.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        let lower = match self.exact {
            Some(true) => Self { preset: None, sets: Vec::new(), packages: Vec::new(), ..lower },
            _ => lower,
        };
        let joined = |mut lower: Vec<String>, upper: Vec<String>| {
            lower.extend(upper);
            lower
        };
        Self {
            preset: self.preset.or(lower.preset),
            sets: joined(lower.sets, self.sets),
            packages: joined(lower.packages, self.packages),
            exact: self.exact.or(lower.exact),
            nixpkgs: self.nixpkgs.or(lower.nixpkgs),
            unfree: self.unfree.or(lower.unfree),
        }
    }

    /// The environment that was asked for. A preset comes with it, the default one unless another was named or the
    /// packages are exact; sets and packages are added.
    pub fn to_spec(&self, defaults: &EnvDefaults) -> Result<EnvSpec, SpecError> {
        let exact = self.exact.unwrap_or(false);
        let spec = EnvSpec {
            preset: self.preset.clone().or_else(|| (!exact).then(|| defaults.preset.clone())),
            sets: self.sets.clone(),
            packages: self.packages.clone(),
            nixpkgs: self.nixpkgs.as_ref().unwrap_or(&defaults.nixpkgs).canonical(),
            unfree: self.unfree.unwrap_or(false),
        };
        // What cannot be resolved is an error here, where it was asked for, and not when it is built.
        spec.canonical()?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn spec(choice: &EnvChoice) -> EnvSpec {
        choice.to_spec(&EnvDefaults::default()).unwrap()
    }

    #[test]
    fn nothing_said_is_the_claude_preset() {
        let spec = spec(&EnvChoice::default());
        assert_eq!(spec, EnvSpec { preset: Some("claude".to_owned()), ..EnvSpec::default() });
    }

    #[test]
    fn sets_and_packages_are_added_and_exact_packages_stand_alone() {
        let mut choice =
            EnvChoice { sets: packages(&["go"]), packages: packages(&["jq"]), ..EnvChoice::default() };
        assert_eq!(spec(&choice).preset.as_deref(), Some("claude"));
        choice.exact = Some(true);
        let exact = spec(&choice);
        assert_eq!((exact.preset, exact.packages, exact.sets), (None, packages(&["jq"]), packages(&["go"])));
        choice.preset = Some("codex".to_owned());
        assert_eq!(spec(&choice).preset.as_deref(), Some("codex"));
    }

    #[test]
    fn a_layer_replaces_what_is_single_and_adds_to_lists() {
        let lower = EnvChoice {
            preset: Some("codex".to_owned()),
            packages: packages(&["jq"]),
            unfree: Some(true),
            ..EnvChoice::default()
        };
        let upper = EnvChoice {
            preset: Some("gemini".to_owned()),
            packages: packages(&["fd"]),
            ..EnvChoice::default()
        };
        let both = upper.over(lower);
        assert_eq!(both.preset.as_deref(), Some("gemini"));
        assert_eq!(both.packages, ["jq", "fd"]);
        assert_eq!(both.unfree, Some(true));
    }

    #[test]
    fn exact_packages_leave_nothing_of_what_is_below() {
        let lower =
            EnvChoice { preset: Some("codex".to_owned()), sets: packages(&["go"]), ..EnvChoice::default() };
        let upper =
            EnvChoice { exact: Some(true), packages: packages(&["jq"]), ..EnvChoice::default() }.over(lower);
        assert_eq!((upper.preset, upper.sets.len(), upper.packages), (None, 0, packages(&["jq"])));
    }

    #[test]
    fn what_means_nothing_is_found_at_once() {
        let choice = EnvChoice { sets: packages(&["nodjs"]), ..EnvChoice::default() };
        assert!(choice.to_spec(&EnvDefaults::default()).is_err());
    }
}
