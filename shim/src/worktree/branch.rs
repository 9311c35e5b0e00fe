//! The branch of a worktree, and what else is called after it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::FOLDER;
use crate::{isolation::plan::WORKSPACE, repo::RefName};

/// Longest name of a branch, bytes: each of its parts becomes a folder.
pub(crate) const MAX_BRANCH_BYTES: usize = 200;

/// What the units of all worktrees begin with.
const UNIT_PREFIX: &str = "worktree.";

/// Longest name of a unit, bytes; init and file names want it so.
const MAX_UNIT_BYTES: usize = 63;

/// How much of a branch's name is seen in a unit whose name had to be made up.
const SEEN_BYTES: usize = 24;

/// A branch that git allows, and that no program takes for an option.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Branch(String);

/// The name cannot be that of a branch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be the branch of a worktree: {1}")]
pub struct BranchError(String, &'static str);

impl Branch {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its worktree is inside.
    pub fn path(&self) -> String {
        format!("{WORKSPACE}/{FOLDER}/{}", self.0)
    }

    /// The unit of its session, as fit for a file name. No two branches have the same: git allows no name with `..` in it,
    /// so that can stand for a slash; every other name gets a hash behind `...`, which no slash leads to.
    pub fn unit(&self) -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let spelled = format!("{UNIT_PREFIX}{}", self.0.replace('/', ".."));
        if spelled.bytes().all(plain) && spelled.len() <= MAX_UNIT_BYTES && !self.0.contains("./") {
            return spelled;
        }
        let seen: String = self.0.bytes().filter(|b| plain(*b)).take(SEEN_BYTES).map(char::from).collect();
        let hash = Sha256::digest(self.0.as_bytes());
        let hash: String = hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        format!("{UNIT_PREFIX}{seen}...{hash}")
    }

    /// Whether the worktree of one would be within that of the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        within(&self.0, &other.0) || within(&other.0, &self.0)
    }
}

impl FromStr for Branch {
    type Err = BranchError;

    fn from_str(name: &str) -> Result<Self, BranchError> {
        let wrong = |why| Err(BranchError(name.to_owned(), why));
        if name.starts_with('-') {
            return wrong("it would be taken for an option");
        }
        // git-check-ref-format(1) refuses the first, and means something else by the others.
        if matches!(name, "HEAD" | "@") || name.starts_with("refs/") {
            return wrong("git means something else by it");
        }
        if name.len() > MAX_BRANCH_BYTES {
            return wrong("it is longer than 200 bytes");
        }
        match RefName::parse(format!("refs/heads/{name}").as_bytes()) {
            Some(_) => Ok(Self(name.to_owned())),
            None => wrong("git allows no such name"),
        }
    }
}

impl TryFrom<String> for Branch {
    type Error = BranchError;

    fn try_from(name: String) -> Result<Self, BranchError> {
        name.parse()
    }
}

impl From<Branch> for String {
    fn from(branch: Branch) -> Self {
        branch.0
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agent_protocol::spec::Agent;

    use super::*;

    fn branch(name: &str) -> Branch {
        name.parse().unwrap()
    }

    #[test]
    fn units_are_readable_where_they_can_be() {
        assert_eq!(branch("fix").unit(), "worktree.fix");
        assert_eq!(branch("feature/login-2").unit(), "worktree.feature..login-2");
        assert_eq!(branch("fix").path(), "/workspace/.worktrees/fix");
        let made_up = branch("f\u{fc}r/alle").unit();
        assert!(made_up.starts_with("worktree.fralle..."), "{made_up}");
    }

    #[test]
    fn no_two_branches_meet_in_one_unit() {
        let long = "x".repeat(100);
        let names = [
            "a/b",
            "a-b",
            "a.b",
            "a_b",
            "A/b",
            "a./b",
            "a/b.c",
            "a.-/b",
            "a./.b",
            "ab",
            "\u{e4}b",
            "b\u{e4}",
            "a+b",
            "a=b",
            &long,
            &long[1..],
            &format!("{long}/a"),
            "fralle",
            "a...b",
        ];
        let units: Vec<String> =
            names.iter().filter_map(|name| name.parse::<Branch>().ok()).map(|branch| branch.unit()).collect();
        assert_eq!(units.iter().collect::<BTreeSet<_>>().len(), units.len(), "{units:?}");
        for unit in units {
            Agent::further(&unit, r#"{"argv": ["a"], "terminal": {}}"#, None).unwrap();
        }
    }

    #[test]
    fn what_git_does_not_allow_is_refused() {
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            "../x",
            "a..b",
            ".a",
            "a/.b",
            "a.lock",
            "a b",
            "a\tb",
            "a\nb",
            "a\u{7f}",
            "\u{1b}[2J",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[b",
            "a\\b",
            "@{-1}",
            "@",
            "HEAD",
            "-",
            "-x",
            "--force",
            "refs/heads/x",
            ".git",
            "a/.GIT",
            &"x".repeat(201),
        ] {
            assert!(name.parse::<Branch>().is_err(), "{name:?}");
        }
        assert!(serde_json::from_str::<Branch>(r#""../x""#).is_err());
    }

    #[test]
    fn one_worktree_within_another_is_seen() {
        assert!(branch("a").overlaps(&branch("a/b")) && branch("a/b").overlaps(&branch("a")));
        assert!(branch("a").overlaps(&branch("a")));
        assert!(!branch("a").overlaps(&branch("ab")) && !branch("a/b").overlaps(&branch("a/c")));
    }
}
