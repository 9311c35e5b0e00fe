//! `-I`: an environment in one word, such as `nix:preset=claude` or `nix:{"packages":["jq"],"sets":"go"}`.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    choice::EnvChoice,
    nearest::nearest,
    pin::{Nixpkgs, PinError},
    spec::words,
};

const JSON_KEYS: [&str; 4] = ["packages", "sets", "preset", "nixpkgs_pin"];
const WORD_KEYS: [&str; 3] = ["preset", "sets", "packages"];

/// Most characters of a broken text that are shown around the place where it is broken.
const EXCERPT_CHARS: usize = 60;

/// Why an image spec cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It does not begin as one.
    #[error("`{}` is no environment of Nix, which begins with `nix:`", .0.escape_debug())]
    Scheme(String),
    /// There is no such thing to say about one.
    #[error("an image has no `{}`", .key.escape_debug())]
    UnknownKey {
        /// What was written.
        key: String,
        /// What was probably meant.
        nearest: Option<&'static str>,
        /// All there are.
        known: &'static [&'static str],
    },
    /// Broken JSON.
    #[error("the image's JSON is broken at line {line}, column {column}: {problem}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What the parser says.
        problem: String,
        /// The place.
        excerpt: String,
        /// How many characters of the excerpt come before the place.
        caret: usize,
    },
    /// A value of another kind.
    #[error("`{key}` of an image is {expected}")]
    Value {
        /// Whose value.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// Where packages come from.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl ImageError {
    /// What a person can do.
    pub fn hint(&self) -> String {
        let forms = "write nix:preset=NAME, nix:sets=A,B, nix:packages=A,B or nix:{\"packages\":[...],\"sets\":[...]}";
        match self {
            Self::Scheme(_) | Self::Value { .. } => forms.to_owned(),
            Self::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`?"),
            Self::UnknownKey { known, .. } => format!("it has {}", known.join(", ")),
            Self::Json { .. } => {
                "in a shell, single quotes around the whole keep its double quotes".to_owned()
            }
            Self::Pin(error) => error.hint().to_owned(),
        }
    }

    /// The place in a broken text: the text, and a line with a mark below it.
    pub fn place(&self) -> Option<[String; 2]> {
        match self {
            Self::Json { excerpt, caret, .. } => Some([excerpt.clone(), format!("{}^", " ".repeat(*caret))]),
            _ => None,
        }
    }
}

/// Reads an image spec. A path in it is relative to `base`.
pub fn parse(text: &str, base: &Path) -> Result<EnvChoice, ImageError> {
    let Some(rest) = text.trim().strip_prefix("nix:") else {
        return Err(ImageError::Scheme(text.chars().take(100).collect()));
    };
    if rest.trim_start().starts_with('{') {
        return json(rest, base);
    }
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let list = || words_of(value);
    match key.trim() {
        "preset" if value.trim().is_empty() => {
            Err(ImageError::Value { key: "preset", expected: "the name of a preset" })
        }
        "preset" => Ok(EnvChoice { preset: Some(value.trim().to_owned()), ..EnvChoice::default() }),
        "sets" if list().is_empty() => Err(ImageError::Value { key: "sets", expected: "a list of names" }),
        "sets" => Ok(EnvChoice { sets: list(), ..EnvChoice::default() }),
        "packages" if value.trim().is_empty() => {
            Err(ImageError::Value { key: "packages", expected: "a list of names" })
        }
        "packages" => {
            Ok(EnvChoice { packages: vec![value.to_owned()], exact: Some(true), ..EnvChoice::default() })
        }
        other => Err(unknown_key(other, &WORD_KEYS)),
    }
}

fn words_of(text: &str) -> Vec<String> {
    words(text).map(str::to_owned).collect()
}

fn unknown_key(key: &str, known: &'static [&'static str]) -> ImageError {
    ImageError::UnknownKey {
        key: key.chars().take(64).collect(),
        nearest: nearest(key, known.iter().copied()),
        known,
    }
}

fn json(text: &str, base: &Path) -> Result<EnvChoice, ImageError> {
    let object: Map<String, Value> = serde_json::from_str(text).map_err(|error| broken(text, &error))?;
    if let Some(key) = object.keys().find(|key| !JSON_KEYS.contains(&key.as_str())) {
        return Err(unknown_key(key, &JSON_KEYS));
    }
    let string = |key: &'static str, expected| match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ImageError::Value { key, expected }),
    };
    let nixpkgs = match string("nixpkgs_pin", "a commit, a folder or a flake reference, as a string")? {
        Some(pin) => Some(Nixpkgs::parse(&pin, base)?),
        None => None,
    };
    Ok(EnvChoice {
        preset: string("preset", "the name of a preset, as a string")?,
        sets: list(&object, "sets")?,
        packages: list(&object, "packages")?,
        nixpkgs,
        ..EnvChoice::default()
    })
}

/// A list of strings, or one string with commas in it.
fn list(object: &Map<String, Value>, key: &'static str) -> Result<Vec<String>, ImageError> {
    let wrong = || ImageError::Value { key, expected: "a list of strings, or one string" };
    match object.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(values)) => {
            values.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// Finds the place that the parser means, in characters: it counts bytes.
fn broken(text: &str, error: &serde_json::Error) -> ImageError {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("");
    // The parser names the last byte it read; behind the end of a text it names the end.
    let bytes = error.column().saturating_sub(usize::from(!error.is_eof())).min(line.len());
    let before = line.char_indices().take_while(|(at, _)| *at < bytes).count();
    let start = before.saturating_sub(EXCERPT_CHARS / 2);
    let problem = error.to_string();
    ImageError::Json {
        line: error.line(),
        column: before + 1,
        problem: problem.rsplit_once(" at line ").map_or(problem.as_str(), |(problem, _)| problem).to_owned(),
        // A tab would move the mark.
        excerpt: line
            .chars()
            .skip(start)
            .take(EXCERPT_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
        caret: before - start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<EnvChoice, ImageError> {
        parse(text, Path::new("/"))
    }

    #[test]
    fn the_short_forms() {
        assert_eq!(read("nix:preset=codex").unwrap().preset.as_deref(), Some("codex"));
        assert_eq!(read("nix:sets=nodejs, go,").unwrap().sets, ["nodejs", "go"]);
        let exact = read("nix:packages=jq,python312Packages.pip").unwrap();
        assert_eq!((exact.packages.len(), exact.exact), (1, Some(true)));
    }

    #[test]
    fn the_long_form() {
        let choice = read(
            r#"nix:{"packages":["nodejs_24","python312"],"sets":"go,rust","preset":"claude","nixpkgs_pin":"nixpkgs"}"#,
        )
        .unwrap();
        assert_eq!(choice.packages, ["nodejs_24", "python312"]);
        assert_eq!(choice.sets, ["go,rust"]);
        assert_eq!(choice.preset.as_deref(), Some("claude"));
        assert_eq!(choice.nixpkgs, Some(Nixpkgs::Flake("nixpkgs".to_owned())));
        assert_eq!((choice.exact, choice.unfree), (None, None));
        assert_eq!(read("nix: { }").unwrap(), EnvChoice::default());
    }

    fn place(text: &str) -> (usize, usize, [String; 2]) {
        match read(text).unwrap_err() {
            ref error @ ImageError::Json { line, column, .. } => (line, column, error.place().unwrap()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn broken_json_tells_where() {
        let (line, column, [text, mark]) = place(r#"nix:{"packages":["jq" "fd"]}"#);
        assert_eq!((line, column), (1, 19));
        assert_eq!(text, r#"{"packages":["jq" "fd"]}"#);
        assert_eq!(mark, "                  ^");
        assert_eq!(&text[mark.len() - 1..mark.len()], "\"");
        // Behind the end, and behind characters of several bytes.
        assert_eq!(place("nix:{").2, ["{".to_owned(), " ^".to_owned()]);
        assert_eq!(place("nix:{\"ü\":x").2[1], "     ^");
        let (line, column, _) = place("nix:{\n  \"sets\": go\n}");
        assert_eq!((line, column), (2, 11));
        let long = format!("nix:{{\"packages\":[{}x", "\"jq\",".repeat(100));
        let (_, _, [text, mark]) = place(&long);
        assert!(text.chars().count() <= EXCERPT_CHARS && mark.len() <= text.len() + 1, "{text}\n{mark}");
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_named() {
        for (text, message, hint) in [
            ("docker:debian", "`docker:debian` is no environment of Nix", "nix:preset=NAME"),
            ("nix:", "an image has no ``", "preset, sets, packages"),
            ("nix:package=jq", "an image has no `package`", "did you mean `packages`?"),
            (r#"nix:{"pakages":[]}"#, "an image has no `pakages`", "did you mean `packages`?"),
            (r#"nix:{"colour":1}"#, "an image has no `colour`", "packages, sets, preset, nixpkgs_pin"),
            (r#"nix:{"packages":{}}"#, "`packages` of an image is a list", "nix:preset=NAME"),
            (r#"nix:{"packages":[1]}"#, "`packages` of an image is a list", "nix:preset=NAME"),
            (r#"nix:{"preset":["claude"]}"#, "`preset` of an image is the name", "nix:preset=NAME"),
            (r#"nix:{"nixpkgs_pin":"25.11"}"#, "names no nixpkgs", "write a folder"),
            ("nix:packages=", "`packages` of an image is a list", "nix:preset=NAME"),
            ("nix:preset=", "`preset` of an image is the name", "nix:preset=NAME"),
            ("nix:sets", "`sets` of an image is a list", "nix:preset=NAME"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.hint().contains(hint), "{text}: {}", error.hint());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(text in "\\PC{0,60}") {
            for text in [format!("nix:{text}"), format!("nix:{{{text}"), text] {
                if let Err(error) = read(&text) {
                    let _ = (error.to_string(), error.hint(), error.place());
                }
            }
        }
    }
}
