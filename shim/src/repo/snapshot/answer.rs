//! What the program inside says, read as if the agent had written it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::repo::{
    object_id::{ObjectFormat, ObjectId},
    refs::RefName,
};

/// Where snapshots are inside.
pub(crate) const INSIDE: &str = "refs/agents/snapshots/";

/// Worktrees in an answer.
const MAX_WORKTREES: usize = 257;

/// Files that are named among those left out, of one worktree.
const MAX_NAMED: usize = 100;

/// A text in an answer, bytes.
const MAX_TEXT_BYTES: usize = 32 * 1024;

/// Snapshots in a list.
const MAX_LISTED: usize = 20_000;

/// What became of one worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its name; the main one is `main`.
    pub worktree: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What is not in it. From inside: show it sanitised.
    pub left_out: Vec<LeftOut>,
    /// How many more than those are not in it.
    pub left_out_more: u64,
}

/// The same without the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// There is a new one.
    Taken(Taken),
    /// All is as in the last one.
    Unchanged {
        /// Its moment.
        at_ms: u64,
    },
    /// All is as in the checked-out commit.
    Clean,
    /// There is none.
    Failed {
        /// A word for programs.
        why: String,
        /// For people. From inside: show it sanitised.
        message: String,
    },
}

/// A new snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Its moment, in milliseconds since 1970: its name.
    pub at_ms: u64,
    /// Its commit.
    pub commit: String,
    /// Files that differ from the commit it was made on.
    pub changed: u64,
    /// Bytes that were new.
    pub new_bytes: u64,
    /// Older ones that went.
    pub expired: u64,
}

