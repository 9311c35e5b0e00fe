use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    time::Instant,
};

use super::{MEMORY_BYTES, error::CloneError};
use crate::repo::{
    host_git::{GitError, HostGit},
    object_id::{ObjectFormat, ObjectId},
    refs::RefName,
};

/// Most bytes of what git says about a repository.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A repository of the person's, and what of it is cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The project: the repository's work tree, a folder in it, or the repository where it is bare.
    pub folder: PathBuf,
    /// Where the project is in the work tree; empty where it is all of it.
    pub below: PathBuf,
    /// Whether there is a work tree.
    pub has_work_tree: bool,
    /// What all worktrees share: refs, objects, configuration.
    pub(crate) git_dir: PathBuf,
    /// What this worktree has for itself: its index.
    pub(crate) own_dir: PathBuf,
    pub(crate) format: ObjectFormat,
    pub(crate) is_shallow: bool,
    pub(crate) head: Head,
    /// The commit that is cloned; none on a branch without a commit.
    pub(crate) commit: Option<ObjectId>,
    /// Whether that is what is checked out.
    pub(crate) is_checked_out: bool,
}

/// What the clone's HEAD is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A branch, by its whole name.
    Branch(RefName),
    /// A commit that is on no branch.
    Detached,
}

impl Head {
    /// The branch without `refs/heads/`.
    pub(crate) fn branch(&self) -> Option<&[u8]> {
        match self {
            Self::Branch(name) => name.strip_prefix("refs/heads/"),
            Self::Detached => None,
        }
    }
}

/// Whether a folder seems to be in a git repository. It costs no process, and git has the last word.
pub fn seems_to_be_in_a_repository(folder: &Path) -> bool {
    folder.ancestors().any(|place| place.join(".git").symlink_metadata().is_ok() || is_bare(place))
}

pub(super) fn is_bare(folder: &Path) -> bool {
    folder.join("HEAD").symlink_metadata().is_ok()
        && ["objects", "refs"].iter().all(|name| folder.join(name).is_dir())
}

impl Origin {
    /// The repository that `folder` is in, with this branch or what is checked out. None where git sees no repository.
    pub fn find(folder: &Path, branch: Option<&str>, until: Instant) -> Result<Option<Self>, CloneError> {
        let git = HostGit::find(MEMORY_BYTES)?;
        match Self::ask(&git, folder, branch, until) {
            // An older git stumbles over what we ask it.
            Err(CloneError::Git(error @ GitError::Refused { .. }) | CloneError::Broken(error)) => {
                git.check_version(until)?;
                Err(CloneError::Broken(error))
            }
            found => found,
        }
    }

    fn ask(
        git: &HostGit,
        folder: &Path,
        branch: Option<&str>,
        until: Instant,
    ) -> Result<Option<Self>, CloneError> {
        let asked = branch.map(|name| {
            let full = RefName::parse(format!("refs/heads/{name}").as_bytes());
            full.ok_or_else(|| CloneError::NotABranch(name.to_owned()))
        });
        let asked = asked.transpose()?;
        let tip = match &asked {
            Some(name) => format!("{name}^{{commit}}"),
            None => "HEAD^{commit}".to_owned(),
        };
        let args = [
            "rev-parse",
            "--path-format=absolute",
            "--show-object-format",
            "--is-bare-repository",
            "--is-inside-work-tree",
            "--is-shallow-repository",
            "--git-common-dir",
            "--git-dir",
            "--show-prefix",
            &tip,
            "--symbolic-full-name",
            "HEAD",
        ];
        let running = git.start(git.persons(folder, &args), "rev-parse", until)?;
        let (said, ended) = running.output_and_end(MAX_ANSWER_BYTES)?;
        let mut lines = said.split(|byte| *byte == b'\n');
        let (Some(format), Some(b"true" | b"false")) =
            (lines.next().and_then(ObjectFormat::named), lines.next())
        else {
            return match ended {
                Err(GitError::Refused { said, .. }) if said.contains("not a git repository") => Ok(None),
                Err(source @ GitError::Refused { .. })
                    if source.to_string().contains("dubious ownership") =>
                {
                    Err(CloneError::NotTrusted { folder: folder.to_owned(), source })
                }
                Err(error) => Err(error.into()),
                Ok(()) => Err(CloneError::Answer),
            };
        };
        let mut line = || lines.next().ok_or(CloneError::Answer);
        let has_work_tree = line()? == b"true";
        let is_shallow = line()? == b"true";
        let mut path = || Ok::<_, CloneError>(PathBuf::from(OsString::from_vec(line()?.to_vec())));
        let (git_dir, own_dir, below) = (path()?, path()?, path()?);
        // A path with a line end in it would be taken for two.
        if !git_dir.is_absolute() || !own_dir.is_absolute() || below.is_absolute() {
            return Err(CloneError::Answer);
        }
        let canonical =
            |path: PathBuf| path.canonicalize().map_err(CloneError::io("looking at the repository"));
        let (git_dir, own_dir) = (canonical(git_dir)?, canonical(own_dir)?);
        let commit = lines.next().and_then(|line| ObjectId::parse(line, format));
        let symbolic = lines.next().filter(|_| commit.is_some()).unwrap_or_default();
        let mut head =
            match RefName::parse(symbolic).filter(|name| name.strip_prefix("refs/heads/").is_some()) {
                Some(name) => Head::Branch(name),
                None => Head::Detached,
            };
        let mut is_checked_out = true;
        match (asked, &commit) {
            (Some(name), Some(_)) => {
                is_checked_out = head == Head::Branch(name.clone());
                head = Head::Branch(name);
            }
            (Some(_), None) => {
                return Err(CloneError::NoBranch(branch.unwrap_or_default().to_owned()));
            }
            (None, None) => head = unborn(git, folder, ended, until)?,
            (None, Some(_)) => {}
        }
        Ok(Some(Self {
            folder: folder.to_owned(),
            below,
            has_work_tree,
            git_dir,
            own_dir,
            format,
            is_shallow,
            head,
            commit,
            is_checked_out,
        }))
    }

