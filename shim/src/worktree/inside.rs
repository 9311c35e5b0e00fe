//! Git, run inside as the agent's user. All that it says is the agent's word.

use std::time::{Duration, Instant};

use agent_protocol::{exit::How, failure::FailureKind, message::ExecRequest};

use super::{Branch, FOLDER, WorktreeError};
use crate::{
    client::{
        ConnectionError,
        capture::{Captured, capture, command},
    },
    isolation::plan::WORKSPACE,
    sandbox::endpoint::Endpoint,
};

/// For a worktree to be made or removed: all its files are written.
const WORKTREE_WITHIN: Duration = Duration::from_mins(10);

/// For a question to git.
const QUESTION_WITHIN: Duration = Duration::from_secs(30);

/// For init to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Longest answer of git's, bytes. Only the list of changed files grows, and there the first ones are enough.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Writes [`FOLDER`] into the repository's own list of what is not shown as untracked. It is a courtesy: where it fails the
/// worktrees are seen.
const EXCLUDE: &str = "f=$(git rev-parse --git-path info/exclude) && mkdir -p \"${f%/*}\" && \
    { grep -qxF \"/$1/\" \"$f\" 2>/dev/null || printf '\\n/%s/\\n' \"$1\" >>\"$f\"; }";

/// What is in the place of a worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The worktree, and what it has checked out; nothing where that is no branch.
    Here(Option<String>),
    /// Nothing.
    Missing,
    /// Something else: a folder or a link that is not that worktree.
    Replaced,
    /// It cannot be told, as without git.
    Unknown,
}

/// The repository inside one sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inside<'a> {
    pub(super) endpoint: &'a Endpoint,
}

