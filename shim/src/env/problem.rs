//! Why Nix did not build an environment, from what it wrote: what failed, and what a person can do.
//!
//! Nix has no codes for its errors. The words looked for here are those of Nix 2.4 to 2.31 and of nixpkgs; what is not
//! recognised is shown as it came.

use super::expression::{NOT_NIXPKGS, NOT_PACKAGES, UNKNOWN};

/// Most names that a message lists.
const MAX_NAMES: usize = 20;
/// Longest part of an unknown message that is passed on, in characters.
const MAX_TEXT: usize = 2000;

/// What kept an environment from being built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There are no such packages; each with names that were perhaps meant.
    Unknown(Vec<(Vec<String>, Vec<String>)>),
    /// These are there and are no packages.
    NotPackages(Vec<Vec<String>>),
    /// A package under an unfree licence, which nobody allowed.
    Unfree(String),
    /// A package that nixpkgs calls insecure, broken or not made for this machine.
    Refused {
        /// Its name.
        package: String,
        /// What nixpkgs says of it.
        why: &'static str,
    },
    /// What was given as nixpkgs is something else.
    NotNixpkgs,
    /// A builder failed.
    Builder(String),
    /// Two packages have a file of the same name.
    Collision([String; 2]),
    /// There is no room left.
    DiskFull,
    /// The daemon that writes to the store does not answer.
    Daemon(String),
    /// The daemon knows us and refuses.
    DaemonRefuses,
    /// This user cannot write to the store.
    NotWritable(String),
    /// Something could not be fetched.
    Fetch {
        /// What.
        url: String,
        /// Why.
        why: String,
    },
    /// What was fetched is not what was pinned.
    Hash {
        /// What the pin says.
        specified: String,
        /// What came.
        got: String,
    },
    /// A flake reference, and flakes are switched off.
    FlakesDisabled,
    /// The packages need a newer Nix.
    NixTooOld(String),
    /// The store has lost a path that its database has.
    StoreDamaged(String),
    /// Something else, in Nix's own words.
    Other(String),
}

/// Finds out what went wrong. `errors` are what Nix called errors, `log` is everything it wrote.
pub(super) fn classify(errors: &str, log: &[String]) -> Problem {
    let of_builder = |text: &str| log.iter().rev().any(|line| line.contains(text));
    // An error may be shown with the lines of the expression around it, so that words of ours appear where they are
    // only written: what was said comes last, and the rest of the words are looked for as Nix begins an error.
    if let Some(names) = last(errors, UNKNOWN).and_then(names) {
        return Problem::Unknown(names.into_iter().map(|name| (name, Vec::new())).collect());
    }
    if let Some(names) = last(errors, NOT_PACKAGES).and_then(names) {
        return Problem::NotPackages(names);
    }
    let ours = format!("error: {NOT_NIXPKGS}");
    let not_nixpkgs =
        [ours.as_str(), "attribute 'buildEnv' missing", "called with unexpected argument 'config'"];
    if not_nixpkgs.iter().any(|words| errors.contains(words)) {
        return Problem::NotNixpkgs;
    }
    // A full disk looks like many other errors: the builder's, or one of the database.
    if errors.contains("No space left on device") || errors.contains("database or disk is full") {
        return Problem::DiskFull;
    }
    if let Some(rest) = after(errors, "cannot connect to socket at ")
        .or_else(|| after(errors, "cannot open connection to remote store "))
    {
        return Problem::Daemon(quoted(rest).unwrap_or_default());
    }
    if errors.contains("connect to daemon") && errors.contains("not allowed")
        || errors.contains("is not allowed to connect to the Nix daemon")
    {
        return Problem::DaemonRefuses;
    }
    if let Some(problem) = refused(errors).or_else(|| fetching(errors)).or_else(|| permission(errors)) {
        return problem;
    }
    let flakes = [
        "attribute 'getFlake' missing",
        "Nix feature 'flakes' is disabled",
        "Nix feature 'fetch-tree' is disabled",
    ];
    if flakes.iter().any(|words| errors.contains(words)) {
        return Problem::FlakesDisabled;
    }
    if let Some(rest) = last(errors, "This version of Nixpkgs requires Nix >= ") {
        return Problem::NixTooOld(first_word(rest));
    }
    if errors.contains("failed with exit code")
        || errors.contains("failed to build")
        || errors.contains("failed due to signal")
        || errors.contains("Cannot build '")
    {
        if of_builder("No space left on device") {
            return Problem::DiskFull;
        }
        let named = ["builder for ", "Cannot build ", "build of "]
            .iter()
            .find_map(|words| quoted(after(errors, words)?));
        let derivation = named.unwrap_or_default();
        return match collision(log) {
            Some(files) if derivation.contains("agent-shim-environment") => Problem::Collision(files),
            _ => Problem::Builder(derivation),
        };
    }
    Problem::Other(last_error(errors))
}

