//! What is asked of git about objects in a quarantine: whether everything that they need is there, and what they
//! change.

use std::{collections::BTreeMap, process::Stdio, time::Instant};

use super::{
    host_git::{GitError, HostGit, Running},
    object_id::{ObjectFormat, ObjectId},
    quarantine::Quarantine,
};

/// Longest path that is taken, bytes: the kernel knows no longer one.
pub(crate) const MAX_PATH_BYTES: usize = 4095;

/// Folders of a path.
pub(crate) const MAX_PATH_DEPTH: usize = 512;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// Why objects are not taken.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Git cannot follow them, or something is missing.
    #[error("what it sent is not whole")]
    NotWhole(#[source] GitError),
    /// A path that is too long.
    #[error("it has a path of more than {MAX_PATH_BYTES} bytes")]
    LongPath,
    /// A path that is too deep.
    #[error("it has a path of more than {MAX_PATH_DEPTH} folders")]
    DeepPath,
}

/// What came, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// New commits.
    pub commits: u64,
    /// Objects that the other side sent.
    pub objects: u64,
}

/// Lines of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiffStat {
    /// Files.
    pub files: u64,
    /// Lines that came.
    pub insertions: u64,
    /// Lines that went.
    pub deletions: u64,
}

/// Follows everything that `tips` reach and `known` do not, and counts the commits. Fails where anything is missing.
pub(crate) fn follow(
    git: &HostGit,
    quarantine: &Quarantine,
    tips: &[ObjectId],
    known: &[ObjectId],
    until: Instant,
) -> Result<u64, CheckError> {
    let mut command = git.on(quarantine.git_dir());
    command.args(["rev-list", "--objects", "--stdin"]).stdin(Stdio::piped());
    let mut running = git.start(command, "rev-list", until).map_err(CheckError::NotWhole)?;
    let wanted = tips.iter().flat_map(|id| [id.as_str(), "\n"]);
    let input: String = wanted.chain(known.iter().flat_map(|id| ["^", id.as_str(), "\n"])).collect();
    running.write(input.as_bytes()).map_err(CheckError::NotWhole)?;
    running.end_input();
    let mut listing = Listing::default();
    let mut piece = vec![0; READ_BYTES];
    loop {
        match running.read(&mut piece).map_err(CheckError::NotWhole)? {
            0 => break,
            count => listing.take(&piece[..count])?,
        }
    }
    running.wait().map_err(CheckError::NotWhole)?;
    Ok(listing.commits)
}

/// The lines of `rev-list --objects`: an id alone is a commit, with a space and a path it is something else.
#[derive(Debug, Default)]
struct Listing {
    commits: u64,
    /// Bytes of this line, and folders in it.
    bytes: usize,
    folders: usize,
    has_path: bool,
}

impl Listing {
    fn take(&mut self, bytes: &[u8]) -> Result<(), CheckError> {
        for byte in bytes {
            match byte {
                b'\n' => {
                    self.commits += u64::from(!self.has_path);
                    (self.bytes, self.folders, self.has_path) = (0, 0, false);
                    continue;
                }
                b' ' if !self.has_path => (self.bytes, self.has_path) = (0, true),
                b'/' => self.folders += 1,
                _ => {}
            }
            self.bytes += 1;
            // With the space in front of it.
            if self.bytes > MAX_PATH_BYTES + 1 {
                return Err(CheckError::LongPath);
            }
            if self.folders > MAX_PATH_DEPTH {
                return Err(CheckError::DeepPath);
            }
        }
        Ok(())
    }
}

/// Begins to compare two commits, or the newer one with where it left the older one's history (`since_fork`).
pub(crate) fn ask_diff(
    git: &HostGit,
    quarantine: &Quarantine,
    (old, since_fork): (&str, bool),
    new: &ObjectId,
    until: Instant,
) -> Result<Running, GitError> {
    let mut command = git.on(quarantine.git_dir());
    command.args([
        "diff",
        "--shortstat",
        "--no-ext-diff",
        "--no-textconv",
        "-M",
        "-l200",
        "--ignore-submodules=none",
    ]);
    if since_fork {
        command.arg(format!("{old}...{new}"));
    } else {
        command.args([old, new.as_str()]);
    }
    command.arg("--");
    git.start(command, "diff", until)
}

/// The answer to [`ask_diff`]; `None` where git could not tell.
pub(crate) fn diff(asked: Running) -> Option<DiffStat> {
    let said = asked.output(READ_BYTES).ok()?;
    parse_shortstat(&String::from_utf8(said).ok()?)
}

/// ` 3 files changed, 10 insertions(+), 1 deletion(-)`, or nothing.
fn parse_shortstat(text: &str) -> Option<DiffStat> {
    let mut numbers = BTreeMap::new();
    for part in text.trim().split(", ").filter(|part| !part.is_empty()) {
        let (number, what) = part.split_once(' ')?;
        numbers.insert(what.get(..4)?, number.parse::<u64>().ok()?);
    }
    let number = |what| numbers.get(what).copied().unwrap_or(0);
    Some(DiffStat { files: number("file"), insertions: number("inse"), deletions: number("dele") })
}

/// The tree with nothing in it, which every git knows.
pub(crate) fn empty_tree(format: ObjectFormat) -> &'static str {
    match format {
        ObjectFormat::Sha1 => "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        ObjectFormat::Sha256 => "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_objects_are_counted_however_they_are_cut() {
        let id = "a".repeat(40);
        let text = format!("{id}\n{id} \n{id} src/-a/main file\n{id}\n");
        for size in [1, 7, 1000] {
            let mut listing = Listing::default();
            text.as_bytes().chunks(size).for_each(|piece| listing.take(piece).unwrap());
            assert_eq!(listing.commits, 2);
        }
    }

    #[test]
    fn paths_that_no_kernel_knows_are_refused() {
        let line = |path: &str| format!("{} {path}\n", "a".repeat(40));
        let take = |path: &str| Listing::default().take(line(path).as_bytes());
        take(&"a".repeat(MAX_PATH_BYTES)).unwrap();
        assert!(matches!(take(&"a".repeat(MAX_PATH_BYTES + 1)), Err(CheckError::LongPath)));
        take(&"a/".repeat(MAX_PATH_DEPTH)).unwrap();
        assert!(matches!(take(&"a/".repeat(MAX_PATH_DEPTH + 1)), Err(CheckError::DeepPath)));
    }

    #[test]
    fn what_git_says_of_a_change() {
        let stat = |files, insertions, deletions| Some(DiffStat { files, insertions, deletions });
        assert_eq!(parse_shortstat(" 3 files changed, 10 insertions(+), 1 deletion(-)\n"), stat(3, 10, 1));
        assert_eq!(parse_shortstat(" 1 file changed, 1 insertion(+)\n"), stat(1, 1, 0));
        assert_eq!(parse_shortstat(""), stat(0, 0, 0));
        assert_eq!(parse_shortstat("fatal: x"), None);
    }
}
