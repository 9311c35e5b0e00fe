//! Flags that choose an environment of Nix, for every subcommand that takes one.

use std::path::Path;

use super::error::{CliError, Kind};
use crate::{
    config::{
        origin::{Origin, Sourced},
        settings::NixSettings,
        values,
    },
    env::{
        choice::EnvChoice,
        image::{self, ImageError},
        pin::{Nixpkgs, PinError},
        spec::SpecError,
    },
};

// Flattened into other arguments. A doc comment would become the help of theirs.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvArgs {
    /// Environment: nix:preset=NAME, nix:sets=A,B, nix:packages=A,B (these alone), or nix:{JSON}; else a container's image
    #[arg(short = 'I', long, value_name = "SPEC")]
    pub(crate) image: Vec<String>,
    /// Packages around an agent: claude, codex, gemini or opencode
    #[arg(long, value_name = "NAME")]
    pub(crate) nix_preset: Option<String>,
    /// Add groups of packages, such as nodejs,python,go,rust
    #[arg(long, value_name = "NAMES")]
    pub(crate) nix_sets: Vec<String>,
    /// Add packages of nixpkgs, such as jq,python312Packages.pip
    #[arg(long, value_name = "NAMES")]
    pub(crate) nix_packages: Vec<String>,
    /// Where packages come from: a folder, COMMIT, COMMIT:sha256-HASH, or a flake reference
    #[arg(long, value_name = "REF")]
    pub(crate) nixpkgs: Option<String>,
    /// Allow packages under an unfree licence
    #[arg(long)]
    pub(crate) unfree: bool,
}

impl EnvArgs {
    /// What was asked for; folders are relative to `base`.
    pub(crate) fn choice(&self, base: &Path) -> Result<EnvChoice, CliError> {
        let mut choice = EnvChoice::default();
        for text in &self.image {
            choice = image::parse(text, base)?.over(choice);
        }
        let flags = EnvChoice {
            preset: self.nix_preset.clone(),
            sets: self.nix_sets.clone(),
            packages: self.nix_packages.clone(),
            exact: None,
            nixpkgs: self.nixpkgs.as_deref().map(|text| Nixpkgs::parse(text, base)).transpose()?,
            unfree: self.unfree.then_some(true),
        };
        Ok(flags.over(choice))
    }

    /// The image of a container among them: whatever does not begin as an environment of Nix.
    pub(crate) fn container_image(&self) -> Result<Option<String>, CliError> {
        let mut images = self.image.iter().filter(|text| !is_of_nix(text));
        match (images.next(), images.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => match values::image(text) {
                Ok(image) => Ok(Some(image)),
                Err(_) => Err(ImageError::Scheme(text.chars().take(100).collect()).into()),
            },
            (Some(first), Some(second)) => {
                let message = format!("a container has one image, and there are `{first}` and `{second}`");
                Err(CliError::new(Kind::Usage, message))
            }
        }
    }

    /// The others.
    pub(crate) fn of_nix(&self) -> Self {
        Self { image: self.image.iter().filter(|text| is_of_nix(text)).cloned().collect(), ..self.clone() }
    }

    /// The same as a layer of settings.
    pub(crate) fn settings(&self, base: &Path) -> Result<NixSettings, CliError> {
        let choice = self.choice(base)?;
        let origin = |given: bool, name| Origin::Flag(if given { name } else { "--image" });
        let sets = origin(!self.nix_sets.is_empty(), "--nix-sets");
        let packages = origin(!self.nix_packages.is_empty(), "--nix-packages");
        let all = |values: Vec<String>, origin: &Origin| {
            values.into_iter().map(|value| Sourced::new(value, origin.clone())).collect()
        };
        Ok(NixSettings {
            preset: choice
                .preset
                .map(|preset| Sourced::new(preset, origin(self.nix_preset.is_some(), "--nix-preset"))),
            sets: all(choice.sets, &sets),
            packages: all(choice.packages, &packages),
            exact: choice.exact.map(|exact| Sourced::new(exact, Origin::Flag("--image"))),
            nixpkgs: choice
                .nixpkgs
                .map(|nixpkgs| Sourced::new(nixpkgs, origin(self.nixpkgs.is_some(), "--nixpkgs"))),
            unfree: choice.unfree.map(|unfree| Sourced::new(unfree, Origin::Flag("--unfree"))),
        })
    }
}

fn is_of_nix(text: &str) -> bool {
    text.trim_start().starts_with("nix:")
}

impl From<ImageError> for CliError {
    fn from(error: ImageError) -> Self {
        Self::new(Kind::Usage, error.to_string())
            .lines(error.place().into_iter().flatten())
            .hint(error.hint())
    }
}

impl From<PinError> for CliError {
    fn from(error: PinError) -> Self {
        Self::new(Kind::Usage, error.to_string()).hint(error.hint())
    }
}

impl From<SpecError> for CliError {
    fn from(error: SpecError) -> Self {
        let made = Self::new(Kind::Usage, error.to_string());
        match error.hint() {
            Some(hint) => made.hint(hint),
            None => made,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::choice::EnvDefaults;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        env: EnvArgs,
    }

    fn choice(args: &[&str]) -> EnvChoice {
        let line = Line::try_parse_from([&["x"], args].concat()).unwrap();
        line.env.choice(Path::new("/")).unwrap()
    }

    #[test]
    fn flags_are_added_to_the_image() {
        let choice =
            choice(&["-I", "nix:packages=jq", "--nix-sets", "go", "--nix-packages", "fd", "--unfree"]);
        let spec = choice.to_spec(&EnvDefaults::default()).unwrap();
        assert_eq!(
            (spec.preset, spec.sets, spec.packages),
            (None, vec!["go".into()], vec!["jq".into(), "fd".into()])
        );
        assert!(spec.unfree);
    }

    #[test]
    fn nothing_given_is_nothing_said() {
        assert!(choice(&[]).is_empty());
    }

    #[test]
    fn a_flag_replaces_the_images_preset() {
        let choice = choice(&["-I", "nix:preset=claude", "--nix-preset", "codex"]);
        assert_eq!(choice.preset.as_deref(), Some("codex"));
    }

    #[test]
    fn broken_json_is_shown_with_its_place() {
        let line = Line::try_parse_from(["x", "-I", "nix:{\"sets\":go}"]).unwrap();
        let error = line.env.choice(Path::new("/")).unwrap_err();
        let shown = format!("{error:?}");
        assert!(shown.contains("line 1, column 9") && shown.contains("        ^"), "{shown}");
    }
}
