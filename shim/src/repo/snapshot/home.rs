//! Snapshots that came home: in the person's own repository, read by their own git.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use super::{
    answer::{Listed, is_worktree},
    objects::Objects,
};
use crate::{
    repo::{
        check,
        home::{HomeError, HomeRepository},
        host_git::{GitError, HostGit},
        object_id::ObjectId,
        refs,
    },
    sandbox::name::Name,
    terminal::sanitize::SanitizingWriter,
};

/// Private memory of git, bytes.
const MEMORY_BYTES: u64 = 2 << 30;

/// The list of them with all they say, bytes.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;

/// What changed in one of them, bytes.
const MAX_CHANGES_BYTES: usize = 256 * 1024 * 1024;

/// Stands before the number of changed files.
const CHANGED: &str = "Files-Changed: ";

/// A repository with snapshots of one sandbox.
pub struct AtHome {
    git: HostGit,
    home: HomeRepository,
    namespace: String,
    until: Instant,
}

/// Why they cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AtHomeError {
    /// It is what the agent writes: it is never opened.
    #[error("{} is what the agent itself writes", .0.display())]
    AgentsOwn(PathBuf),
    /// It is no repository.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Nobody reads any more what is shown.
    #[error("writing what changed")]
    Shown(#[source] io::Error),
    /// Git says something else than it should.
    #[error("git describes a snapshot in a way that this agent-shim does not understand")]
    Answer,
}

/// One file of a snapshot that differs from the commit it was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFile {
    /// `A`, `M`, `D` or `T`: added, modified, deleted, of another type.
    pub status: char,
    /// From inside: show it sanitised.
    pub path: Vec<u8>,
    /// Lines that came and went; none of what has no lines.
    pub lines: Option<(u64, u64)>,
}

/// A snapshot's commit and what it was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The commit that was checked out, if there was one.
    pub on: Option<ObjectId>,
    /// What it says of itself. From inside: show it sanitised.
    pub message: Vec<u8>,
}

impl AtHome {
    /// Those of a sandbox in the repository that `folder` is in.
    pub fn open(
        name: &Name,
        folder: &Path,
        agents_own: &[PathBuf],
        until: Instant,
    ) -> Result<Self, AtHomeError> {
        let is_agents = |path: &Path| agents_own.iter().any(|own| path.starts_with(own));
        let git = HostGit::find(MEMORY_BYTES)?;
        let home = HomeRepository::of(&git, folder, &is_agents, until).map_err(|error| match error {
            HomeError::Forbidden(place) => AtHomeError::AgentsOwn(place),
            error => error.into(),
        })?;
        Ok(Self { git, home, namespace: refs::namespace(name), until })
    }

