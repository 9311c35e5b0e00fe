//! What a client asks for, line by line, bounded.

use std::collections::HashSet;

use crate::serve::{
    id::Id,
    trouble::{Outcome, Trouble},
};

/// Objects that are wanted.
const MAX_WANTS: usize = 1_200_000;

/// Objects that a client says it has, in one request; git says a few thousand.
const MAX_HAVES: usize = 1_000_000;

/// Commits at which a client's history ends.
const MAX_SHALLOW: usize = 1_000_000;

/// Refs that history is not to reach.
const MAX_NOT: usize = 1024;

/// To git, all of it.
pub(super) const ALL: u32 = 0x7fff_ffff;

/// A wish for objects.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) wants: Vec<Id>,
    wanted: HashSet<Id>,
    pub(super) haves: Vec<Id>,
    pub(super) shallow: HashSet<Id>,
    /// How many commits of history.
    pub(super) depth: Option<u32>,
    /// Counted from where the client's history ends now.
    pub(super) is_relative: bool,
    /// Commits that are not older.
    pub(super) since: Option<i64>,
    /// Commits that these refs do not reach.
    pub(super) not: Vec<Vec<u8>>,
    pub(super) done: bool,
    pub(super) wait_for_done: bool,
    pub(super) thin: bool,
    pub(super) distances: bool,
    pub(super) include_tag: bool,
    pub(super) no_progress: bool,
}

impl Wish {
    /// Takes one line; `false` where it says something else.
    pub(super) fn take(&mut self, line: &[u8]) -> Outcome<bool> {
        let (word, value) = match line.iter().position(|byte| *byte == b' ') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        match word {
            b"want" => {
                let id = id(value)?;
                if self.wanted.insert(id) {
                    bound(self.wants.len(), MAX_WANTS, "wants")?;
                    self.wants.push(id);
                }
            }
            b"have" => {
                bound(self.haves.len(), MAX_HAVES, "haves")?;
                self.haves.push(id(value)?);
            }
            b"shallow" => {
                bound(self.shallow.len(), MAX_SHALLOW, "shallow commits")?;
                self.shallow.insert(id(value)?);
            }
            b"deepen" => match number(value)? {
                // Nothing, as if it had not been said.
                0 => {}
                depth => self.depth = Some(u32::try_from(depth).unwrap_or(ALL).min(ALL)),
            },
            b"deepen-since" => {
                self.since = Some(i64::try_from(number(value)?).unwrap_or(i64::MAX));
            }
            b"deepen-not" => {
                bound(self.not.len(), MAX_NOT, "refs to leave out")?;
                self.not.push(value.to_vec());
            }
            b"deepen-relative" => self.is_relative = true,
            _ if !value.is_empty() => return Ok(false),
            b"done" => self.done = true,
            word => return Ok(self.ability(word)),
        }
        Ok(true)
    }

    /// Something that a client can do, or wants to be done.
    pub(super) fn ability(&mut self, word: &[u8]) -> bool {
        match word {
            b"thin-pack" => self.thin = true,
            b"ofs-delta" => self.distances = true,
            b"include-tag" => self.include_tag = true,
            b"no-progress" => self.no_progress = true,
            b"wait-for-done" => self.wait_for_done = true,
            b"deepen-relative" => self.is_relative = true,
            _ => return false,
        }
        true
    }

    /// Whether anything is said about how long history is to be.
    pub(super) fn deepens(&self) -> bool {
        self.depth.is_some() || self.since.is_some() || !self.not.is_empty()
    }
}

pub(super) fn id(text: &[u8]) -> Outcome<Id> {
    Id::from_hex(text).ok_or_else(|| {
        Trouble::said(format!("`{}` names no object", String::from_utf8_lossy(&text[..text.len().min(80)])))
    })
}

fn number(text: &[u8]) -> Outcome<u64> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Trouble::said("a number was expected"))
}

fn bound(count: usize, most: usize, what: &str) -> Outcome<()> {
    if count >= most { Err(Trouble::said(format!("more than {most} {what}"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_understood_or_refused() {
        let mut wish = Wish::default();
        let hex = "0123456789abcdef0123456789abcdef01234567";
        for line in ["want", "have", "shallow"].map(|word| format!("{word} {hex}")) {
            assert!(wish.take(line.as_bytes()).unwrap());
            assert!(wish.take(line.as_bytes()).unwrap());
        }
        assert_eq!((wish.wants.len(), wish.haves.len(), wish.shallow.len()), (1, 2, 1));
        assert!(
            wish.take(b"deepen 3").unwrap()
                && wish.take(b"thin-pack").unwrap()
                && wish.take(b"done").unwrap()
        );
        assert_eq!((wish.depth, wish.thin, wish.done), (Some(3), true, true));
        assert!(
            wish.take(b"want x").is_err() && wish.take(b"deepen x").is_err() && wish.take(b"have ").is_err()
        );
        assert!(!wish.take(b"filter blob:none").unwrap() && !wish.take(b"").unwrap());
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_refused(line in "(want|have|deepen|shallow|deepen-since|x)? ?[0-9a-z ]{0,45}") {
            let _ = Wish::default().take(line.as_bytes());
        }
    }
}