/// What nixpkgs refuses, in its old and its new words: `Package ‘x-1’ in FILE:1 has an unfree license` and
/// `Refusing to evaluate package 'x-1' in FILE:1 because it has an unfree license`.
fn refused(errors: &str) -> Option<Problem> {
    if !errors.to_lowercase().contains("refusing to evaluate") {
        return None;
    }
    let name = |words: &str| quoted(&errors[errors.rfind(words)?..]);
    let package = name("package '").or_else(|| name("Package ‘"))?;
    let reasons = [
        ("is marked as insecure", "is known to be insecure"),
        ("is marked as broken", "is broken"),
        ("is not available on the requested hostPlatform", "is not made for this kind of machine"),
        ("is not supported on", "is not made for this kind of machine"),
    ];
    if errors.contains("unfree license") {
        return Some(Problem::Unfree(package));
    }
    reasons.iter().find(|(words, _)| errors.contains(words)).map(|(_, why)| Problem::Refused { package, why })
}

fn fetching(errors: &str) -> Option<Problem> {
    if let Some(rest) = after(errors, "hash mismatch in ") {
        let value = |key: &str| after(rest, key).map(first_word).unwrap_or_default();
        return Some(Problem::Hash { specified: value("specified:"), got: value("got:") });
    }
    let rest = ["unable to download ", "unable to fetch ", "failed to fetch ", "program 'git' failed"]
        .iter()
        .find_map(|words| after(errors, words))?;
    let why = rest.lines().next().and_then(|line| line.split_once("': ")).map_or("", |(_, why)| why);
    Some(Problem::Fetch { url: quoted(rest).unwrap_or_default(), why: why.trim().to_owned() })
}

fn permission(errors: &str) -> Option<Problem> {
    let denied =
        ["Permission denied", "Operation not permitted", "Read-only file system", "read-only database"];
    let ours = [
        "creating directory ",
        "could not set permissions on ",
        "opening lock file ",
        "creating file ",
        "opening file ",
        "setting permissions on ",
        "changing ownership of ",
        "opening SQLite database ",
        "cannot open SQLite database ",
    ];
    let line = errors.lines().find(|line| {
        denied.iter().any(|words| line.contains(words)) && ours.iter().any(|words| line.contains(words))
    })?;
    Some(Problem::NotWritable(ours.iter().find_map(|words| quoted(after(line, words)?)).unwrap_or_default()))
}

/// What the builder of the environment says of two files: in nixpkgs' old words one line, in its new ones several.
fn collision(log: &[String]) -> Option<[String; 2]> {
    let at = log
        .iter()
        .rposition(|line| line.contains("collision between") || line.contains("conflicting subpath"))?;
    let text = log[at..].iter().take(4).fold(String::new(), |text, line| text + line + "\n");
    let mut quoted = text.split(['`', '\'', '"']).filter(|part| part.starts_with('/'));
    Some([quoted.next()?.to_owned(), quoted.next()?.to_owned()])
}