    /// All of them, by worktree and moment.
    pub fn list(&self) -> Result<Vec<Listed>, AtHomeError> {
        let place = format!("{}snapshots/", self.namespace);
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["for-each-ref", "--format=%(objectname) %(refname)%0a%(contents)%00", &place]);
        let said = self.git.start(command, "for-each-ref", self.until)?.output(MAX_LIST_BYTES)?;
        let one = |text: &[u8]| {
            let mut lines = text.split(|byte| *byte == b'\n');
            let (commit, name) = lines.next()?.split_at_checked(self.digits())?;
            let name = std::str::from_utf8(name.strip_prefix(b" ")?).ok()?.strip_prefix(&place)?;
            let (worktree, moment) = name.split_once('/')?;
            let at_ms: u64 = moment.parse().ok()?;
            let changed = lines.find_map(|line| {
                std::str::from_utf8(line.strip_prefix(CHANGED.as_bytes())?).ok()?.parse().ok()
            });
            let is_ours = is_worktree(worktree) && at_ms.to_string() == moment;
            let commit = ObjectId::parse(commit, self.home.format)?.to_string();
            is_ours.then(|| Listed {
                worktree: worktree.to_owned(),
                at_ms,
                commit,
                changed: changed.unwrap_or(0),
            })
        };
        // What somebody else put there has no part in this.
        let texts = said.split(|byte| *byte == 0).map(|text| text.strip_prefix(b"\n").unwrap_or(text));
        let mut list: Vec<Listed> = texts.filter_map(one).collect();
        list.sort();
        Ok(list)
    }

    /// What a snapshot is.
    pub fn made(&self, commit: &str) -> Result<Made, AtHomeError> {
        let mut objects = self.objects()?;
        let content = objects.commit(commit)?;
        let end = content.windows(2).position(|two| two == b"\n\n").ok_or(AtHomeError::Answer)?;
        let parent =
            content[..end].split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"parent "));
        let on =
            parent.map(|id| ObjectId::parse(id, self.home.format).ok_or(AtHomeError::Answer)).transpose()?;
        Ok(Made { on, message: content[end + 2..].to_vec() })
    }

    /// The files in which it differs from the commit it was made on.
    pub fn changes(&self, commit: &str, made: &Made) -> Result<Vec<ChangedFile>, AtHomeError> {
        let command = self.diff(commit, made, &["--raw", "--numstat", "-z"]);
        let said = self.git.start(command, "diff-tree", self.until)?.output(MAX_CHANGES_BYTES)?;
        changed_files(&said).ok_or(AtHomeError::Answer)
    }

    /// Writes the same as a patch, in which nothing controls a terminal.
    pub fn patch(&self, commit: &str, made: &Made, into: impl Write) -> Result<(), AtHomeError> {
        let command = self.diff(commit, made, &["-p"]);
        let mut running = self.git.start(command, "diff-tree", self.until)?;
        let mut safe = SanitizingWriter::new(into);
        let mut piece = vec![0; 64 * 1024];
        loop {
            match running.read(&mut piece)? {
                0 => break,
                count => safe.write_all(&piece[..count]).map_err(AtHomeError::Shown)?,
            }
        }
        running.wait()?;
        safe.finish().map_err(AtHomeError::Shown)?;
        Ok(())
    }

    /// Its objects, to be read one by one.
    pub fn objects(&self) -> Result<Objects, GitError> {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["cat-file", "--batch"]).stdin(Stdio::piped());
        Ok(Objects::new(self.git.start(command, "cat-file", self.until)?, self.digits()))
    }

    fn diff(&self, commit: &str, made: &Made, how: &[&str]) -> std::process::Command {
        let mut command = self.git.on(&self.home.git_dir);
        command.args(["diff-tree", "-r", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color"]);
        let on = made.on.as_ref().map_or(check::empty_tree(self.home.format), ObjectId::as_str);
        command.args(how).args([on, commit, "--"]);
        command
    }

    fn digits(&self) -> usize {
        self.home.format.null().len()
    }
}

/// Git's own description, in which every text ends with a NUL: first states, then numbers.
fn changed_files(said: &[u8]) -> Option<Vec<ChangedFile>> {
    let mut texts = said.strip_suffix(&[0]).unwrap_or(said).split(|byte| *byte == 0).peekable();
    let mut files = Vec::new();
    while let Some(state) = texts.next_if(|text| text.starts_with(b":")) {
        let status = char::from(*state.rsplit(|byte| *byte == b' ').next()?.first()?);
        files.push(ChangedFile { status, path: texts.next()?.to_vec(), lines: None });
    }
    for text in texts.filter(|text| !text.is_empty()) {
        let mut words = text.splitn(3, |byte| *byte == b'\t');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let lines = (number(), number());
        let path = words.next()?;
        let at = files.binary_search_by(|file| file.path.as_slice().cmp(path));
        let file = match at {
            Ok(at) => files.get_mut(at)?,
            // Git's order is that of trees, which differs where a file is called like the beginning of a folder.
            Err(_) => files.iter_mut().find(|file| file.path == path)?,
        };
        file.lines = lines.0.zip(lines.1);
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_of_files_is_read() {
        let said = b":100644 100644 1 2 M\0a\0:000000 100755 0 3 A\0b\tc\n\0:100644 000000 1 0 D\0z\0\
            1\t2\ta\0-\t-\tb\tc\n\x000\t7\tz\0";
        let read: Vec<_> = changed_files(said)
            .unwrap()
            .into_iter()
            .map(|file| (file.status, file.path, file.lines))
            .collect();
        let expected = [
            ('M', b"a".to_vec(), Some((1, 2))),
            ('A', b"b\tc\n".to_vec(), None),
            ('D', b"z".to_vec(), Some((0, 7))),
        ];
        assert_eq!(read, expected);
        assert_eq!(changed_files(b""), Some(Vec::new()));
        assert_eq!(changed_files(b":1 2 M\0"), None);
        assert_eq!(changed_files(b"1\t2\tnowhere\0"), None);
    }
}
