//! Which nixpkgs packages come from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The commit of nixpkgs for those who name none: of the branch nixos-26.05, from September 2026.
const DEFAULT_COMMIT: &str = "21a67dc470149f337cecafbe965d8d252a390518";
/// Hash of its unpacked tree, which `builtins.fetchTarball` and lock files of flakes have in common.
const DEFAULT_HASH: &str = "sha256-ugpsyk3NM2s87vXfUiIIiibbJ4Pp0JPS5p/3mfs+q+c=";

/// Longest reference that is read.
const MAX_REFERENCE_BYTES: usize = 4096;

/// A package set, named so that it can be found again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Nixpkgs {
    /// A commit on GitHub.
    Commit {
        /// Owner and repository: `NixOS/nixpkgs`.
        repository: String,
        /// All 40 digits.
        commit: String,
        /// Hash of the tree, `sha256-...`. Without one, GitHub is trusted to give the commit that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
    },
    /// A folder of this machine, absolute and without symbolic links. What is in it may change; an environment that
    /// was built stays as it is until it is built again.
    Path(PathBuf),
    /// A flake reference, for Nix to make sense of.
    Flake(String),
}

/// The text names no package set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// A folder that is missing, or that nobody can look into.
    #[error("the nixpkgs folder {} cannot be used: {why}", .path.display())]
    Path {
        /// The folder, as it was looked for.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A folder with something else in it.
    #[error("{} is not nixpkgs: it has no default.nix", .0.display())]
    NotNixpkgs(PathBuf),
    /// A hash that is not one.
    #[error("`{}` is not the SHA-256 of a package set", .0.escape_debug())]
    Hash(String),
    /// Nothing we know.
    #[error("`{}` names no nixpkgs: it is no folder, no commit and no flake reference", .0.escape_debug())]
    Unknown(String),
}

impl PinError {
    /// What a person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Path { .. } | Self::NotNixpkgs(_) => {
                "name a folder that holds nixpkgs, such as a checkout of it"
            }
            Self::Hash(_) => {
                "a hash is written sha256-... as in a flake.lock; `nix-prefetch-url --unpack` prints it too"
            }
            Self::Unknown(_) => {
                "write a folder (./nixpkgs), a commit of 40 digits (COMMIT or COMMIT:sha256-...), or a flake \
                 reference (github:NixOS/nixpkgs/nixos-26.05)"
            }
        }
    }
}

impl Default for Nixpkgs {
    fn default() -> Self {
        Self::Commit {
            repository: repository(),
            commit: DEFAULT_COMMIT.to_owned(),
            hash: Some(DEFAULT_HASH.to_owned()),
        }
    }
}

impl Nixpkgs {
    /// Reads `--nixpkgs` and its like. Paths are relative to `base`: where the person is, or where the file is that
    /// names them. Looks at the disk for folders.
    pub fn parse(text: &str, base: &Path) -> Result<Self, PinError> {
        let text = text.trim();
        let unknown = || PinError::Unknown(text.chars().take(200).collect());
        if text.is_empty() || text.len() > MAX_REFERENCE_BYTES || text.chars().any(char::is_control) {
            return Err(unknown());
        }
        if let Some(found) = commit(text)? {
            return Ok(found);
        }
        if let Some(path) = text.strip_prefix("path:") {
            return folder(Path::new(path), base);
        }
        if text.starts_with(['/', '.', '~']) || (!text.contains(':') && base.join(text).is_dir()) {
            return folder(&home_expanded(text), base);
        }
        // Everything else with a scheme, and names of the registry, mean something to Nix or nothing at all.
        let is_registry = text == "nixpkgs" || text.starts_with("nixpkgs/");
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        let is_scheme = scheme.is_some_and(|scheme| {
            scheme.starts_with(|c: char| c.is_ascii_lowercase())
                && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        });
        if is_registry || is_scheme { Ok(Self::Flake(text.to_owned())) } else { Err(unknown()) }
    }

