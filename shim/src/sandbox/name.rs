//! What a sandbox may be called.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

/// Most bytes of a name: it becomes a host name, and those have no more.
pub const MAX_NAME_BYTES: usize = 63;

/// A valid name: a lowercase letter or digit, then up to 62 of these, `-`, `_` and `.`.
///
/// It is a file name, a host name and a word in a shell, so it can need no quoting in any of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a sandbox name: use a lowercase letter or digit, then up to 62 of these, `-`, `_` and `.`",
    .0.escape_debug()
)]
pub struct NameError(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for a sandbox of this project: its folder's, made valid, and not among those that are taken.
    #[must_use]
    pub fn for_project(project: &Path, is_taken: impl Fn(&Self) -> bool) -> Self {
        let base = from_folder(&project.file_name().unwrap_or_default().to_string_lossy());
        let first = Self(base.clone());
        if !is_taken(&first) {
            return first;
        }
        (2..u64::MAX).map(|number| numbered(&base, number)).find(|name| !is_taken(name)).unwrap_or(first)
    }
}

fn from_folder(folder: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let valid: String =
        folder.chars().map(|c| c.to_ascii_lowercase()).map(|c| if allowed(c) { c } else { '-' }).collect();
    let valid = valid.trim_start_matches(['-', '_', '.']).trim_end_matches(['-', '.']);
    // All that is left is ASCII, so a cut falls between characters.
    let cut = &valid[..valid.len().min(MAX_NAME_BYTES)];
    if cut.is_empty() { "sandbox".to_owned() } else { cut.to_owned() }
}

fn numbered(base: &str, number: u64) -> Name {
    let suffix = format!("-{number}");
    Name(format!("{}{suffix}", &base[..base.len().min(MAX_NAME_BYTES - suffix.len())]))
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let later = |b: u8| first(b) || matches!(b, b'-' | b'_' | b'.');
        let bytes = text.as_bytes();
        let valid = bytes.len() <= MAX_NAME_BYTES
            && bytes.first().copied().is_some_and(first)
            && bytes.iter().copied().all(later);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.chars().take(MAX_NAME_BYTES + 1).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(folder: &str, taken: &[&str]) -> String {
        Name::for_project(Path::new(folder), |name| taken.contains(&name.as_str())).to_string()
    }

    #[test]
    fn names_are_words_that_need_no_quoting() {
        for good in ["a", "0", "web-2", "a_b.c", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "_a", "A", "a b", "a/b", "ä", "a\n", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_show_no_control_characters() {
        assert!(!"\x1b[31m".parse::<Name>().unwrap_err().to_string().contains('\x1b'));
    }

    #[test]
    fn a_project_lends_its_folder_name() {
        assert_eq!(derived("/home/me/src/Web App", &[]), "web-app");
        assert_eq!(derived("/home/me/.dotfiles", &[]), "dotfiles");
        assert_eq!(derived("/home/me/projekt-ü-", &[]), "projekt");
        assert_eq!(derived("/", &[]), "sandbox");
        assert_eq!(derived("/日本", &[]), "sandbox");
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        assert_eq!(derived("/src/web", &["web"]), "web-2");
        assert_eq!(derived("/src/web", &["web", "web-2", "web-3"]), "web-4");
        let long = "x".repeat(80);
        let folder = format!("/{long}");
        let number_two = derived(&folder, &[&long[..63]]);
        assert_eq!(number_two, format!("{}-2", &long[..61]));
        number_two.parse::<Name>().unwrap();
    }
}