fn last<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.rfind(words).map(|at| &text[at + words.len()..])
}

fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.find(words).map(|at| &text[at + words.len()..])
}

/// What stands in the first quotes, of whichever kind.
fn quoted(text: &str) -> Option<String> {
    let (at, open) = text.char_indices().find(|(_, c)| ['\'', '"', '‘', '`', '“'].contains(c))?;
    let rest = &text[at + open.len_utf8()..];
    let end = rest.find(['\'', '"', '’', '”'])?;
    Some(rest[..end].to_owned())
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or("").trim_end_matches([',', '.', ';']).to_owned()
}

/// The JSON list of paths at the beginning of a text. It is ours, and came through Nix.
fn names(text: &str) -> Option<Vec<Vec<String>>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Vec<Vec<String>>>();
    let mut names = values.next()?.ok()?;
    names.truncate(MAX_NAMES);
    Some(names)
}

/// The last thing that was called an error; what stands before it is how Nix got there.
fn last_error(errors: &str) -> String {
    let text = errors.rfind("error: ").map_or(errors, |at| &errors[at + "error: ".len()..]).trim();
    let text = text
        .strip_suffix("(use '--show-trace' to show detailed location information)")
        .unwrap_or(text)
        .trim();
    if text.is_empty() { "it gave no reason".to_owned() } else { text.chars().take(MAX_TEXT).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errors: &str) -> Problem {
        classify(errors, &[])
    }

    #[test]
    fn our_own_words() {
        let unknown =
            of("error: agent-shim: there are no packages [[\"helo\",\"x\"],[\"a\\\"b\"]]\n\n   at /x:1");
        let expected =
            vec![(vec!["helo".to_owned(), "x".to_owned()], vec![]), (vec!["a\"b".to_owned()], vec![])];
        assert_eq!(unknown, Problem::Unknown(expected));
        let not = of("error: agent-shim: these are not packages [[\"python312Packages\"]]");
        assert_eq!(not, Problem::NotPackages(vec![vec!["python312Packages".to_owned()]]));
        assert_eq!(of("error: agent-shim: this is not nixpkgs"), Problem::NotNixpkgs);
        assert_eq!(of("error: attribute 'buildEnv' missing"), Problem::NotNixpkgs);
    }

    /// Later versions of Nix show where an error comes from.
    #[test]
    fn our_own_words_in_the_lines_around_an_error_are_not_what_was_said() {
        let excerpt = "error:\n       … from call site\n         at /d/specs/x.nix:33:6:\n           32| in\n           \
                       33| if unknown != [ ] then throw \"agent-shim: there are no packages ${names unknown}\"\n             \
                       |      ^\n           34| else throw \"agent-shim: this is not nixpkgs\"\n       error: ";
        let name = vec!["helo".to_owned()];
        let unknown = format!("{excerpt}agent-shim: there are no packages [[\"helo\"]]");
        assert_eq!(of(&unknown), Problem::Unknown(vec![(name, Vec::new())]));
        assert_eq!(of(&format!("{excerpt}something")), Problem::Other("something".to_owned()));
    }

    #[test]
    fn what_nixpkgs_refuses() {
        let old = "error: Package ‘claude-code-1.0’ in /p/default.nix:18 has an unfree license (‘unfree’), refusing to evaluate.";
        let new = "error: Refusing to evaluate package 'claude-code-1.0' in /p/package.nix:18 because it has an unfree license (‘unfree’)";
        for text in [old, new] {
            assert_eq!(of(text), Problem::Unfree("claude-code-1.0".to_owned()), "{text}");
        }
        let insecure =
            of("error: Package ‘openssl-1.1’ in /p:1 is marked as insecure, refusing to evaluate.");
        assert_eq!(
            insecure,
            Problem::Refused { package: "openssl-1.1".to_owned(), why: "is known to be insecure" }
        );
    }

    #[test]
    fn the_machine() {
        let socket = "/nix/var/nix/daemon-socket/socket";
        assert_eq!(
            of(&format!("error: cannot connect to socket at '{socket}': Connection refused")),
            Problem::Daemon(socket.to_owned())
        );
        for text in [
            "error: writing to file: No space left on device",
            "error: executing SQLite query: database or disk is full",
        ] {
            assert_eq!(of(text), Problem::DiskFull);
        }
        let log = ["head: error writing: No space left on device".to_owned()];
        assert_eq!(
            classify("error: builder for '/s/a-x.drv' failed with exit code 1", &log),
            Problem::DiskFull
        );
        for (text, path) in [
            (
                "error: could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted",
                "/nix/var/nix/profiles/per-user",
            ),
            ("error: creating directory '/nix/store': Permission denied", "/nix/store"),
            (
                "error: opening lock file '/nix/var/nix/db/big-lock': Permission denied",
                "/nix/var/nix/db/big-lock",
            ),
        ] {
            assert_eq!(of(text), Problem::NotWritable(path.to_owned()));
        }
        for text in [
            "error: attribute 'getFlake' missing",
            "error: experimental Nix feature 'flakes' is disabled; use '--extra-experimental-features flakes' to override",
        ] {
            assert_eq!(of(text), Problem::FlakesDisabled);
        }
        let old = of("error: This version of Nixpkgs requires Nix >= 2.18, please upgrade:");
        assert_eq!(old, Problem::NixTooOld("2.18".to_owned()));
    }

    #[test]
    fn the_network() {
        let offline =
            of("error: unable to download 'https://github.com/x.tar.gz': Couldn't resolve host name (6)");
        let expected = Problem::Fetch {
            url: "https://github.com/x.tar.gz".to_owned(),
            why: "Couldn't resolve host name (6)".to_owned(),
        };
        assert_eq!(offline, expected);
        let hash = of(
            "error: hash mismatch in file downloaded from 'file:///x':\n  specified: sha256:1r\n  got:       sha256:19",
        );
        assert_eq!(hash, Problem::Hash { specified: "sha256:1r".to_owned(), got: "sha256:19".to_owned() });
    }

    #[test]
    fn builders() {
        let text = "error: builder for '/nix/store/abc-broken-1.0.drv' failed with exit code 7\nerror: 1 dependencies of derivation '/nix/store/def-agent-shim-environment.drv' failed to build";
        assert_eq!(of(text), Problem::Builder("/nix/store/abc-broken-1.0.drv".to_owned()));
        let new = "error: Cannot build '/nix/store/abc-broken-1.0.drv'.\n  Reason: builder failed with exit code 7.";
        assert_eq!(of(new), Problem::Builder("/nix/store/abc-broken-1.0.drv".to_owned()));
        let environment =
            "error: builder for '/nix/store/def-agent-shim-environment.drv' failed with exit code 2";
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let files = Problem::Collision(["/s/a/bin/jq".to_owned(), "/s/b/bin/jq".to_owned()]);
        for log in [
            "x\nerror: collision between `/s/a/bin/jq' and `/s/b/bin/jq'",
            "pkgs.buildEnv error: two given paths contain a conflicting subpath:\n  `/s/a/bin/jq' and\n  `/s/b/bin/jq'\nhint: x",
        ] {
            assert_eq!(classify(environment, &lines(log)), files, "{log}");
        }
        // What any other builder writes means nothing.
        assert!(matches!(classify(text, &lines("collision between `/a' and `/b'")), Problem::Builder(_)));
    }

    #[test]
    fn what_nobody_knows_is_passed_on() {
        let text = "error:\n  … while evaluating\n\n  error: something new happened\n(use '--show-trace' to show detailed location information)";
        assert_eq!(of(text), Problem::Other("something new happened".to_owned()));
        assert_eq!(of(""), Problem::Other("it gave no reason".to_owned()));
    }
}