    /// The same with everything said that can be: a known commit has a hash.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self {
            Self::Commit { repository, commit, hash: None }
                if *repository == self::repository() && commit == DEFAULT_COMMIT =>
            {
                Self::default()
            }
            other => other.clone(),
        }
    }

    /// Whether it is still there, where that can be seen without Nix.
    pub fn check(&self) -> Result<(), PinError> {
        match self {
            Self::Path(path) => folder(path, Path::new("/")).map(drop),
            Self::Commit { .. } | Self::Flake(_) => Ok(()),
        }
    }
}

impl fmt::Display for Nixpkgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit { repository, commit, hash } => {
                write!(f, "github:{repository}/{commit}")?;
                hash.as_ref().map_or(Ok(()), |hash| write!(f, "?narHash={hash}"))
            }
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Flake(reference) => f.write_str(reference),
        }
    }
}

fn repository() -> String {
    "NixOS/nixpkgs".to_owned()
}

/// `COMMIT`, `COMMIT:sha256-...`, `github:OWNER/REPO/COMMIT` and the same with `?narHash=sha256-...`.
fn commit(text: &str) -> Result<Option<Nixpkgs>, PinError> {
    let (repository, commit, hash) = if let Some(rest) = text.strip_prefix("github:") {
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let mut parts = path.split('/');
        let (Some(owner), Some(name), Some(commit), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let is_word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if !is_commit(commit) || !is_word(owner) || !is_word(name) {
            return Ok(None);
        }
        let hash = match query.map(|query| (query, query.strip_prefix("narHash="))) {
            None => None,
            Some((_, Some(hash))) => Some(hash.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")),
            // Other parameters are Nix's to understand.
            Some((_, None)) => return Ok(None),
        };
        let official = owner.eq_ignore_ascii_case("nixos") && name == "nixpkgs";
        (if official { self::repository() } else { format!("{owner}/{name}") }, commit, hash)
    } else {
        let (commit, hash) = text.split_once(':').map_or((text, None), |(commit, hash)| (commit, Some(hash)));
        if !is_commit(commit) {
            return Ok(None);
        }
        (repository(), commit, hash.map(str::to_owned))
    };
    if let Some(hash) = hash.as_ref().filter(|hash| !is_hash(hash)) {
        return Err(PinError::Hash(hash.chars().take(200).collect()));
    }
    Ok(Some(Nixpkgs::Commit { repository, commit: commit.to_lowercase(), hash }))
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `sha256-` and 32 bytes in base 64.
fn is_hash(text: &str) -> bool {
    text.strip_prefix("sha256-").and_then(|rest| rest.strip_suffix('=')).is_some_and(|digits| {
        digits.len() == 43
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
    })
}

fn home_expanded(text: &str) -> PathBuf {
    let rest = match text.strip_prefix('~') {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('/'),
        None => None,
    };
    match (rest, std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => text.into(),
    }
}

fn folder(path: &Path, base: &Path) -> Result<Nixpkgs, PinError> {
    let path = base.join(path);
    let cannot = |why: &str| PinError::Path { path: path.clone(), why: why.to_owned() };
    let real = path.canonicalize().map_err(|error| cannot(&error.to_string()))?;
    if !real.is_dir() {
        return Err(cannot("it is not a folder"));
    }
    // It becomes a text in an expression and in our records.
    if real.to_str().is_none_or(|path| path.chars().any(char::is_control)) {
        return Err(cannot("its path is not UTF-8"));
    }
    if real.join("default.nix").is_file() { Ok(Nixpkgs::Path(real)) } else { Err(PinError::NotNixpkgs(real)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parsed(text: &str) -> Nixpkgs {
        Nixpkgs::parse(text, Path::new("/")).unwrap()
    }

    fn of(repository: &str, hash: Option<&str>) -> Nixpkgs {
        Nixpkgs::Commit {
            repository: repository.to_owned(),
            commit: COMMIT.to_owned(),
            hash: hash.map(str::to_owned),
        }
    }

    #[test]
    fn a_commit_has_several_spellings() {
        let official = |hash| of("NixOS/nixpkgs", hash);
        assert_eq!(parsed(COMMIT), official(None));
        assert_eq!(parsed(&COMMIT.to_uppercase()), official(None));
        assert_eq!(parsed(&format!("{COMMIT}:{DEFAULT_HASH}")), official(Some(DEFAULT_HASH)));
        assert_eq!(parsed(&format!("github:nixos/nixpkgs/{COMMIT}")), official(None));
        let encoded = DEFAULT_HASH.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        for hash in [DEFAULT_HASH, encoded.as_str()] {
            let text = format!("github:me/fork/{COMMIT}?narHash={hash}");
            assert_eq!(parsed(&text), of("me/fork", Some(DEFAULT_HASH)));
        }
    }

    #[test]
    fn the_default_is_whole_and_a_shorter_spelling_of_it_becomes_it() {
        assert!(is_commit(DEFAULT_COMMIT) && is_hash(DEFAULT_HASH));
        assert_eq!(parsed(DEFAULT_COMMIT).canonical(), Nixpkgs::default());
        assert_eq!(parsed(&Nixpkgs::default().to_string()), Nixpkgs::default());
    }

    #[test]
    fn flake_references_are_left_to_nix() {
        for text in [
            "github:NixOS/nixpkgs/nixos-26.05",
            "github:NixOS/nixpkgs",
            "git+https://example.org/nixpkgs?ref=main",
            "nixpkgs",
            "nixpkgs/nixos-unstable",
            "https://example.org/nixpkgs.tar.gz",
        ] {
            assert_eq!(parsed(text), Nixpkgs::Flake(text.to_owned()));
        }
    }

    #[test]
    fn folders_are_relative_to_whoever_names_them_and_hold_nixpkgs() {
        let temp = TempDir::new();
        let real = temp.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("set")).unwrap();
        let wrong = Nixpkgs::parse("./set", &real).unwrap_err();
        assert_eq!(wrong, PinError::NotNixpkgs(real.join("set")));
        std::fs::write(real.join("set/default.nix"), "{ }").unwrap();
        for text in ["set", "./set", "path:set", "path:./set", "../set/../set"] {
            let base = if text.starts_with("..") { real.join("set") } else { real.clone() };
            assert_eq!(Nixpkgs::parse(text, &base).unwrap(), Nixpkgs::Path(real.join("set")), "{text}");
        }
        let missing = Nixpkgs::parse("./nowhere", &real).unwrap_err().to_string();
        assert!(missing.contains("nowhere cannot be used: No such file"), "{missing}");
        let file = Nixpkgs::parse("./set/default.nix", &real).unwrap_err().to_string();
        assert!(file.contains("not a folder"), "{file}");
        std::fs::remove_dir_all(real.join("set")).unwrap();
        assert!(Nixpkgs::Path(real.join("set")).check().is_err());
    }

    #[test]
    fn what_is_none_of_these_is_refused() {
        for text in ["", "  ", "abc123", "25.11", "git hub:x", "a\nb:c", "C:\\nixpkgs"] {
            assert!(matches!(Nixpkgs::parse(text, Path::new("/")), Err(PinError::Unknown(_))), "{text:?}");
        }
        let error = Nixpkgs::parse(&format!("{COMMIT}:sha256-short"), Path::new("/")).unwrap_err();
        assert_eq!(error, PinError::Hash("sha256-short".to_owned()));
    }

    #[test]
    fn it_reads_well_in_a_record() {
        let json = |pin: &Nixpkgs| serde_json::to_string(pin).unwrap();
        let path = Nixpkgs::Path("/src/nixpkgs".into());
        assert_eq!(json(&path), r#"{"path":"/src/nixpkgs"}"#);
        let commit = of("NixOS/nixpkgs", None);
        assert_eq!(
            json(&commit),
            format!(r#"{{"commit":{{"repository":"NixOS/nixpkgs","commit":"{COMMIT}"}}}}"#)
        );
        assert_eq!(serde_json::from_str::<Nixpkgs>(&json(&commit)).unwrap(), commit);
    }
}