    /// Refuses a repository that the project only claims.
    ///
    /// An agent that works in a project's folder may write there what git takes for the repository of another folder: a file
    /// `.git`, a link, the name of a common folder. The next sandbox would get a clone of that. So either the repository lies
    /// in the project, or it knows of the project, in a file that lies with it.
    pub fn check_own(&self, until: Instant) -> Result<(), CloneError> {
        let strange = || CloneError::NotOwn { folder: self.folder.clone(), repository: self.git_dir.clone() };
        if !self.has_work_tree {
            return if self.folder.starts_with(&self.git_dir) { Ok(()) } else { Err(strange()) };
        }
        let work_tree = self.work_tree();
        let dot_git = work_tree.join(".git");
        let found = dot_git.symlink_metadata().map_err(|_| strange())?;
        let is_own = if found.is_dir() {
            self.git_dir == dot_git && self.own_dir == dot_git
        } else if !found.is_file() {
            false
        } else if self.own_dir.parent() == Some(&self.git_dir.join("worktrees")) {
            // A linked worktree; git-worktree(1) says what that file is.
            let text = read_small(&self.own_dir.join("gitdir"));
            text.is_some_and(|text| self.own_dir.join(OsStr::from_bytes(text.trim_ascii_end())) == dot_git)
        } else {
            // A submodule.
            let git = HostGit::find(MEMORY_BYTES)?;
            let mut command = git.bare();
            command.args(["config", "--null", "--file"]).arg(self.own_dir.join("config"));
            command.args(["--get", "core.worktree"]).current_dir("/");
            let (said, _) = git.start(command, "config", until)?.output_and_end(MAX_ANSWER_BYTES)?;
            let there = self.own_dir.join(OsStr::from_bytes(said.strip_suffix(b"\0").unwrap_or(&said)));
            !said.is_empty() && there.canonicalize().is_ok_and(|there| there == work_tree)
        };
        if is_own { Ok(()) } else { Err(strange()) }
    }

    /// What would be cloned, for people.
    pub fn describe(&self) -> String {
        let branch = self.head.branch().map(|name| String::from_utf8_lossy(name).into_owned());
        let what = branch.unwrap_or_else(|| "what is checked out".to_owned());
        let at = self.commit.as_ref().map_or("no commit yet", |commit| commit.short());
        format!("{}: {what}, {at}", self.folder.display())
    }

    /// The whole work tree.
    pub(crate) fn work_tree(&self) -> PathBuf {
        let depth = self.below.components().count();
        self.folder.ancestors().nth(depth).unwrap_or(&self.folder).to_owned()
    }

    /// Where its objects are.
    pub(crate) fn objects(&self) -> PathBuf {
        self.git_dir.join("objects")
    }

    /// Whether objects may be missing, to be fetched when they are needed.
    pub(crate) fn is_partial(&self) -> bool {
        let packs = self.objects().join("pack").read_dir().into_iter().flatten().flatten();
        packs.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|kind| kind == "promisor"))
    }
}

fn read_small(path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut text = Vec::new();
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    (is_file && file.take(MAX_ANSWER_BYTES as u64).read_to_end(&mut text).is_ok()).then_some(text)
}

/// The branch that has no commit yet.
fn unborn(
    git: &HostGit,
    folder: &Path,
    ended: Result<(), GitError>,
    until: Instant,
) -> Result<Head, CloneError> {
    // It may also be one whose commit is gone.
    let args = ["rev-parse", "-q", "--verify", "HEAD"];
    let running = git.start(git.persons(folder, &args), "rev-parse", until)?;
    if running.output_and_end(MAX_ANSWER_BYTES)?.1.is_ok() {
        return Err(match ended {
            Err(error) => CloneError::Broken(error),
            Ok(()) => CloneError::Answer,
        });
    }
    let name = git.as_person(folder, &["symbolic-ref", "-q", "HEAD"], until)?;
    let name =
        RefName::parse(name.trim_ascii_end()).filter(|name| name.strip_prefix("refs/heads/").is_some());
    name.map(Head::Branch).ok_or(CloneError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use std::fs;

    #[test]
    fn what_seems_to_be_a_repository() {
        let temp = TempDir::new();
        let deep = temp.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        // The machine that this runs on may keep its temporary files in one.
        if seems_to_be_in_a_repository(temp.path()) {
            return;
        }
        assert!(!seems_to_be_in_a_repository(&deep));
        fs::write(temp.path().join("a/.git"), "gitdir: /x").unwrap();
        assert!(seems_to_be_in_a_repository(&deep) && !seems_to_be_in_a_repository(temp.path()));
        let bare = temp.path().join("bare");
        fs::create_dir_all(bare.join("objects")).unwrap();
        fs::create_dir_all(bare.join("refs")).unwrap();
        assert!(!seems_to_be_in_a_repository(&bare));
        fs::write(bare.join("HEAD"), "ref: refs/heads/main").unwrap();
        assert!(seems_to_be_in_a_repository(&bare));
    }
}
