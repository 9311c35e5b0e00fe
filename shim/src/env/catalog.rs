//! Presets and sets: what people call a group of packages.

use super::nearest::nearest;

/// Packages under one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is called.
    pub name: &'static str,
    /// Attributes of nixpkgs, as a person would write them.
    pub packages: &'static [&'static str],
    /// Those among them that nixpkgs calls unfree, by package name. Choosing the group allows these and no others: an
    /// agent that is asked for by name needs no second permission, and what it does not name does.
    pub unfree: &'static [&'static str],
}

/// The preset of those who choose none.
pub const DEFAULT_PRESET: &str = "claude";

/// What an agent and a person at its side need in nearly every project, behind the agent itself.
macro_rules! with_tools {
    ($($package:literal),*) => {
        &[$($package,)* "git", "ripgrep", "fd", "fzf", "jq", "curl", "coreutils", "bash"]
    };
}

/// Environments around an agent.
pub const PRESETS: [Group; 4] = [
    Group { name: "claude", packages: with_tools!("nodejs_24", "claude-code"), unfree: &["claude-code"] },
    Group { name: "codex", packages: with_tools!("nodejs_24", "codex"), unfree: &[] },
    Group { name: "gemini", packages: with_tools!("nodejs_24", "gemini-cli"), unfree: &[] },
    Group { name: "opencode", packages: with_tools!("nodejs_24", "opencode"), unfree: &[] },
];

/// Tools of a language or a platform, added to whatever else is there.
pub const SETS: [Group; 9] = [
    Group { name: "nodejs", packages: &["nodejs_24", "pnpm", "yarn"], unfree: &[] },
    Group { name: "python", packages: &["python313", "python313Packages.pip", "uv"], unfree: &[] },
    Group { name: "go", packages: &["go", "gopls"], unfree: &[] },
    // rustc links with the C compiler.
    Group {
        name: "rust",
        packages: &["rustc", "cargo", "clippy", "rustfmt", "rust-analyzer", "gcc"],
        unfree: &[],
    },
    Group { name: "kubernetes", packages: &["kubectl", "kubernetes-helm", "kustomize", "k9s"], unfree: &[] },
    // nixpkgs calls the Business Source License unfree.
    Group { name: "terraform", packages: &["terraform", "tflint"], unfree: &["terraform"] },
    Group { name: "docker", packages: &["docker-client", "docker-compose"], unfree: &[] },
    Group { name: "aws", packages: &["awscli2"], unfree: &[] },
    Group { name: "gcp", packages: &["google-cloud-sdk"], unfree: &[] },
];

/// A name that is not in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} `{}`", .name.escape_debug())]
pub struct UnknownGroup {
    /// `preset` or `set`.
    pub kind: &'static str,
    /// What was asked for.
    pub name: String,
    /// What was probably meant.
    pub nearest: Option<&'static str>,
    /// All there are.
    pub known: Vec<&'static str>,
}

impl UnknownGroup {
    /// What a person can do.
    pub fn hint(&self) -> String {
        let all = format!("the {}s are {}", self.kind, self.known.join(", "));
        self.nearest.map_or(all.clone(), |nearest| format!("did you mean `{nearest}`? {all}"))
    }
}

/// The preset of this name.
pub fn preset(name: &str) -> Result<&'static Group, UnknownGroup> {
    find("preset", &PRESETS, name)
}

/// The set of this name.
pub fn set(name: &str) -> Result<&'static Group, UnknownGroup> {
    find("set", &SETS, name)
}

fn find(kind: &'static str, groups: &'static [Group], name: &str) -> Result<&'static Group, UnknownGroup> {
    let wanted = name.trim().to_lowercase();
    groups.iter().find(|group| group.name == wanted).ok_or_else(|| UnknownGroup {
        kind,
        name: name.chars().take(64).collect(),
        nearest: nearest(&wanted, groups.iter().map(|group| group.name)),
        known: groups.iter().map(|group| group.name).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::package::Package;

    #[test]
    fn the_claude_preset_is_as_promised() {
        let expected =
            ["nodejs_24", "claude-code", "git", "ripgrep", "fd", "fzf", "jq", "curl", "coreutils", "bash"];
        assert_eq!(preset(DEFAULT_PRESET).unwrap().packages, expected);
    }

    #[test]
    fn every_package_of_a_group_has_a_name_of_one_spelling() {
        for group in PRESETS.iter().chain(&SETS) {
            for package in group.packages {
                assert_eq!(package.parse::<Package>().unwrap().to_string(), *package, "{}", group.name);
            }
            assert!(group.unfree.iter().all(|unfree| group.packages.contains(unfree)), "{}", group.name);
        }
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        assert_eq!(set(" Go ").unwrap().name, "go");
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_the_nearest() {
        let error = set("pyton").unwrap_err();
        assert_eq!(error.to_string(), "there is no set `pyton`");
        let hint = error.hint();
        assert!(
            hint.starts_with("did you mean `python`?") && hint.contains("nodejs, python, go, rust"),
            "{hint}"
        );
        let hint = preset("emacs").unwrap_err().hint();
        assert_eq!(hint, "the presets are claude, codex, gemini, opencode");
    }
}
