//! The name of a package: a path of attributes in nixpkgs, such as `python312Packages.pip`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Most bytes of a name; the longest in nixpkgs has about a hundred.
pub const MAX_PACKAGE_BYTES: usize = 256;

/// Most attributes in one path.
pub const MAX_DEPTH: usize = 16;

/// In front of a name these say nothing: they are how other tools spell that it is one of nixpkgs.
const PREFIXES: [&str; 3] = ["nixpkgs#", "pkgs.", "nixpkgs."];

/// A package, in the one spelling that we keep of it.
///
/// An attribute that is not a plain word stands in quotes: `nodePackages."@angular/cli"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Package(Vec<String>);

/// The text is no name of a package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the name of a package: {why}", .text.escape_debug())]
pub struct PackageError {
    text: String,
    why: &'static str,
}

impl Package {
    /// The attributes, from the outside in.
    pub fn attributes(&self) -> &[String] {
        &self.0
    }

    /// Reads a list: names between commas or white space, with any number of either.
    pub fn list(text: &str) -> Result<Vec<Package>, PackageError> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        let mut escaped = false;
        for c in text.chars() {
            match c {
                ',' | ' ' | '\t' | '\n' | '\r' if !quoted => words.push(String::new()),
                _ => {
                    if c == '"' && !escaped {
                        quoted = !quoted;
                    }
                    escaped = c == '\\' && quoted && !escaped;
                    if let Some(word) = words.last_mut() {
                        word.push(c);
                    }
                }
            }
        }
        words.iter().filter(|word| !word.is_empty()).map(|word| word.parse()).collect()
    }
}

impl FromStr for Package {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        let error = |why| PackageError { text: text.chars().take(MAX_PACKAGE_BYTES).collect(), why };
        if text.len() > MAX_PACKAGE_BYTES {
            return Err(error("it is too long"));
        }
        let mut rest = text.trim();
        while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
            rest = shorter;
        }
        let attributes = attributes(rest).map_err(error)?;
        if attributes.len() > MAX_DEPTH { Err(error("it has too many parts")) } else { Ok(Self(attributes)) }
    }
}

/// Splits at the dots outside of quotes.
fn attributes(text: &str) -> Result<Vec<String>, &'static str> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let attribute = if chars.next_if_eq(&'"').is_some() {
            quoted(&mut chars)?
        } else {
            let mut word = String::new();
            while let Some(c) = chars.next_if(|c| *c != '.') {
                if !may_stand_bare(c) {
                    return Err("it has a character that needs quotes around it");
                }
                word.push(c);
            }
            word
        };
        if attribute.is_empty() {
            return Err("a part of it is empty");
        }
        found.push(attribute);
        match chars.next() {
            None => return Ok(found),
            Some('.') => {}
            Some(_) => return Err("something follows its quotes"),
        }
    }
}

/// The rest of a quoted attribute; its first quote was read.
fn quoted(chars: &mut impl Iterator<Item = char>) -> Result<String, &'static str> {
    let mut word = String::new();
    loop {
        match chars.next() {
            None => return Err("its quotes do not end"),
            Some('"') => return Ok(word),
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\')) => word.push(c),
                _ => return Err("a backslash stands only in front of a quote or another backslash"),
            },
            Some(c) if c.is_control() => return Err("it has a control character"),
            Some(c) => word.push(c),
        }
    }
}

/// More than Nix allows outside of quotes, because people copy names from places that need none: `@angular/cli`.
fn may_stand_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '\'' | '+' | '@' | '/')
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attribute) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if attribute.chars().all(may_stand_bare) {
                f.write_str(attribute)?;
            } else {
                write!(f, "\"{}\"", attribute.replace('\\', "\\\\").replace('"', "\\\""))?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Package {
    type Error = PackageError;

    fn try_from(text: String) -> Result<Self, PackageError> {
        text.parse()
    }
}

impl From<Package> for String {
    fn from(package: Package) -> Self {
        package.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<Package>().unwrap().to_string()
    }

    #[test]
    fn spellings_of_one_package_become_one() {
        for text in ["jq", " jq ", "pkgs.jq", "nixpkgs#jq", "nixpkgs.jq", "\"jq\"", "nixpkgs#pkgs.jq"] {
            assert_eq!(shown(text), "jq", "{text}");
        }
        assert_eq!(shown("nodePackages.@angular/cli"), shown("nodePackages.\"@angular/cli\""));
        assert_eq!(shown("a.\"b.c\".d"), "a.\"b.c\".d");
        assert_eq!(shown("python312Packages.pip"), "python312Packages.pip");
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "empty"),
            ("a..b", "empty"),
            (".a", "empty"),
            ("a.", "empty"),
            ("pkgs.", "empty"),
            ("a b", "needs quotes"),
            ("a${b}", "needs quotes"),
            ("a;b", "needs quotes"),
            ("\"a", "do not end"),
            ("\"a\"b", "follows"),
            ("\"a\\n\"", "backslash"),
            ("\"a\u{7}\"", "control"),
        ] {
            let error = text.parse::<Package>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!("x".repeat(MAX_PACKAGE_BYTES + 1).parse::<Package>().is_err());
        assert!("a.".repeat(MAX_DEPTH).as_str().parse::<Package>().is_err());
        assert!(format!("{}a", "a.".repeat(MAX_DEPTH)).parse::<Package>().is_err());
    }

    #[test]
    fn a_list_may_have_more_commas_than_it_needs() {
        let names: Vec<String> =
            Package::list(",jq,, fd\n,\"a, b\".c ,").unwrap().iter().map(Package::to_string).collect();
        assert_eq!(names, ["jq", "fd", "\"a, b\".c"]);
        assert!(Package::list(" , ").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn every_name_that_is_shown_is_read_back(attributes in prop::collection::vec("[^\\p{Cc}]{1,8}", 1..5)) {
            let package = Package(attributes);
            if !PREFIXES.iter().any(|prefix| package.to_string().starts_with(prefix)) {
                prop_assert_eq!(package.to_string().parse::<Package>().unwrap(), package);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Package>();
            let _ = Package::list(&text);
        }
    }
}