/// A file that is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Where it is.
    pub path: String,
    /// Why.
    pub why: String,
}

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Of which worktree.
    pub worktree: String,
    /// Its moment.
    pub at_ms: u64,
    /// Its commit.
    pub commit: String,
    /// Files that differ from the commit it was made on, as it says itself.
    pub changed: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The program says so.
    Said { why: String, message: String },
    /// It makes no sense.
    Nonsense,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Answer {
    Snapshots(Vec<Raw>),
    List(Vec<Listed>),
    Error(RawFailure),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFailure {
    why: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    worktree: String,
    outcome: Word,
    left_out: Vec<LeftOut>,
    left_out_more: u64,
    at_ms: Option<u64>,
    commit: Option<String>,
    changed: Option<u64>,
    new_bytes: Option<u64>,
    expired: Option<u64>,
    why: Option<String>,
    message: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Taken,
    Unchanged,
    Clean,
    Failed,
}

/// The answer to `take`.
pub(super) fn reports(line: &[u8]) -> Result<Vec<Report>, Refusal> {
    let raw = match parse(line)? {
        Answer::Snapshots(raw) if !raw.is_empty() && raw.len() <= MAX_WORKTREES => raw,
        _ => return Err(Refusal::Nonsense),
    };
    let mut seen = BTreeSet::new();
    let one = |raw: Raw| report(raw).filter(|report| seen.insert(report.worktree.clone()));
    raw.into_iter().map(one).collect::<Option<_>>().ok_or(Refusal::Nonsense)
}

/// The answer to `list`.
pub(super) fn list(line: &[u8]) -> Result<Vec<Listed>, Refusal> {
    let mut list = match parse(line)? {
        Answer::List(list) if list.len() <= MAX_LISTED => list,
        _ => return Err(Refusal::Nonsense),
    };
    list.sort();
    let twice =
        list.windows(2).any(|two| (&two[0].worktree, two[0].at_ms) == (&two[1].worktree, two[1].at_ms));
    let fine = list.iter().all(|one| is_worktree(&one.worktree) && is_commit(&one.commit));
    if fine && !twice { Ok(list) } else { Err(Refusal::Nonsense) }
}

fn parse(line: &[u8]) -> Result<Answer, Refusal> {
    match serde_json::from_slice(line) {
        Ok(Answer::Error(RawFailure { why, message }))
            if is_word(&why) && message.len() <= MAX_TEXT_BYTES =>
        {
            Err(Refusal::Said { why, message })
        }
        Ok(answer) => Ok(answer),
        Err(_) => Err(Refusal::Nonsense),
    }
}

fn report(raw: Raw) -> Option<Report> {
    let Raw {
        worktree,
        outcome,
        left_out,
        left_out_more,
        at_ms,
        commit,
        changed,
        new_bytes,
        expired,
        why,
        message,
    } = raw;
    let outcome = match (outcome, at_ms, commit, changed, new_bytes, expired, why, message) {
        (
            Word::Taken,
            Some(at_ms),
            Some(commit),
            Some(changed),
            Some(new_bytes),
            Some(expired),
            None,
            None,
        ) => is_commit(&commit).then_some(Outcome::Taken(Taken {
            at_ms,
            commit,
            changed,
            new_bytes,
            expired,
        }))?,
        (Word::Unchanged, Some(at_ms), None, None, None, None, None, None) => Outcome::Unchanged { at_ms },
        (Word::Clean, None, None, None, None, None, None, None) => Outcome::Clean,
        (Word::Failed, None, None, None, None, None, Some(why), Some(message)) => {
            (is_word(&why) && message.len() <= MAX_TEXT_BYTES).then_some(Outcome::Failed { why, message })?
        }
        _ => return None,
    };
    let named = |one: &LeftOut| is_word(&one.why) && one.path.len() <= MAX_TEXT_BYTES;
    let fine = is_worktree(&worktree) && left_out.len() <= MAX_NAMED && left_out.iter().all(named);
    fine.then_some(Report { worktree, outcome, left_out, left_out_more })
}

/// A name that a ref can have as one of its parts.
pub(crate) fn is_worktree(name: &str) -> bool {
    !name.contains('/') && RefName::parse(format!("{INSIDE}{name}/1").as_bytes()).is_some()
}

fn is_commit(text: &str) -> bool {
    ObjectId::parse(text.as_bytes(), ObjectFormat::Sha1).is_some()
}

fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "1111111111111111111111111111111111111111";

    fn taken(worktree: &str) -> String {
        format!(
            r#"{{"worktree":"{worktree}","outcome":"taken","at_ms":5,"commit":"{COMMIT}","changed":1,"new_bytes":2,"expired":0,"left_out":[{{"path":"x","why":"too-large"}}],"left_out_more":0}}"#
        )
    }

    fn answer(reports: &[&str]) -> String {
        format!(r#"{{"snapshots":[{}]}}"#, reports.join(","))
    }

    #[test]
    fn answers_are_read() {
        let clean = r#"{"worktree":"fix","outcome":"clean","left_out":[],"left_out_more":0}"#;
        let same = r#"{"worktree":"x","outcome":"unchanged","at_ms":4,"left_out":[],"left_out_more":0}"#;
        let failed = r#"{"worktree":"y","outcome":"failed","why":"disk-full","message":"m","left_out":[],"left_out_more":0}"#;
        let read = reports(answer(&[&taken("main"), clean, same, failed]).as_bytes()).unwrap();
        let Outcome::Taken(first) = &read[0].outcome else { panic!("{read:?}") };
        assert_eq!((first.at_ms, first.changed, read[0].left_out.len()), (5, 1, 1));
        assert_eq!((&read[1].outcome, &read[2].outcome), (&Outcome::Clean, &Outcome::Unchanged { at_ms: 4 }));
        assert!(matches!(&read[3].outcome, Outcome::Failed { why, .. } if why == "disk-full"));
        let error = reports(br#"{"error":{"why":"bare","message":"no"}}"#).unwrap_err();
        assert_eq!(error, Refusal::Said { why: "bare".to_owned(), message: "no".to_owned() });
        let listed =
            format!(r#"{{"list":[{{"worktree":"main","at_ms":2,"commit":"{COMMIT}","changed":0}}]}}"#);
        assert_eq!(list(listed.as_bytes()).unwrap()[0].at_ms, 2);
    }

    #[test]
    fn nothing_else_is() {
        let good = answer(&[&taken("main")]);
        assert!(reports(good.as_bytes()).is_ok());
        for end in 0..good.len() {
            assert_eq!(reports(&good.as_bytes()[..end]), Err(Refusal::Nonsense));
        }
        for (from, to) in [
            ("main", "../x"),
            ("main", "a/b"),
            ("main", "a\\u001b"),
            ("main", ""),
            ("main", "x.lock"),
            ("1111", "zzzz"),
            ("\"at_ms\":5", "\"at_ms\":-5"),
            ("\"changed\":1", "\"changed\":1,\"more\":1"),
            ("\"changed\":1,", ""),
            ("too-large", "TOO LARGE"),
            ("taken", "clean"),
            ("snapshots", "list"),
            ("\"left_out_more\":0", "\"left_out_more\":0,\"why\":\"x\""),
        ] {
            assert!(good.contains(from), "{from}");
            assert_eq!(reports(good.replace(from, to).as_bytes()), Err(Refusal::Nonsense), "{from} {to}");
        }
        assert!(reports(answer(&[&taken("a"), &taken("a")]).as_bytes()).is_err(), "twice");
        assert!(reports(br#"{"snapshots":[]}"#).is_err());
        assert!(reports(br#"{"error":{"why":"A B","message":""}}"#).is_err());
        assert!(reports(&vec![b'['; 100_000]).is_err(), "deep");
    }
}