impl Inside<'_> {
    /// Whether the workspace is a repository.
    pub(super) fn require_repository(self) -> Result<(), WorktreeError> {
        let asked = self.git(WORKSPACE, &["rev-parse", "--show-toplevel"], QUESTION_WITHIN)?;
        if succeeded(&asked) {
            return Ok(());
        }
        Err(WorktreeError::NoRepository(WorktreeError::said(&asked.errors)))
    }

    /// Whether a branch is there.
    pub(super) fn has_branch(self, branch: &Branch) -> Result<bool, WorktreeError> {
        let full = format!("refs/heads/{branch}");
        let asked =
            self.git(WORKSPACE, &["show-ref", "--verify", "--quiet", "--", &full], QUESTION_WITHIN)?;
        Ok(succeeded(&asked))
    }

    /// Makes a worktree, and the branch where it is to be a new one.
    pub(super) fn add(self, branch: &Branch, create: bool) -> Result<(), WorktreeError> {
        // Whoever has no shell sees them.
        drop(self.run(WORKSPACE, &["sh", "-c", EXCLUDE, "sh", FOLDER], QUESTION_WITHIN));
        let path = branch.path();
        let name = branch.as_str();
        let arguments: &[&str] = if create {
            &["worktree", "add", "--quiet", "-b", name, "--", &path, "HEAD"]
        } else {
            &["worktree", "add", "--quiet", "--", &path, name]
        };
        let made = self.git(WORKSPACE, arguments, WORKTREE_WITHIN)?;
        if succeeded(&made) {
            return Ok(());
        }
        let said = WorktreeError::said(&made.errors);
        if said.contains("already") {
            return Err(WorktreeError::InUse(said));
        }
        Err(WorktreeError::Git { doing: "`git worktree add`", said })
    }

    /// Keeps a git that cannot see the folder, as that of the host, from taking the worktree for one that is gone.
    pub(super) fn keep(self, branch: &Branch) -> Result<(), WorktreeError> {
        let reason = "in use in a sandbox of agent-shim";
        let path = branch.path();
        self.git(WORKSPACE, &["worktree", "lock", "--reason", reason, "--", &path], QUESTION_WITHIN).map(drop)
    }

    /// Removes a worktree, with all that is in its place if that is wanted.
    pub(super) fn remove(self, branch: &Branch, force: bool) -> Result<(), WorktreeError> {
        let path = branch.path();
        // It is an error where it is not locked, and that is no matter.
        self.git(WORKSPACE, &["worktree", "unlock", "--", &path], QUESTION_WITHIN)?;
        let mut arguments = vec!["worktree", "remove"];
        arguments.extend(force.then_some("--force"));
        arguments.extend(["--", &path]);
        let removed = self.git(WORKSPACE, &arguments, WORKTREE_WITHIN)?;
        if !succeeded(&removed) {
            let is_gone = self.look(branch)? == Place::Missing;
            if !force && !is_gone {
                let said = WorktreeError::said(&removed.errors);
                return Err(WorktreeError::Git { doing: "`git worktree remove`", said });
            }
            if !is_gone {
                let cleared = self.run(WORKSPACE, &["rm", "-rf", "--", &path], WORKTREE_WITHIN)?;
                if !succeeded(&cleared) {
                    let said = WorktreeError::said(&cleared.errors);
                    return Err(WorktreeError::Git { doing: "removing its folder", said });
                }
            }
            // What git knew of it; where there is no repository any more it knows nothing.
            self.git(WORKSPACE, &["worktree", "prune"], QUESTION_WITHIN)?;
        }
        self.remove_parents(branch);
        Ok(())
    }

    /// Removes the folders that a branch with slashes has left empty. Those that are not, and where there is no such
    /// program, stay.
    fn remove_parents(self, branch: &Branch) {
        if let Some((parents, _)) = branch.as_str().rsplit_once('/') {
            let folder = format!("{WORKSPACE}/{FOLDER}");
            drop(self.run(&folder, &["rmdir", "-p", "--", parents], QUESTION_WITHIN));
        }
    }

    /// Whether removing it would lose nothing.
    pub(super) fn require_saved(self, branch: &Branch) -> Result<(), WorktreeError> {
        let path = branch.path();
        match self.look(branch)? {
            Place::Missing => return Ok(()),
            Place::Here(_) => {}
            Place::Replaced | Place::Unknown => return Err(WorktreeError::Replaced(path)),
        }
        let status =
            ["status", "--porcelain=v1", "-z", "--untracked-files=normal", "--ignore-submodules=none"];
        let changes = match self.git(&path, &status, QUESTION_WITHIN) {
            Ok(asked) if succeeded(&asked) => asked.output,
            Ok(asked) => {
                let said = WorktreeError::said(&asked.errors);
                return Err(WorktreeError::Git { doing: "`git status`", said });
            }
            Err(WorktreeError::Connection(ConnectionError::Unexpected { .. })) => {
                return Err(WorktreeError::Dirty("more than can be counted".to_owned()));
            }
            Err(error) => return Err(error),
        };
        let changed = changes.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).count();
        if changed > 0 {
            let files = if changed == 1 { "1 file".to_owned() } else { format!("{changed} files") };
            return Err(WorktreeError::Dirty(files));
        }
        let lost = ["rev-list", "-n", "1", "HEAD", "--not", "--branches", "--tags", "--remotes"];
        let lost = self.git(&path, &lost, QUESTION_WITHIN)?;
        // Without any commit there is none to lose.
        if succeeded(&lost) && !lost.output.trim_ascii().is_empty() {
            return Err(WorktreeError::Unreachable);
        }
        Ok(())
    }

    /// What is in the place of a worktree.
    pub(super) fn look(self, branch: &Branch) -> Result<Place, WorktreeError> {
        self.look_at(&branch.path())
    }

    /// The same for the workspace itself.
    pub(super) fn look_at_workspace(self) -> Result<Place, WorktreeError> {
        self.look_at(WORKSPACE)
    }

    fn look_at(self, path: &str) -> Result<Place, WorktreeError> {
        let missing = |error: &WorktreeError| {
            let WorktreeError::Connection(ConnectionError::Refused(failure)) = error else { return false };
            failure.kind == FailureKind::BadDirectory
        };
        let top = match self.git(path, &["rev-parse", "--show-toplevel"], QUESTION_WITHIN) {
            Ok(top) if succeeded(&top) => top.output,
            Ok(_) => return Ok(Place::Replaced),
            Err(error) if missing(&error) => return Ok(Place::Missing),
            Err(error) => return Err(error),
        };
        // A folder that was made anew belongs to the worktree around it, and a link to what it leads to.
        if top.strip_suffix(b"\n").unwrap_or(&top) != path.as_bytes() {
            return Ok(Place::Replaced);
        }
        let head = self.git(path, &["symbolic-ref", "--quiet", "--short", "HEAD"], QUESTION_WITHIN)?;
        let name = || String::from_utf8_lossy(head.output.trim_ascii()).into_owned();
        Ok(Place::Here(succeeded(&head).then(name)))
    }

    /// Takes a branch back that was made a moment ago.
    pub(super) fn forget_branch(self, branch: &Branch) {
        drop(self.git(WORKSPACE, &["branch", "--quiet", "-D", "--", branch.as_str()], QUESTION_WITHIN));
    }

    fn git(self, folder: &str, arguments: &[&str], within: Duration) -> Result<Captured, WorktreeError> {
        let argv: Vec<&str> = [&["git"], arguments].concat();
        self.run(folder, &argv, within).map_err(|error| match error {
            WorktreeError::Connection(ConnectionError::Refused(failure))
                if failure.kind == FailureKind::NotFound =>
            {
                WorktreeError::NoGit
            }
            other => other,
        })
    }

    fn run(self, folder: &str, argv: &[&str], within: Duration) -> Result<Captured, WorktreeError> {
        let connection = self.endpoint.connect(Instant::now() + CONNECT_WITHIN)?;
        // Words that we look for, and nobody who would be asked.
        let env = [("LC_ALL", "C"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_OPTIONAL_LOCKS", "0")];
        let request = ExecRequest {
            env: env.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).to_vec(),
            directory: Some(folder.as_bytes().to_vec()),
            timeout_ms: Some(u64::try_from(within.as_millis()).unwrap_or(u64::MAX)),
            ..command(argv.iter().copied())
        };
        Ok(capture(connection, request, MAX_ANSWER_BYTES, Instant::now() + within + CONNECT_WITHIN)?)
    }
}

fn succeeded(captured: &Captured) -> bool {
    captured.exit.how == How::Code(0)
}
